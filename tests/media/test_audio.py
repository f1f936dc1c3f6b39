"""Audio files: headers equal to what decoding gives, waveforms at a model's rate, damage, bounds of duration."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from vlm_prep.core.errors import Reject
from vlm_prep.core.records import Media
from vlm_prep.core.stored_media import store_media
from vlm_prep.media.audio import probe_audio, read_waveform, resample, resampled_length
from vlm_prep.media.decode import load_media
from vlm_prep.media.probe import probe

KINDS = {
    "8 bit": {"format": "WAV", "subtype": "PCM_U8"},
    "16 bit": {"format": "WAV", "subtype": "PCM_16"},
    "24 bit": {"format": "WAV", "subtype": "PCM_24"},
    "float": {"format": "WAV", "subtype": "FLOAT"},
    "double": {"format": "WAV", "subtype": "DOUBLE"},
    "a-law": {"format": "WAV", "subtype": "ALAW"},
    "aiff": {"format": "AIFF", "subtype": "PCM_16"},
    "flac": {"format": "FLAC", "subtype": "PCM_16"},
    "vorbis": {"format": "OGG", "subtype": "VORBIS"},
    "opus": {"format": "OGG", "subtype": "OPUS"},
    "mp3": {"format": "MP3", "subtype": "MPEG_LAYER_III"},
}
EXACT = ("16 bit", "24 bit", "float", "double", "flac")


def tone(seconds: float, rate: int, channels: int = 1) -> np.ndarray:
    time = np.arange(round(seconds * rate)) / rate
    waves = [0.4 * np.sin(2 * np.pi * (220 * (n + 1)) * time) for n in range(channels)]
    return np.stack(waves, axis=1).astype(np.float32)


def encoded(kind: str, wave: np.ndarray, rate: int) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, wave, rate, **KINDS[kind])
    return file.getvalue()


def audio_files(kit: Path) -> list[Path]:
    endings = (".wav", ".flac", ".mp3", ".ogg", ".opus")
    folders = (kit / "data" / "audio", kit / "data" / "llamafactory")
    return sorted(path for folder in folders for path in folder.rglob("*") if path.suffix in endings)


def reason(data: bytes) -> str:
    with pytest.raises(Reject) as caught:
        probe_audio(data, "a")
    return caught.value.reason.value


# --- headers and waveforms -----


def test_every_audio_file_of_the_kit_has_the_samples_that_decoding_gives(kit: Path) -> None:
    files = audio_files(kit)
    assert len(files) > 100
    for path in files:
        header = probe_audio(path.read_bytes(), str(path))
        wave, rate = soundfile.read(path)
        assert (header.samples, header.sampling_rate) == (len(wave), rate), path


def test_every_audio_file_of_the_kit_has_the_length_at_16000_hz_that_its_header_gives(kit: Path) -> None:
    for path in audio_files(kit):
        header = probe_audio(path.read_bytes(), str(path))
        assert header.samples and header.sampling_rate
        wave = read_waveform(path.read_bytes(), 16000, str(path))
        assert wave.dtype == np.float32 and wave.ndim == 1
        assert len(wave) == resampled_length(header.samples, header.sampling_rate, 16000), path


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_is_probed_and_read(kind: str, channels: int) -> None:
    rate = 48000 if kind == "opus" else 16000
    wave = tone(0.31, rate, channels)
    data = encoded(kind, wave, rate)
    header = probe_audio(data, "a")
    read = read_waveform(data, rate, "a")
    assert (header.samples, header.sampling_rate) == (len(read), rate)
    if kind in EXACT:
        np.testing.assert_allclose(read, wave.mean(axis=1), atol=2e-4 if kind in ("16 bit", "flac") else 1e-6)


def test_channels_are_averaged_in_float32() -> None:
    wave = tone(0.1, 16000, 2)
    read = read_waveform(encoded("float", wave, 16000), 16000, "a")
    np.testing.assert_array_equal(read, wave.mean(axis=1, dtype=np.float32))


@pytest.mark.parametrize("source", [8000, 11025, 16000, 22050, 32000, 44100, 48000, 96000])
@pytest.mark.parametrize("target", [8000, 16000, 24000])
@pytest.mark.parametrize("samples", [1, 2, 7, 441, 1000, 12345])
def test_the_resampled_length_is_that_of_the_resampled_wave(source: int, target: int, samples: int) -> None:
    wave = np.linspace(-1, 1, samples, dtype=np.float32)
    found = resample(wave, source, target)
    assert len(found) == resampled_length(samples, source, target)
    assert found.dtype == np.float32


def test_a_tone_keeps_its_pitch_at_another_rate() -> None:
    read = read_waveform(encoded("float", tone(1, 44100), 44100), 16000, "a")
    assert len(read) == 16000
    assert np.abs(np.fft.rfft(read)).argmax() == 220


def test_one_recording_in_two_files_is_the_same_wave(kit: Path) -> None:
    folder = kit / "data" / "audio" / "derived"
    mono, stereo = (
        read_waveform((folder / name).read_bytes(), 16000, name) for name in ("jfk_48000.wav", "jfk_44100_stereo.wav")
    )
    assert len(mono) == len(stereo) == 176000
    assert np.corrcoef(mono, stereo)[0, 1] > 0.999


# --- damage -----


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_a_file_that_was_cut_short_is_rejected(kind: str, kept: float) -> None:
    data = encoded(kind, tone(2.0, 48000), 48000)
    assert reason(data[: int(kept * len(data))]) == "unreadable_audio"


def test_a_cut_mp3_with_a_tag_of_its_length_is_rejected_also_behind_an_id3_tag() -> None:
    data = encoded("mp3", tone(2.0, 16000), 16000)
    tag = b"ID3\x04\0\0" + bytes([0, 0, 40, 0]) + bytes(40 << 7)
    whole = probe_audio(tag + data, "a")
    assert whole.samples == probe_audio(data, "a").samples
    assert reason(tag + data[: len(data) // 2]) == "unreadable_audio"


@pytest.mark.parametrize(
    "name", ["derived/jfk.mp3", "derived/jfk.ogg", "jfk.flac", "derived/jfk_16000.wav", "lhotse/stereo.opus"]
)
def test_real_files_that_were_cut_short_are_rejected(kit: Path, name: str) -> None:
    data = (kit / "data" / "audio" / name).read_bytes()
    for size in (len(data) // 3, len(data) // 2, len(data) - 1000):
        assert reason(data[:size]) == "unreadable_audio"


def test_a_wav_of_unknown_length_is_read() -> None:
    data = encoded("16 bit", tone(0.5, 16000), 16000)
    streamed = data[:4] + b"\xff\xff\xff\xff" + data[8:]
    assert probe_audio(streamed, "a").samples == 8000


def test_no_memory_is_made_for_samples_that_a_file_cannot_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    data = bytearray(encoded("mp3", tone(0.5, 16_000), 16_000))
    tag = max(data.find(b"Xing"), data.find(b"Info"))
    data[tag + 8 : tag + 12] = (1 << 30).to_bytes(4)
    make = soundfile.SoundFile._create_empty_array

    def bounded(file: soundfile.SoundFile, frames: int, always_2d: bool, dtype: str) -> np.ndarray:
        assert frames < 1 << 28
        found: np.ndarray = make(file, frames, always_2d, dtype)
        return found

    monkeypatch.setattr(soundfile.SoundFile, "_create_empty_array", bounded)
    assert 8_000 <= len(read_waveform(bytes(data), 16_000, "a")) < 12_000


@pytest.mark.parametrize("data", [b"not a sound\n" * 20, b"RIFF", bytes(200), b"\x89PNG\r\n\x1a\n" + bytes(100)])
def test_what_is_no_audio_is_rejected(data: bytes) -> None:
    assert reason(data) == "unreadable_audio"


def test_a_file_without_samples_is_rejected() -> None:
    assert reason(encoded("16 bit", tone(0, 16000), 16000)) == "unreadable_audio"


def test_an_empty_file_and_a_missing_one_have_reasons_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "empty.wav").touch()
    for name, code in (("empty.wav", "empty_file"), ("none.wav", "missing_file")):
        with pytest.raises(Reject) as caught:
            probe(Media(kind="audio", uris=(str(tmp_path / name),)))
        assert caught.value.reason.value == code


# --- as a media of a sample -----


def written(folder: Path, seconds: float = 1.0) -> Media:
    path = folder / "a.wav"
    path.write_bytes(encoded("16 bit", tone(seconds, 16000), 16000))
    return Media(kind="audio", uris=(str(path),))


@pytest.mark.parametrize(
    ("bounds", "code"),
    [
        ({}, None),
        ({"min_seconds": 1.0, "max_seconds": 1.0}, None),
        ({"min_seconds": 1.001}, "audio_too_short"),
        ({"max_seconds": 0.999}, "audio_too_long"),
    ],
)
def test_bounds_of_duration_are_inclusive(tmp_path: Path, bounds: dict[str, float], code: str | None) -> None:
    media = replace(written(tmp_path), **bounds)  # type: ignore[arg-type]
    if code is None:
        header = probe(media)[0].header
        assert header is not None and (header.samples, header.sampling_rate) == (16000, 16000)
        return
    with pytest.raises(Reject, match="1 s, the") as caught:
        probe(media)
    assert caught.value.reason.value == code


@pytest.mark.parametrize("keep", [False, True])
def test_a_probed_file_is_loaded_as_its_wave_and_refused_when_it_changed(tmp_path: Path, keep: bool) -> None:
    media, data = probe(written(tmp_path), keep_bytes=keep)
    struct = store_media(media, data)
    assert np.asarray(load_media(struct, rate=8000)).shape == (8000,)
    path = Path(media.uris[0])
    path.write_bytes(path.read_bytes()[:-2] + b"\1\1")
    if keep:
        assert np.asarray(load_media(struct, rate=8000)).shape == (8000,)
        return
    with pytest.raises(Reject) as caught:
        load_media(struct, rate=8000)
    assert caught.value.reason.value == "media_changed"


def test_half_an_hour_is_counted_in_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "long.flac"
    soundfile.write(path, np.zeros(8000 * 1800, np.int16), 8000)
    code = (
        "import resource, sys; from pathlib import Path; from vlm_prep.media.audio import probe_audio;"
        "data = Path(sys.argv[1]).read_bytes(); peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "import soundfile; before = peak();"
        "print(probe_audio(data, 'a').samples, peak() - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True, env=os.environ
    )
    samples, grown_kib = map(int, done.stdout.split())
    assert samples == 14_400_000
    assert grown_kib < 24 << 10  # the wave itself is 55 MiB


def test_a_waveform_is_bit_by_bit_what_soundfile_reads(kit: Path) -> None:
    for path in audio_files(kit):
        wave, rate = soundfile.read(io.BytesIO(path.read_bytes()), dtype="float32", always_2d=True)
        found = read_waveform(path.read_bytes(), rate, str(path))
        np.testing.assert_array_equal(found, wave.mean(axis=1, dtype=np.float32), err_msg=str(path))
