"""Sound that harms training, and sound that libsndfile does not read."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import torch

from vlm_prep.core.errors import Reject
from vlm_prep.core.records import Media
from vlm_prep.media.audio import probe_audio, read_waveform, resampled_length
from vlm_prep.media.library_words import plain_words
from vlm_prep.media.probe import probe
from vlm_prep.processors.payload.nested import same_values
from vlm_prep.processors.payload.stored import store_array

RATE = 16000


def tone(seconds: float = 1.0, rate: int = RATE) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def wav(wave: np.ndarray, **kind: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, wave, RATE, **{"format": "WAV", "subtype": "FLOAT", **kind})
    return file.getvalue()


def by_ffmpeg(folder: Path, name: str, codec: str, rate: int, container: str | None = None) -> bytes:
    path = folder / name
    wave = tone(rate=rate)
    with av.open(str(path), "w", format=container) as file:
        stream = file.add_stream(codec, rate=rate, layout="mono")
        if codec == "wmav2":
            stream.bit_rate = 64_000  # it has no default
        size = stream.codec_context.frame_size or 1024
        converter = av.AudioResampler(format=stream.codec_context.format.name, layout="mono", rate=rate)
        for start in range(0, len(wave), size):
            frame = av.AudioFrame.from_ndarray(wave[None, start : start + size].copy(), format="flt", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
            for piece in converter.resample(frame):
                file.mux(stream.encode(piece))
        file.mux(stream.encode(None))
    return path.read_bytes()


def rejected(data: bytes, **options: bool) -> str:
    with pytest.raises(Reject) as caught:
        probe_audio(data, "clip.wav", **options)
    assert caught.value.reason.value == "unreadable_audio"
    assert "0x" not in caught.value.message and "BytesIO" not in caught.value.message
    return caught.value.message


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38, -3e38])
@pytest.mark.parametrize("kind", [{"subtype": "FLOAT"}, {"subtype": "DOUBLE"}, {"format": "AIFF"}, {"format": "CAF"}])
def test_one_sample_that_is_no_sound_rejects_the_file(value: float, kind: dict[str, str]) -> None:
    wave = tone()
    wave[7777] = value
    data = wav(wave, **kind)
    assert "no sound" in rejected(data)
    with pytest.raises(Reject, match="no sound"):
        read_waveform(data, RATE, "clip.wav")


def test_floats_in_the_range_of_integers_are_sound() -> None:
    data = wav(tone() * 32768)
    assert probe_audio(data, "a").samples == RATE
    assert np.isfinite(read_waveform(data, 8000, "a")).all()


def test_the_kits_file_with_a_nan_is_rejected(kit: Path) -> None:
    assert "no sound" in rejected((kit / "cases" / "hostile" / "nan" / "nan.wav").read_bytes())


def test_a_tensor_that_is_not_finite_is_not_stored() -> None:
    with pytest.raises(Reject, match="not finite") as caught:
        store_array("input_features", np.array([1.0, np.nan], np.float32))
    assert caught.value.reason.value == "processor_error"


def test_nan_is_no_difference_from_nan_and_one_from_a_number() -> None:
    one, other = torch.tensor([1.0, torch.nan]), torch.tensor([1.0, 2.0])
    assert same_values(one, one.clone())
    assert not same_values(one, other) and not same_values(other, one)
    assert not same_values(one, one[:1])


def test_a_file_whose_decoding_stops_within_is_damaged_and_not_shorter(kit: Path) -> None:
    """Libsndfile's header says 8192 samples, reading it whole gives 4096, reading on gives 8192."""
    rejected((kit / "cases" / "hostile" / "caf" / "002668.caf").read_bytes())


def test_check_media_decode_decodes_audio_whose_header_states_its_length(tmp_path: Path) -> None:
    data = bytearray(wav(tone(), format="WAV", subtype="MS_ADPCM"))
    path = tmp_path / "a.wav"
    path.write_bytes(bytes(data))
    media = Media(kind="audio", uris=(str(path),))
    header, whole = probe(media)[0].header, probe(media, decode=True)[0].header
    assert header == whole and header is not None


FOREIGN = [
    ("a.m4a", "aac", 16000, None),
    ("a.aac", "aac", 44100, "adts"),
    ("a.webm", "libopus", 48000, None),
    ("a.amr", "libopencore_amrnb", 8000, None),
    ("a.ac3", "ac3", 48000, None),
    ("a.eac3", "eac3", 48000, None),
    ("a.wma", "wmav2", 44100, None),
    ("alac.m4a", "alac", 16000, None),
    ("a.wav", "aac", 16000, "adts"),
    ("mp2.wav", "mp2", 48000, None),
    ("ac3.wav", "ac3", 48000, None),
    ("g722.wav", "g722", 16000, None),
    ("mp3.wav", "libmp3lame", 44100, None),
]


@pytest.mark.parametrize(("name", "codec", "rate", "container"), FOREIGN, ids=[f"{n} {c}" for n, c, _, _ in FOREIGN])
def test_what_libsndfile_does_not_read_is_read_by_ffmpeg(
    tmp_path: Path, name: str, codec: str, rate: int, container: str | None
) -> None:
    data = by_ffmpeg(tmp_path, name, codec, rate, container)
    header = probe_audio(data, name)
    wave = read_waveform(data, RATE, name)
    assert header.samples and header.sampling_rate == rate
    assert len(wave) == resampled_length(header.samples, rate, RATE)
    assert abs(np.abs(np.fft.rfft(wave)).argmax() / len(wave) * RATE - 440) < 2


@pytest.mark.parametrize(("name", "codec", "rate"), [("a.webm", "libopus", 48000), ("a.m4a", "aac", 16000)])
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.95])
def test_a_cut_file_of_a_container_that_states_its_length_is_rejected(
    tmp_path: Path, name: str, codec: str, rate: int, kept: float
) -> None:
    data = by_ffmpeg(tmp_path, name, codec, rate)
    rejected(data[: int(kept * len(data))])


@pytest.mark.parametrize(
    "text",
    ["#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{0}\n#EXT-X-ENDLIST\n", "ffconcat version 1.0\nfile {0}\n"],
    ids=["hls", "concat"],
)
def test_a_playlist_opens_no_other_file(tmp_path: Path, text: str) -> None:
    by_ffmpeg(tmp_path, "a.aac", "aac", 44100, "adts")
    list_file = tmp_path / "list.mp4"
    list_file.write_text(text.format(tmp_path / "a.aac"))
    rejected(list_file.read_bytes())


def test_a_damaged_ogg_is_counted_as_it_is_read(kit: Path) -> None:
    """Of such a file, libsndfile gives another number of samples when it is read in pieces."""
    whole = (kit / "data" / "audio" / "derived" / "jfk.ogg").read_bytes()
    for place in range(3000, len(whole) - 1000, len(whole) // 12):
        data = bytearray(whole)
        data[place : place + 20] = bytes(20)
        try:
            header = probe_audio(bytes(data), "a")
        except Reject:
            continue
        assert len(read_waveform(bytes(data), header.sampling_rate or 0, "a")) == header.samples


def test_floats_of_a_foreign_container_must_be_sound_too(tmp_path: Path) -> None:
    data = bytearray(by_ffmpeg(tmp_path, "a.mkv", "pcm_f32le", 16000))
    data[40_000:40_004] = np.float32(3e38).tobytes()
    data[40_001:40_005] = np.float32(3e38).tobytes()
    rejected(bytes(data))


def test_titles_in_any_encoding_do_not_matter(tmp_path: Path) -> None:
    data = bytearray(by_ffmpeg(tmp_path, "a.m4a", "aac", 16000))
    data[data.index(b"Lavf") : data.index(b"Lavf") + 2] = b"\x9f\xff"
    assert probe_audio(bytes(data), "a").samples


def test_mp3_in_a_wav_is_as_long_as_it_decodes_also_in_parts(tmp_path: Path) -> None:
    """Its header states no number of samples: libsndfile takes one from the size."""
    data = by_ffmpeg(tmp_path, "a.wav", "libmp3lame", 44100)
    assert soundfile.info(io.BytesIO(data)).subtype == "MPEG_LAYER_III"
    header, whole = probe_audio(data, "a"), soundfile.read(io.BytesIO(data), dtype="float32")[0]
    assert header.samples == len(whole) != soundfile.info(io.BytesIO(data)).frames
    assert np.array_equal(read_waveform(data, 44100, "a", (10_000, 20_000)), whole[10_000:20_000])
    rejected(data[: len(data) // 2])


@pytest.mark.parametrize("kept", [40, 500])
def test_a_cut_mp3_is_not_said_to_be_missing(tmp_path: Path, kept: int) -> None:
    stream = io.BytesIO()
    soundfile.write(stream, tone(), RATE, format="MP3")
    path = tmp_path / "a.mp3"
    path.write_bytes(stream.getvalue()[:kept])
    with pytest.raises(Reject) as caught:
        probe(Media(kind="audio", uris=(str(path),)))
    assert "does not exist" not in caught.value.message and "internal error" not in caught.value.message


def test_numbers_of_ffmpegs_own_are_no_reason() -> None:
    assert plain_words("Error number -16976906 occurred") == "damaged: it does not decode"
    assert plain_words("Invalid data found when processing input") == "Invalid data found when processing input"
