"""Frames by PyAV: in the order in which they are shown, the same by any way of getting there, or a reject in words."""

from __future__ import annotations

import io
import json
import struct
import warnings
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
import pytest
from PIL import Image

from vlm_prep.core.errors import Reject
from vlm_prep.core.records import Media
from vlm_prep.core.settings import ProcessorConfig, TokenizeConfig
from vlm_prep.core.stored_media import store_media
from vlm_prep.ingest.source import open_samples
from vlm_prep.media.decode import load_media
from vlm_prep.media.ffmpeg import decoders
from vlm_prep.media.frames_pyav import keyframes, read_by_pyav
from vlm_prep.media.probe import probe
from vlm_prep.media.video import probe_video, read_frames
from vlm_prep.processors.frames import choose_frames
from vlm_prep.processors.payload.pixels import PixelMaker
from vlm_prep.shards.reader import Store
from vlm_prep.tokenize.tokenize_run import tokenize

WIDTH, HEIGHT = 64, 48


def picture(number: int) -> np.ndarray:
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[:, : 1 + number % WIDTH] = (5 * number % 256, 255 - 5 * number % 256, 99)
    pixels[:10, :10] = 255
    return pixels


def written(
    path: Path, frames: int = 40, *, stamps: Sequence[int] | None = None, rate: int = 10, **options: str
) -> Path:
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=rate, options={"bf": "3", "g": "12", **options})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            frame.pts, frame.time_base = number if stamps is None else stamps[number], Fraction(1, rate)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def with_another_size(path: Path) -> Path:
    """A video of pictures, of which the third is narrower."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuvj420p"
        for number in range(4):
            data = io.BytesIO()
            Image.new("RGB", (WIDTH // (1 + (number == 2)), HEIGHT)).save(data, "JPEG")
            packet = av.Packet(data.getvalue())
            packet.stream, packet.pts, packet.dts, packet.is_keyframe = stream, number, number, True
            file.mux(packet)
    return path


def test_decoding_all_frames_finds_one_of_another_size(tmp_path: Path) -> None:
    path = str(with_another_size(tmp_path / "a.avi"))
    assert probe_video(path, "a").total_frames == 4
    for look in (lambda: probe_video(path, "a", decode=True), lambda: read_frames(path, range(4), "a")):
        with pytest.raises(Reject, match="its frames change their size"):
            look()


def in_order(path: Path) -> np.ndarray:
    with av.open(str(path)) as file:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])


def patched(path: Path, box: bytes, offset: int, content: bytes) -> Path:
    data = bytearray(path.read_bytes())
    start = data.index(box) + offset
    data[start : start + len(content)] = content
    path.write_bytes(data)
    return path


def turned(path: Path, a: int, b: int, c: int, d: int) -> Path:
    one = 1 << 16
    matrix = struct.pack(">9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
    return patched(path, b"tkhd", 44, matrix)


def message(source: Path) -> str:
    with pytest.raises(Reject) as caught:
        probe(Media(kind="video", uris=(str(source),)), decode=True)
    assert caught.value.reason.value == "unreadable_video"
    text = caught.value.message
    assert ".cc" not in text and "0x" not in text and "/proc/self" not in text
    return text


@pytest.mark.parametrize("wanted", [[0], [39], [38, 1, 20], [13, 14, 15], [39, 39, 0], list(range(40))])
@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".avi", ".ts"])
def test_frames_are_those_of_a_decode_in_order(tmp_path: Path, ending: str, wanted: list[int]) -> None:
    path = written(tmp_path / f"a{ending}")
    every = in_order(path)
    assert len(every) == probe_video(str(path), "a").total_frames == 40
    for source in (str(path), path.read_bytes()):
        np.testing.assert_array_equal(read_by_pyav(source, wanted, "a"), every[wanted])


def test_all_videos_of_the_kit_give_the_same_frame_alone_and_in_order(kit: Path) -> None:
    for path in sorted((kit / "data" / "videos").glob("*.mp4")):
        total = probe_video(str(path), "a").total_frames or 0
        wanted = sorted({0, 1, total // 2, total - 2, total - 1})
        together = read_by_pyav(str(path), wanted, "a")
        for number, frame in zip(wanted, together, strict=True):
            np.testing.assert_array_equal(read_by_pyav(str(path), [number], "a")[0], frame)


def test_frames_that_an_edit_list_cuts_off_are_not_counted(tmp_path: Path) -> None:
    path = written(tmp_path / "a.mp4")
    data = path.read_bytes()
    (begin,) = struct.unpack_from(">i", data, data.index(b"elst") + 16)
    with av.open(str(path)) as file:
        half = int(Fraction(1, 2) / file.streams.video[0].time_base)
    patched(path, b"elst", 16, struct.pack(">i", begin + half))
    every = in_order(path)
    assert probe_video(str(path), "a").total_frames == len(every) == 35
    np.testing.assert_array_equal(read_by_pyav(str(path), [0, 34, 17], "a"), every[[0, 34, 17]])


@pytest.mark.parametrize(("matrix", "turns"), [((0, 1, -1, 0), -1), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 1)])
def test_a_turned_video_is_upright(tmp_path: Path, matrix: tuple[int, int, int, int], turns: int) -> None:
    plain = in_order(written(tmp_path / "a.mp4"))
    path = turned(tmp_path / "a.mp4", *matrix)
    header = probe_video(str(path), "a")
    upright = np.rot90(plain[7], turns)
    assert (header.height, header.width) == upright.shape[:2]
    np.testing.assert_array_equal(read_by_pyav(str(path), [7], "a")[0], upright)


@pytest.mark.parametrize(
    ("matrix", "turns"), [((-1, 0, 0, 1), 2), ((1, 0, 0, -1), 0), ((0, 1, 1, 0), -1), ((0, -1, -1, 0), 1)]
)
def test_a_mirrored_video_is_turned_as_ffmpeg_says_and_counted(
    tmp_path: Path, matrix: tuple[int, int, int, int], turns: int
) -> None:
    plain = in_order(written(tmp_path / "a.mp4"))
    path = turned(tmp_path / "a.mp4", *matrix)
    media, _ = probe(Media(kind="video", uris=(str(path),)))
    assert media.notes == ("mirrored_videos",)
    np.testing.assert_array_equal(read_by_pyav(str(path), [7], "a")[0], np.rot90(plain[7], turns))


def test_a_turned_video_is_not_mirrored(tmp_path: Path) -> None:
    for number, matrix in enumerate([(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)]):
        path = turned(written(tmp_path / f"{number}.mp4"), *matrix)
        assert probe(Media(kind="video", uris=(str(path),)))[0].notes == ()


def test_a_frame_whose_bytes_are_not_all_there_is_told_without_wrong_counts(tmp_path: Path) -> None:
    path = written(tmp_path / "a.ts")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 3] + bytes(188 * 4) + data[len(data) // 3 + 188 * 4 :])
    assert " of the " not in message(path)


def test_times_are_stored_where_the_rate_varies(tmp_path: Path) -> None:
    stamps = [0, 1, 2, 3, 20, 21, 22, 60]
    header = probe_video(str(written(tmp_path / "a.mp4", 8, stamps=stamps)), "a")
    assert header.times == pytest.approx([stamp / 10 for stamp in stamps])
    assert probe_video(str(written(tmp_path / "b.mp4", 8)), "b").times is None


def test_the_kits_variable_rate_has_its_own_times(kit: Path) -> None:
    media, _ = probe(Media(kind="video", uris=(str(kit / "cases" / "05-vfr-video" / "media" / "vfr.mp4"),)))
    assert media.header is not None and media.header.times is not None
    assert media.notes == ("variable_frame_rate",)
    assert len(media.header.times) == media.header.total_frames == 30
    assert media.header.fps == 30 / 12, "frames by seconds, as torchcodec has it, and not the container's 2.17"


def test_a_rate_by_which_no_frame_is_shown_is_not_believed(kit: Path) -> None:
    # its container states 25, its frames are shown at 29.97
    header = probe_video(str(kit / "data" / "videos" / "nasa_13013.mp4"), "nasa")
    assert header.fps == pytest.approx(30_000 / 1001) and header.times is None


def test_the_best_picture_track_is_taken_and_not_a_cover(tmp_path: Path, kit: Path) -> None:
    audio = kit / "cases" / "06-few-frames" / "media" / "audio_only.mp4"
    assert "no video in it" in message(audio)


@pytest.mark.parametrize("middle", [0.4, 0.5, 0.6])
def test_damage_in_the_middle_is_found_by_decoding(tmp_path: Path, middle: float) -> None:
    path = written(tmp_path / "a.mp4", 60, crf="1")
    data = bytearray(path.read_bytes())
    start = int(len(data) * middle)
    data[start : start + 400] = bytes(range(200)) * 2
    path.write_bytes(data)
    probe(Media(kind="video", uris=(str(path),)))
    message(path)


@pytest.mark.parametrize("kept", [0.3, 0.5, 0.9, 0.99])
def test_a_cut_file_whose_header_came_first_is_rejected(tmp_path: Path, kept: float) -> None:
    path = tmp_path / "a.mp4"
    written(path)
    with (
        av.open(str(path)) as source,
        av.open(str(tmp_path / "b.mp4"), "w", options={"movflags": "faststart"}) as target,
    ):
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    data = (tmp_path / "b.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    (tmp_path / "b.mp4").write_bytes(data[: int(len(data) * kept)])
    assert "cut short" in message(tmp_path / "b.mp4")


def test_key_frames_are_those_that_the_file_marks(tmp_path: Path) -> None:
    path = written(tmp_path / "a.mp4", 40, g="12", sc_threshold="0")
    with av.open(str(path)) as file:
        marked = [number for number, frame in enumerate(file.decode(video=0)) if frame.key_frame]
    assert keyframes(str(path), "a") == tuple(marked) and len(marked) == 4
    config = ProcessorConfig(video_sampling="keyframes")
    whole, _ = probe(Media(kind="video", uris=(str(path),)))
    part, _ = probe(Media(kind="video", uris=(str(path),), start=1.0, end=3.0))
    assert whole.header and choose_frames(None, whole, whole.header, {}, config) == tuple(marked)
    assert part.header and choose_frames(None, part, part.header, {}, config) == (2, 14)


# --- animations -----


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_an_animation_is_a_video_by_its_content(tmp_path: Path, kind: str) -> None:
    frames = [Image.fromarray(picture(8 * number)) for number in range(5)]
    path = tmp_path / "a.mp4"
    shown = [100, 100, 300, 100, 100]
    more = {"lossless": True} if kind == "WEBP" else {}
    frames[0].save(path, kind, save_all=True, append_images=frames[1:], duration=shown, **more)
    header = probe_video(str(path), "a")
    assert (header.total_frames, header.decoder) == (5, "pillow")
    assert header.fps == pytest.approx(5 / 0.7) and header.times == pytest.approx([0, 0.1, 0.2, 0.5, 0.6])
    read = read_frames(path.read_bytes(), [4, 0], "a", header.decoder)
    if kind != "GIF":
        np.testing.assert_array_equal(read, np.stack([picture(32), picture(0)]))


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp"])
def test_one_picture_is_no_video(tmp_path: Path, name: str) -> None:
    Image.fromarray(picture(3)).save(tmp_path / name)
    assert "one picture" in message(tmp_path / name)


@pytest.mark.parametrize("kind", ["image", "video", "audio"])
def test_text_in_place_of_media_is_quoted(tmp_path: Path, kind: Literal["image", "video", "audio"]) -> None:
    path = tmp_path / "a.mp4"
    path.write_text("version https://git-lfs.github.com/spec/v1\nsize 1234\n")
    with pytest.raises(Reject, match=r"it is a pointer of Git LFS: `git lfs pull`"):
        probe(Media(kind=kind, uris=(str(path),)))


# --- parts -----


def stored(media: Media, data: tuple[bytes, ...] | None, indices: tuple[int, ...]) -> dict[str, object]:
    header = media.header
    assert header is not None
    return store_media(media, data, frame_indices=indices, fps=header.fps)


@pytest.mark.parametrize("keep", [False, True], ids=["reference", "encoded"])
@pytest.mark.parametrize(
    ("start", "end", "first", "last"),
    [
        (None, 2.0, 0, 19),
        (1.0, 2.0, 10, 19),
        (0.3, 0.7, 3, 6),
        (1.05, 1.95, 11, 19),
        (3.5, None, 35, 39),
        (0, 4, 0, 39),
    ],
)
def test_a_part_of_a_video_is_its_frames_from_start_until_end(
    tmp_path: Path, keep: bool, start: float | None, end: float | None, first: int, last: int
) -> None:
    path = written(tmp_path / "a.mp4")
    media, data = probe(Media(kind="video", uris=(str(path),), start=start, end=end), keep_bytes=keep)
    assert media.header is not None and media.header.total_frames == last - first + 1
    frames = load_media(stored(media, data, (0, last - first)))
    np.testing.assert_array_equal(frames, in_order(path)[[first, last]])


@pytest.mark.parametrize(("start", "end"), [(1.0, 9.0), (4.5, None), (1.01, 1.02)])
def test_a_part_that_is_not_in_the_video_is_rejected(tmp_path: Path, start: float, end: float | None) -> None:
    path = written(tmp_path / "a.mp4")
    with pytest.raises(Reject) as caught:
        probe(Media(kind="video", uris=(str(path),), start=start, end=end))
    assert caught.value.reason.value == "bad_media_entry"


def test_a_reader_with_another_decoder_is_told_once(tmp_path: Path, options: Any) -> None:
    turns = [{"role": "user", "content": "<video>?"}, {"role": "assistant", "content": "ok"}]
    clip = str(written(tmp_path / "a.mp4", 8))
    (tmp_path / "rows.jsonl").write_text(json.dumps({"messages": turns, "videos": [clip]}))
    samples = open_samples(tmp_path / "rows.jsonl")
    manifest = tokenize(samples, "builtin:qwen2.5-vl-mini", TokenizeConfig(), options(tmp_path / "out"))
    media = Store(tmp_path / "out").row(0)["media"]
    assert manifest is not None and manifest.processor["decoders"] == decoders()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        PixelMaker(manifest.processor).pixels(media)
    maker = PixelMaker({**manifest.processor, "decoders": {"pyav": "1.0", "libavcodec": "1.2.3"}})
    with pytest.warns(UserWarning, match="another decoder") as told:
        maker.pixels(media)
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        maker.pixels(media)
