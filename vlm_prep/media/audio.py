"""An audio file's header and its waveform, by libsndfile (soundfile).

A model takes one channel at its own rate: channels are averaged in float32 and resampled by scipy's `resample_poly`,
whose output length follows from the input's alone. So a token count needs the number of samples only. WAV and AIFF
state it in their header; of MP3 and Ogg the header is an estimate (2 of 105 test files were off by some hundred
samples), so these are decoded to be counted, and FLAC with them, whose damage shows only then.
"""

from __future__ import annotations

import io
from math import gcd
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlm_prep.core.errors import InputError, Reject, RejectReason
from vlm_prep.core.types import MediaHeader

Waveform = NDArray[np.float32]
_COUNTED_BY_HEADER = ("WAV", "WAVEX", "AIFF", "AU", "W64", "RF64")


def probe_audio(data: bytes, uri: str) -> MediaHeader:
    """Return the number of samples and the rate of an audio file.

    Raises:
        Reject: unreadable_audio.
    """
    soundfile = _soundfile()
    try:
        info = soundfile.info(io.BytesIO(data))
        frames, rate = int(info.frames), int(info.samplerate)
        if info.format not in _COUNTED_BY_HEADER:
            decoded = len(soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)[0])
            if info.format == "FLAC" and decoded != frames:
                raise _unreadable(uri, f"cut short: {decoded} of the {frames} samples its header states")
            frames = decoded
    except (soundfile.LibsndfileError, RuntimeError, TypeError) as error:
        raise _unreadable(uri, str(error)) from error
    stated = int.from_bytes(data[4:8], "little") if data[:4] == b"RIFF" else 0
    # 0xFFFFFFFF: a streamed recording that never knew its length
    if 8 + stated > len(data) + 1 and stated != 0xFFFFFFFF:
        raise _unreadable(uri, f"cut short, {len(data)} of the {8 + stated} bytes its header states")
    if frames <= 0 or rate <= 0:
        raise _unreadable(uri, f"{frames} samples at {rate} Hz")
    return MediaHeader(samples=frames, sampling_rate=rate)


def read_waveform(data: bytes, rate: int, uri: str) -> Waveform:
    """Return the waveform as float32 (samples,): channels averaged, at `rate` samples a second.

    Raises:
        Reject: unreadable_audio.
    """
    soundfile = _soundfile()
    try:
        channels, found = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError, TypeError) as error:
        raise _unreadable(uri, str(error)) from error
    wave: Waveform = channels.mean(axis=1, dtype=np.float32)
    return wave if found == rate else resample(wave, int(found), rate)


def resample(wave: Waveform, source: int, target: int) -> Waveform:
    """Return `wave` at `target` instead of `source` samples a second, float32."""
    from scipy.signal import resample_poly

    common = gcd(source, target)
    return np.asarray(resample_poly(wave, target // common, source // common), np.float32)


def resampled_length(samples: int, source: int, target: int) -> int:
    """Return how many samples `resample` makes of `samples`."""
    common = gcd(source, target)
    return -(-samples * (target // common) // (source // common))


def _soundfile() -> Any:
    try:
        import soundfile
    except (ImportError, OSError) as error:  # OSError: the wheel without its libsndfile
        raise InputError(f"reading audio needs soundfile: {error}", "pip install soundfile") from error
    return soundfile


def _unreadable(uri: str, message: str) -> Reject:
    return Reject(RejectReason.UNREADABLE_AUDIO, f"{uri}: {message}")
