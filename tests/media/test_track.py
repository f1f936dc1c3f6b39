"""The sound of video files: counted as it is read, and read as it was written."""

from __future__ import annotations

import sys
from pathlib import Path

import av
import numpy as np
import pytest

from vlm_prep.core.errors import InputError, Reject
from vlm_prep.core.records import Media
from vlm_prep.media.audio import resampled_length
from vlm_prep.media.decode import load_track
from vlm_prep.media.probe import SOUND_OFFSET, probe
from vlm_prep.media.rules import MediaRules
from vlm_prep.media.track import probe_track, read_track, sound_offset

WITH_SOUND = ("big_buck_bunny_small.mp4", "chaplin.mp4", "flipping_a_pancake.mkv", "big_buck_bunny_432_433.webm")


def write_video(
    path: Path,
    sound: np.ndarray,
    rate: int,
    codec: str = "pcm_s16le",
    starts: tuple[int, int] = (0, 0),
    frames: int = 3,
) -> Path:
    """A video of grey pictures, ten a second, with int16 sound (samples, channels); `starts`: in pictures, samples."""
    with av.open(str(path), "w") as container:
        pictures = container.add_stream("mpeg4", rate=10)
        pictures.width, pictures.height, pictures.pix_fmt = 64, 48, "yuv420p"
        layout = "mono" if sound.shape[1] == 1 else "stereo"
        track = container.add_stream(codec, rate=rate, layout=layout)
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 90, np.uint8), format="rgb24")
            frame.pts = starts[0] + number
            container.mux(pictures.encode(frame))
        container.mux(pictures.encode(None))
        for start in range(0, len(sound), 1000):
            piece = np.ascontiguousarray(sound[start : start + 1000]).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(piece, format="s16", layout=layout)
            frame.sample_rate, frame.pts = rate, starts[1] + start
            container.mux(track.encode(frame))
        container.mux(track.encode(None))
    return path


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("codec", ["pcm_s16le", "flac"])
def test_sound_is_read_as_it_was_written(tmp_path: Path, channels: int, codec: str) -> None:
    sound = np.random.default_rng(channels).integers(-30_000, 30_000, (12_345, channels)).astype(np.int16)
    path = str(write_video(tmp_path / "clip.mkv", sound, 16_000, codec))
    wanted = (sound.astype(np.float32) / 32_768).mean(axis=1, dtype=np.float32)
    for source in (path, Path(path).read_bytes()):
        assert probe_track(source, path) == (12_345, 16_000)
        wave = read_track(source, 16_000, path)
        assert wave.dtype == np.float32
        np.testing.assert_array_equal(wave, wanted)


@pytest.mark.parametrize("name", WITH_SOUND)
def test_the_samples_counted_are_those_read(kit: Path, name: str) -> None:
    path = str(kit / "data" / "videos" / name)
    with av.open(path) as container:
        decoded = [(frame.samples, frame.sample_rate) for frame in container.decode(audio=0)]
    found = probe_track(path, name)
    assert found == (sum(samples for samples, _ in decoded), decoded[0][1])
    for rate in (16_000, 44_100):
        wave = read_track(path, rate, name)
        assert len(wave) == resampled_length(*found, rate)
        assert np.isfinite(wave).all() and 0.01 < np.abs(wave).max() <= 1.5


def test_a_header_has_the_track_where_it_is_asked_for(kit: Path) -> None:
    media = Media(kind="video", uris=(str(kit / "data" / "videos" / "chaplin.mp4"),))
    plain, asked = probe(media)[0].header, probe(media, track=True)[0].header
    assert plain is not None and plain.samples is None and plain.sampling_rate is None
    assert asked is not None and (asked.samples, asked.sampling_rate) == (423_983, 44_100)
    assert probe(media, track=True, keep_bytes=True)[0].header.samples == 423_983  # type: ignore[union-attr]


def test_a_video_without_sound_has_no_track(kit: Path) -> None:
    path = str(kit / "data" / "videos" / "bikes.mp4")
    assert probe_track(path, "bikes") is None
    header = probe(Media(kind="video", uris=(path,)), track=True)[0].header
    assert header is not None and header.samples is None
    with pytest.raises(Reject, match="bikes: has no audio track"):
        read_track(path, 16_000, "bikes")


def test_a_damaged_file_is_a_reject(kit: Path, tmp_path: Path) -> None:
    data = (kit / "data" / "videos" / "chaplin.mp4").read_bytes()
    with pytest.raises(Reject, match="cut: its audio track") as error:
        probe_track(data[: len(data) // 2], "cut")
    assert error.value.reason == "unreadable_audio"
    with pytest.raises(Reject, match="its audio track"):
        probe_track(b"no video", "text")


def test_a_track_of_a_changed_file_is_a_reject(tmp_path: Path) -> None:
    sound = np.zeros((4_000, 1), np.int16)
    path = write_video(tmp_path / "clip.mkv", sound, 16_000)
    media, _ = probe(Media(kind="video", uris=(str(path),)), track=True)
    assert media.header is not None
    struct = {"files": [{"uri": str(path), "digest": media.header.digests[0], "bytes": None}]}
    assert len(load_track(struct, rate=8_000)) == 2_000
    write_video(path, sound[:3_000], 16_000)
    with pytest.raises(Reject, match="was changed after"):
        load_track(struct, rate=8_000)


def test_without_pyav_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(InputError, match="needs PyAV") as error:
        probe_track(b"", "clip")
    assert "pip install av" in str(error.value.hint)


# ---- sound that does not start with the pictures ----


@pytest.mark.parametrize(
    ("starts", "offset"), [((0, 0), 0.0), ((0, 8_000), 0.5), ((5, 0), -0.5), ((5, 8_000), 0.0), ((0, 800), 0.05)]
)
def test_sound_is_noted_and_shifted_by_what_time_stamps_say(
    tmp_path: Path, starts: tuple[int, int], offset: float
) -> None:
    sound = np.random.default_rng(0).integers(-30_000, 30_000, (16_000, 1)).astype(np.int16)
    path = str(write_video(tmp_path / "clip.mkv", sound, 16_000, starts=starts, frames=10))
    assert sound_offset(path, path) == pytest.approx(offset, abs=1e-3)
    media = Media(kind="video", uris=(path,))
    ignored, _ = probe(media, track=True)
    kept, _ = probe(media, track=True, rules=MediaRules(sound_offset="keep"))
    assert ignored.header is not None and kept.header is not None
    assert ignored.header.samples == 16_000
    assert kept.header.samples == 16_000 + round(offset * 16_000)
    noted = (SOUND_OFFSET,) if abs(offset) > 0.1 else ()
    assert ignored.notes == kept.notes == noted

    struct = {"files": [{"uri": path, "digest": kept.header.digests[0], "bytes": None}]}
    plain, shifted = (load_track(struct, rate=16_000, shifted=each) for each in (False, True))
    assert len(shifted) == kept.header.samples
    shift = round(offset * 16_000)
    np.testing.assert_array_equal(shifted[max(shift, 0) :], plain[max(-shift, 0) :])
    assert not shifted[: max(shift, 0)].any()


def test_sound_after_the_last_picture_is_a_reject_only_where_it_would_be_shifted_there(tmp_path: Path) -> None:
    path = str(write_video(tmp_path / "clip.mkv", np.ones((1_000, 1), np.int16), 16_000, starts=(0, 16_000)))
    media = Media(kind="video", uris=(path,))
    assert probe(media, track=True)[0].notes == (SOUND_OFFSET,)
    with pytest.raises(Reject, match=r"starts 1\.00 s after its first picture, which is after its last"):
        probe(media, track=True, rules=MediaRules(sound_offset="keep"))
