"""Lengths that a header and a file's end prove: those that decoding gives, and none of a file that was cut."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from vlm_prep.core.errors import Reject
from vlm_prep.core.records import Media
from vlm_prep.media.audio_header import stated_sound
from vlm_prep.media.files import ends_of
from vlm_prep.media.probe import probe


def sound(samples: int, rate: int, channels: int, **written: str) -> bytes:
    file = io.BytesIO()
    wave = np.random.default_rng(samples).standard_normal((samples, channels)) * 0.1
    soundfile.write(file, wave, rate, **written)
    return file.getvalue()


@settings(max_examples=60, deadline=None)
@given(
    samples=st.sampled_from([1, 100, 4095, 4096, 4097, 30_000]),
    rate=st.sampled_from([8000, 12_345, 16_000, 44_100, 96_000]),
    channels=st.integers(1, 2),
    kind=st.sampled_from(["WAV", "WAVEX", "FLAC"]),
    subtype=st.sampled_from(["PCM_16", "PCM_24"]),
    cut=st.integers(2, 3000),
)
def test_a_length_is_that_of_the_decoded_file_and_of_a_cut_one_there_is_none(
    samples: int, rate: int, channels: int, kind: str, subtype: str, cut: int
) -> None:
    data = sound(samples, rate, channels, format=kind, subtype=subtype)
    assert stated_sound(ends_of(data)) == (samples, rate)
    assert stated_sound(ends_of(data[: max(len(data) - cut, 12)])) is None


@pytest.mark.parametrize("subtype", ["FLOAT", "ULAW", "IMA_ADPCM"])
def test_what_is_no_integers_is_decoded(subtype: str) -> None:
    assert stated_sound(ends_of(sound(1000, 16_000, 1, format="WAV", subtype=subtype))) is None


def test_the_files_of_the_kit(kit: Path) -> None:
    files = [path for path in (kit / "data" / "audio").rglob("*") if path.suffix in (".wav", ".flac")]
    for path in files:
        decoded, rate = soundfile.read(path)
        stated = stated_sound(ends_of(path.read_bytes()))
        assert stated in (None, (len(decoded), rate)), path
        header = probe(Media(kind="audio", uris=(str(path),)))[0].header
        assert header is not None and (header.samples, header.sampling_rate) == (len(decoded), rate), path
    assert len(files) > 20


def test_a_cut_flac_is_a_reject_and_damage_inside_is_found_where_all_is_decoded(tmp_path: Path) -> None:
    data = sound(60_000, 16_000, 1, format="FLAC", subtype="PCM_16")
    cut, damaged = tmp_path / "cut.flac", tmp_path / "damaged.flac"
    cut.write_bytes(data[:-700])
    with pytest.raises(Reject, match=r"cut\.flac: "):
        probe(Media(kind="audio", uris=(str(cut),)))
    middle = bytearray(data)
    middle[len(data) // 2 : len(data) // 2 + 3000] = bytes(3000)
    damaged.write_bytes(middle)
    assert probe(Media(kind="audio", uris=(str(damaged),)))[0].header is not None
    with pytest.raises(Reject):
        probe(Media(kind="audio", uris=(str(damaged),)), decode=True)
