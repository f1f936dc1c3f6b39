"""The sound of a video file: its audio track as a waveform, by FFmpeg (PyAV).

Channels are averaged and resampled as in `audio`, so the number of samples at a model's rate follows from the number
decoded. Containers state a duration, not samples, and codecs cut their first and last frame: so a track is decoded to
be counted (some 100 times faster than it plays), its pictures are not.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np

from vlm_prep.core.errors import InputError, Reject, RejectReason
from vlm_prep.media.audio import Waveform, resample


def probe_track(source: str | bytes, uri: str) -> tuple[int, int] | None:
    """Return the number of samples and the rate of a video's audio track; None for a video without one.

    Args:
        source: path or content of the file.
        uri: its name in messages.

    Raises:
        Reject: unreadable_audio.
        InputError: PyAV is not installed.
    """
    samples = rate = 0
    for chunk, found in _chunks(source, uri):
        samples, rate = samples + len(chunk), found
    return (samples, rate) if rate else None


def read_track(source: str | bytes, rate: int, uri: str) -> Waveform:
    """Return the audio track of a video as float32 (samples,): channels averaged, at `rate` samples a second.

    Raises:
        Reject: unreadable_audio, also where there is no track.
        InputError: PyAV is not installed.
    """
    chunks = list(_chunks(source, uri))
    if not chunks:
        raise Reject(RejectReason.UNREADABLE_AUDIO, f"{uri}: has no audio track")
    wave, found = np.concatenate([chunk for chunk, _ in chunks]), chunks[0][1]
    return wave if found == rate else resample(wave, found, rate)


def _chunks(source: str | bytes, uri: str) -> Iterator[tuple[Waveform, int]]:
    """Yield (samples, rate) of each decoded piece of the best audio stream; nothing where there is none."""
    av = _av()
    try:
        with av.open(io.BytesIO(source) if isinstance(source, bytes) else source) as container:
            stream = container.streams.best("audio")
            if stream is None:
                return
            decoded = 0
            converter = av.AudioResampler(format="fltp")
            for frame in container.decode(stream):
                for piece in converter.resample(frame):
                    chunk = piece.to_ndarray().mean(axis=0, dtype=np.float32)
                    decoded += len(chunk)
                    yield chunk, int(piece.sample_rate)
    except (av.FFmpegError, ValueError) as error:  # ValueError: the rate or the channels change on the way
        raise Reject(RejectReason.UNREADABLE_AUDIO, f"{uri}: its audio track: {error}") from error
    if not decoded:
        raise Reject(RejectReason.UNREADABLE_AUDIO, f"{uri}: its audio track has no samples")


def _av() -> Any:
    try:
        import av
    except ImportError as error:
        raise InputError("reading the sound of videos needs PyAV", "pip install 'vlm-prep[video-audio]'") from error
    return av
