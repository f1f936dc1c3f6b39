"""An audio file's header and its waveform, by libsndfile (soundfile), and by FFmpeg (PyAV) what that does not read.

A model takes one channel at its own rate: channels are averaged in float32 and resampled by scipy's `resample_poly`,
whose output length follows from the input's alone. So a token count needs the number of samples only. WAV and AIFF
state it in their header, and of FLAC the last frame proves it (`audio_header`, which is asked before this); of MP3 and
Ogg the header is an estimate (2 of 105 test files were off by some hundred samples), so these are decoded to be
counted. So are files that hold floats: one that is not finite, or louder than any integer format, makes every feature
of the clip NaN.

A file that was cut short is a reject wherever that can be told: by the size that a WAV, an AIFF or an Ogg page states,
the samples that a FLAC states, the frames that an MP3 states in its Xing or Info tag. Without that tag a cut MP3 is a
shorter MP3.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from math import gcd
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlm_prep.core.errors import InputError, Reject, RejectReason
from vlm_prep.core.records import MediaHeader
from vlm_prep.media.audio_stream import audio_pieces, read_samples
from vlm_prep.media.library_words import plain_words

Waveform = NDArray[np.float32]
Segment = tuple[int, int]
"""First sample, and the one behind the last, at the file's own rate."""
_PIECE = 1 << 16
_AT_ONCE = 1 << 26
"""Samples of all channels, 256 MiB."""
_DENSEST = 4096
"""Samples that a byte of a file may become: of silence in Opus some 2,000."""
_COUNTED_BY_HEADER = ("WAV", "WAVEX", "AIFF", "AU", "W64", "RF64")
_SEEKS_EXACTLY = (*_COUNTED_BY_HEADER, "FLAC")
_FLOATS = ("FLOAT", "DOUBLE")
_ESTIMATED = ("MP3", "OGG")
"""Formats whose header may state another number of samples than there are."""
_MPEG = "MPEG_LAYER"
"""How the names of codecs begin whose length a WAV does not state either."""
_LOWEST_RATE, _HIGHEST_RATE = 100, 768_000
"""Samples a second: of telemetry, and of the fastest converters of sound."""
LOUDEST = np.float32(2**31)
"""Full scale of the widest integer format, for files that hold integers as floats; full scale is 1 else."""
_UNKNOWN_FORMAT, _UNKNOWN_CODEC = 1, 4
"""libsndfile's codes for a format or a codec that it does not read (SF_ERR_*)."""
_OWN_TAGS = frozenset((0x01, 0x02, 0x03, 0x06, 0x07, 0x11, 0x31, 0x40, 0x55, 0xFFFE))
"""Codecs of a WAV (`wFormatTag`) that libsndfile reads; of another it says that the `fmt ` chunk is malformed."""


def probe_audio(data: bytes, uri: str, *, decode: bool = False) -> MediaHeader:
    """Return the number of samples and the rate of an audio file.

    Args:
        data: the file.
        uri: for messages.
        decode: decode it whole, also where its header states the number of samples.

    Raises:
        Reject: unreadable_audio.
    """
    soundfile = _soundfile()
    try:
        info = soundfile.info(_Seekable(data))
        frames, rate = int(info.frames), int(info.samplerate)
        if decode or not _is_counted(info) or info.subtype in _FLOATS:
            decoded = _count(data, uri)
            if decoded != frames and (not _is_estimated(info) or _states_length(data)):
                raise _unreadable(uri, f"cut short: {decoded} of the {frames} samples its header states")
            frames = decoded
    except (soundfile.LibsndfileError, RuntimeError, TypeError) as error:
        if not _is_foreign(error, data):
            raise _unreadable(uri, plain_words(error)) from error
        frames, rate = _count_foreign(data, uri)
    if (stated := _stated_size(data)) is not None and stated > len(data):
        raise _unreadable(uri, f"cut short: {len(data)} of at least {stated} bytes")
    if frames <= 0:
        raise _unreadable(uri, f"{frames} samples at {rate} Hz")
    require_rate(rate, uri)
    return MediaHeader(samples=frames, sampling_rate=rate)


def _is_counted(file: Any) -> bool:
    return file.format in _COUNTED_BY_HEADER and not file.subtype.startswith(_MPEG)


def _is_estimated(file: Any) -> bool:
    return file.format in _ESTIMATED or file.subtype.startswith(_MPEG)


def require_rate(rate: int, uri: str) -> None:
    """Reject a rate that no recording has: at 1 Hz a clip becomes 16,000 times as long, and to resample from 570 MHz
    takes a filter of as many taps.

    Raises:
        Reject: unreadable_audio.
    """
    if not _LOWEST_RATE <= rate <= _HIGHEST_RATE:
        raise _unreadable(uri, f"its header states {rate} samples a second")


def _count(data: bytes, uri: str) -> int:
    """Decode a file for its number of samples, a piece at a time: hours of speech would be gigabytes at once."""
    total = 0
    for piece in _pieces(data, uri):
        require_sound(piece, uri)
        total += len(piece)
    return total


def _count_foreign(data: bytes, uri: str) -> tuple[int, int]:
    total = rate = 0
    for piece, found in audio_pieces(data, uri):
        require_sound(piece, uri)
        total, rate = total + len(piece), found
    if not rate:
        raise _unreadable(uri, "there is no sound in it")
    return total, rate


class _Seekable(io.BytesIO):
    """Bytes that libsndfile reads. Of a damaged file it seeks before the start, and what that raises inside its
    callback is printed as a traceback; a file on a disk stays where it is."""

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a place, if there is one."""
        try:
            return super().seek(offset, whence)
        except ValueError:
            return self.tell()


def _pieces(data: bytes, uri: str) -> Iterator[NDArray[np.float32]]:
    short = False
    with _soundfile().SoundFile(_Seekable(data)) as file:
        if _is_estimated(file) and file.frames * file.channels <= _AT_ONCE:
            # as `read_waveform` reads it: of a damaged file, reading in pieces gives another number
            file.seek(0)
            yield file.read(dtype="float32", always_2d=True)
            return
        piece = np.empty((_PIECE, file.channels), np.float32)
        while read := len(file.read(out=piece)):
            if short:  # libsndfile gives up within the file and goes on when asked again
                raise _unreadable(uri, "damaged: decoding stops before the end")
            short = read < _PIECE
            yield piece[:read]


def require_sound(wave: NDArray[np.float32], uri: str) -> None:
    """Reject samples that are not finite, or louder than `LOUDEST`: of them come features that are not finite.

    Raises:
        Reject: unreadable_audio.
    """
    # comparing with NaN is false, so this finds all three
    if len(wave) and not (wave.min() >= -LOUDEST and wave.max() <= LOUDEST):
        first = float(wave[~(np.abs(wave) <= LOUDEST)][0])
        raise _unreadable(uri, f"it holds {first:g} as a sample, which is no sound")


def _is_foreign(error: Exception, data: bytes) -> bool:
    """Whether libsndfile does not know what this is; damage of what it reads is not tried elsewhere."""
    code = getattr(error, "code", None)
    return (
        code == _UNKNOWN_CODEC
        or _has_foreign_codec(data)
        or (code == _UNKNOWN_FORMAT and len(data) > 4 and not data.startswith(b"fLaC"))
    )


def _has_foreign_codec(data: bytes) -> bool:
    """Whether a WAV holds a codec (MP2, AC-3, G.722, ...) that libsndfile does not read."""
    chunk = data.find(b"fmt ", 12, 4096) if data[:4] == b"RIFF" and data[8:12] == b"WAVE" else -1
    return chunk >= 0 and int.from_bytes(data[chunk + 8 : chunk + 10], "little") not in _OWN_TAGS


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


def read_waveform(data: bytes, rate: int, uri: str, segment: Segment | None = None) -> Waveform:
    """Return the waveform as float32 (samples,): channels averaged, at `rate` samples a second.

    Args:
        data: the file.
        rate: the model's.
        uri: for messages.
        segment: the part of it that is wanted, cut before it is resampled; all of it without.

    Raises:
        Reject: unreadable_audio.
    """
    soundfile = _soundfile()
    try:
        with soundfile.SoundFile(_Seekable(data)) as file:
            found = int(file.samplerate)
            seeks = segment is not None and file.format in _SEEKS_EXACTLY and not file.subtype.startswith(_MPEG)
            # also to 0, as soundfile.read does: the MP3 decoder gives other last bits without
            file.seek(segment[0] if segment and seeks else 0)
            wanted = segment[1] - segment[0] if segment and seeks else -1
            if wanted < 0 and file.frames * file.channels > max(_AT_ONCE, len(data) * _DENSEST):
                # nothing is that dense, and the library makes room for what a damaged header states
                channels = np.concatenate([piece.copy() for piece in _pieces(data, uri)])
            else:
                channels = file.read(wanted, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError, TypeError) as error:
        if not _is_foreign(error, data):
            raise _unreadable(uri, plain_words(error)) from error
        channels, found = read_samples(data, uri)
        seeks = False
    if segment is not None and not seeks:
        channels = channels[slice(*segment)]
    if segment is not None and len(channels) != segment[1] - segment[0]:
        raise _unreadable(uri, f"no samples {segment[0]} to {segment[1]}")
    require_rate(found, uri)
    require_sound(channels, uri)
    wave: Waveform = channels.mean(axis=1, dtype=np.float32)
    return wave if found == rate else resample(wave, found, rate)


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
