"""Videos and lists of frames: headers, frames by index, damage, and files that changed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import decord
import numpy as np
import pytest
from PIL import Image

from vlm_prep.core.errors import Reject
from vlm_prep.core.media_settings import VideoDecoder
from vlm_prep.core.records import Media
from vlm_prep.core.stored_media import store_media
from vlm_prep.media.decode import load_media
from vlm_prep.media.probe import probe
from vlm_prep.media.video import probe_video, read_frames

CLIPS = ["carphone_pristine.mp4", "bikes.mp4", "h265_video.mp4", "transparent.webm", "flipping_a_pancake.mkv"]


def video_files(kit: Path) -> list[Path]:
    demo = (kit / "data" / "llamafactory" / "mllm_demo_data").iterdir()
    return sorted([*(kit / "data" / "videos").iterdir(), *(path for path in demo if path.suffix in (".mp4", ".avi"))])


def reason(media: Media, **options: bool) -> str:
    with pytest.raises(Reject) as caught:
        probe(media, **options)  # type: ignore[arg-type]
    return caught.value.reason.value


def frame_list(*paths: Path) -> Media:
    return Media(kind="video", uris=tuple(str(path) for path in paths), frame_list=True, fps=2.0)


# --- headers and frames -----


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
def test_every_video_of_the_kit_has_the_header_that_decord_reads(kit: Path, decoder: VideoDecoder) -> None:
    files = video_files(kit)
    assert len(files) == 20
    for path in files:
        header = probe_video(str(path), path.name, decoder=decoder)
        assert header.decoder == decoder and header.times is None
        reader = decord.VideoReader(str(path))
        expected = (*reader[0].shape[:2], len(reader), reader.get_avg_fps())
        assert (header.height, header.width, header.total_frames, header.fps) == expected, path.name


@pytest.mark.parametrize("name", [*(f"videos/{name}" for name in CLIPS), "llamafactory/mllm_demo_data/2.avi"])
@pytest.mark.parametrize("as_bytes", [False, True], ids=["path", "bytes"])
def test_frames_by_index_are_those_of_the_whole_video(kit: Path, name: str, as_bytes: bool) -> None:
    path = kit / "data" / name
    total = probe_video(str(path), name).total_frames or 0
    indices = [total - 1, 0, total // 3, total // 3, total // 2]
    every = decord.VideoReader(str(path)).get_batch(range(total)).asnumpy()
    for decoder in ("pyav", "decord"):
        frames = read_frames(path.read_bytes() if as_bytes else str(path), indices, name, decoder)
        np.testing.assert_array_equal(frames, every[indices])


# --- damage -----


@pytest.mark.parametrize("name", [*(f"videos/{name}" for name in CLIPS), "llamafactory/mllm_demo_data/2.avi"])
@pytest.mark.parametrize("keep", [False, True], ids=["reference", "encoded"])
def test_a_cut_video_is_unreadable(kit: Path, tmp_path: Path, name: str, keep: bool) -> None:
    data = (kit / "data" / name).read_bytes()
    path = tmp_path / Path(name).name
    for tenth in range(10):
        path.write_bytes(data[: 1 + len(data) * tenth // 10])
        assert reason(Media(kind="video", uris=(str(path),)), keep_bytes=keep) == "unreadable_video", tenth


def test_a_cut_avi_in_memory_does_not_end_the_process(kit: Path, tmp_path: Path) -> None:
    """Decord 0.6 given the bytes themselves does."""
    data = (kit / "data" / "llamafactory" / "mllm_demo_data" / "2.avi").read_bytes()
    (tmp_path / "cut.avi").write_bytes(data[: len(data) // 2])
    script = (
        "import sys\nfrom pathlib import Path\nfrom vlm_prep.core.errors import Reject\n"
        "from vlm_prep.media.video import read_frames\n"
        "try:\n    read_frames(Path(sys.argv[1]).read_bytes(), [0, 260], 'cut')\n"
        "except Reject as reject:\n    print(reject.reason.value)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "cut.avi")], capture_output=True, text=True, timeout=60
    )
    assert (result.returncode, result.stdout.strip().splitlines()[-1:]) == (0, ["unreadable_video"])


@pytest.mark.parametrize("content", [b"this is a text file, not a video" * 100, b"\0" * 5000, b"x"])
def test_other_bytes_are_no_video(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    assert reason(Media(kind="video", uris=(str(path),))) == "unreadable_video"


@pytest.mark.parametrize("keep", [False, True], ids=["reference", "encoded"])
def test_a_missing_or_empty_video_says_so(tmp_path: Path, keep: bool) -> None:
    (tmp_path / "empty.mp4").touch()
    assert reason(Media(kind="video", uris=(str(tmp_path / "empty.mp4"),)), keep_bytes=keep) == "empty_file"
    assert reason(Media(kind="video", uris=(str(tmp_path / "no.mp4"),)), keep_bytes=keep) == "missing_file"


# --- lists of frames -----


def test_frames_of_different_sizes_are_no_video(kit: Path) -> None:
    images = kit / "data" / "images"
    assert reason(frame_list(images / "china.jpg", images / "coffee.png")) == "bad_media_entry"


def test_frames_turned_by_exif_have_their_upright_size(kit: Path) -> None:
    images = kit / "data" / "images"
    media, _ = probe(frame_list(images / "china.jpg", images / "china_exif6.jpg"))
    assert media.header is not None
    assert (media.header.height, media.header.width, media.header.total_frames) == (427, 640, 2)


def test_an_empty_list_of_frames_is_no_video() -> None:
    assert reason(frame_list()) == "bad_media_entry"


def test_one_damaged_frame_rejects_the_list(kit: Path, tmp_path: Path) -> None:
    whole = kit / "data" / "images" / "pillow" / "hopper.jpg"
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(whole.read_bytes()[:-500])
    assert reason(frame_list(whole, cut)) == "truncated_image"


# --- stored media -----


def stored(media: Media, *, keep: bool, indices: tuple[int, ...] | None = None) -> dict[str, object]:
    found, data = probe(media, keep_bytes=keep)
    header = found.header
    assert header is not None
    return store_media(found, data, frame_indices=indices, fps=header.fps)


@pytest.mark.parametrize("keep", [False, True], ids=["reference", "encoded"])
def test_a_stored_video_gives_its_frames(kit: Path, keep: bool) -> None:
    path = kit / "data" / "videos" / "h265_video.mp4"
    struct = stored(Media(kind="video", uris=(str(path),)), keep=keep, indices=(1, 4, 9))
    expected = decord.VideoReader(str(path)).get_batch(range(10)).asnumpy()[[1, 4, 9]]
    np.testing.assert_array_equal(load_media(struct), expected)


def test_a_stored_list_gives_its_frames_in_order(kit: Path) -> None:
    images = kit / "data" / "images" / "pillow"
    paths = [images / "hopper.jpg", images / "hopper.png", images / "hopper.bmp"]
    frames = load_media(stored(frame_list(*paths), keep=False, indices=(0, 1, 2, 2)))
    expected = [np.asarray(Image.open(path).convert("RGB")) for path in (*paths, paths[2])]
    np.testing.assert_array_equal(frames, np.stack(expected))


@pytest.mark.parametrize("kind", ["image", "video", "frames"])
def test_a_file_replaced_after_tokenizing_is_noticed(kit: Path, tmp_path: Path, kind: str) -> None:
    data = kit / "data"
    old, new = {
        "image": (data / "images" / "china.jpg", data / "images" / "flower.jpg"),
        "video": (data / "videos" / "carphone_pristine.mp4", data / "videos" / "carphone_distorted.mp4"),
        "frames": (data / "images" / "china.jpg", data / "images" / "flower.jpg"),
    }[kind]
    path = tmp_path / f"media{old.suffix}"
    path.write_bytes(old.read_bytes())
    media = (
        frame_list(path) if kind == "frames" else Media(kind="video" if kind == "video" else "image", uris=(str(path),))
    )
    struct = stored(media, keep=False, indices=None if kind == "image" else (0,))
    load_media(struct)
    path.write_bytes(new.read_bytes())
    with pytest.raises(Reject) as caught:
        load_media(struct)
    assert caught.value.reason.value == "media_changed"


def test_stored_bytes_need_no_file(kit: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes((kit / "data" / "images" / "china.jpg").read_bytes())
    struct = stored(Media(kind="image", uris=(str(path),)), keep=True)
    path.unlink()
    loaded = load_media(struct)
    assert isinstance(loaded, Image.Image)
    assert loaded.size == (640, 427)


@pytest.mark.parametrize("as_bytes", [False, True], ids=["path", "bytes"])
@pytest.mark.parametrize("name", ["list.mp4", "script.mp4", "both.ts"])
def test_decord_opens_no_file_that_a_file_names(tmp_path: Path, name: str, as_bytes: bool) -> None:
    """HLS and concat; a file that is a list to one FFmpeg and MPEG-TS to another. What is named is a pipe: opening it
    would wait for a writer until the alarm."""
    outside = tmp_path / "outside.ts"
    os.mkfifo(outside)
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1.0,\n{outside}\n#EXT-X-ENDLIST\n".encode()
    packets = (b"G\x1f\xff\x10" + bytes(184)) * 40
    content = {
        "list.mp4": playlist,
        "script.mp4": b"ffconcat version 1.0\nfile outside.ts\n",
        "both.ts": playlist.ljust(376, b"\n") + packets,
    }[name]
    path = tmp_path / name
    path.write_bytes(content)
    signal.alarm(10)
    try:
        with pytest.raises(Reject) as found:
            probe_video(content if as_bytes else str(path), name, decoder="decord")
    finally:
        signal.alarm(0)
    assert str(found.value).startswith(f"{name}: a list of other files")
