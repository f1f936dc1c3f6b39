"""The sound of a video file: its audio track as a waveform, by FFmpeg (PyAV).

Channels are averaged and resampled as in `audio`, so the number of samples at a model's rate follows from the number
decoded; the track is decoded to be counted, its pictures are not.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from vlm_prep.core.errors import Reject, RejectReason
from vlm_prep.media.audio import Waveform, require_sound, resample
from vlm_prep.media.audio_stream import audio_pieces


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
    """Yield (samples, rate) of each decoded piece, channels averaged."""
    for chunk, rate in audio_pieces(source, uri, "its audio track: "):
        require_sound(chunk, uri)
        yield chunk.T.mean(axis=0, dtype=np.float32), rate
