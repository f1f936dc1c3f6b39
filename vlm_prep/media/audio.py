"""An audio file's header and its waveform, by libsndfile (soundfile).

A model takes one channel at its own rate: channels are averaged in float32 and resampled by scipy's `resample_poly`,
whose output length follows from the input's alone. So a token count needs the number of samples only. WAV and AIFF
state it in their header; of MP3 and Ogg the header is an estimate (2 of 105 test files were off by some hundred
samples), so these are decoded to be counted, and FLAC with them, whose damage shows only then.

A file that was cut short is a reject wherever that can be told: by the size that a WAV, an AIFF or an Ogg page states,
the samples that a FLAC states, the frames that an MP3 states in its Xing or Info tag. Without that tag a cut MP3 is a
shorter MP3.
"""

from __future__ import annotations

import io
from math import gcd
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlm_prep.core.errors import InputError, Reject, RejectReason
from vlm_prep.core.records import MediaHeader

Waveform = NDArray[np.float32]
_PIECE = 1 << 16
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
            decoded = _count(data)
            if decoded != frames and (info.format == "FLAC" or _states_length(data)):
                raise _unreadable(uri, f"cut short: {decoded} of the {frames} samples its header states")
            frames = decoded
    except (soundfile.LibsndfileError, RuntimeError, TypeError) as error:
        raise _unreadable(uri, str(error)) from error
    if (stated := _stated_size(data)) is not None and stated > len(data):
        raise _unreadable(uri, f"cut short: {len(data)} of at least {stated} bytes")
    if frames <= 0 or rate <= 0:
        raise _unreadable(uri, f"{frames} samples at {rate} Hz")
    return MediaHeader(samples=frames, sampling_rate=rate)


def _count(data: bytes) -> int:
    """Decode a file for its number of samples, a piece at a time: hours of speech would be gigabytes at once."""
    total = 0
    with _soundfile().SoundFile(io.BytesIO(data)) as file:
        piece = np.empty((_PIECE, file.channels), np.float32)
        while read := len(file.read(out=piece)):
            total += read
    return total


def _stated_size(data: bytes) -> int | None:
    """The least size in bytes that the header of a WAV or AIFF or the last page of an Ogg states; None without one."""
    if data[:4] in (b"RIFF", b"FORM"):
        size = int.from_bytes(data[4:8], "little" if data[:4] == b"RIFF" else "big")
        # the largest number is a streamed recording that never knew its length; the last byte may be padding
        return None if size == 0xFFFFFFFF else 8 + size - 1
    if data[:4] == b"OggS":
        page = data.rfind(b"OggS")
        head = data[page : page + 27 + 255]
        return page + 27 if len(head) < 27 else page + 27 + head[26] + sum(head[27 : 27 + head[26]])
    return None


def _states_length(data: bytes) -> bool:
    """Whether an MP3 states its number of frames, in the Xing or Info tag of its first one."""
    start = 0
    if data[:3] == b"ID3":
        start = 10 + sum((byte & 127) << shift for byte, shift in zip(data[6:10], (21, 14, 7, 0), strict=True))
    head = data[start : start + 4096]
    tag = max(head.find(b"Xing"), head.find(b"Info"))
    return data[:4] != b"OggS" and tag >= 0 and bool(int.from_bytes(head[tag + 4 : tag + 8]) & 1)


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
