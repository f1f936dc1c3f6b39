"""Sound by FFmpeg (PyAV): of files that libsndfile does not read (AAC, AMR, AC-3, WMA, WebM, ...) and of videos.

Containers state a duration, not samples, and codecs cut their first and last frame: so a stream is decoded to be
counted (some 100 times faster than it plays).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlm_prep.core.errors import Reject, RejectReason
from vlm_prep.media.ffmpeg import load_av, open_container

Channels = NDArray[np.float32]
"""(samples, channels)."""
_STATE_DURATION = ("mov", "matroska", "asf", "avi")
"""Containers whose header says how long they are; of others FFmpeg estimates it."""
_SLACK = 0.1
"""Seconds by which a stream may be shorter than its container says: codecs cut their first and last frames."""


def audio_pieces(source: str | bytes, uri: str, what: str = "") -> Iterator[tuple[Channels, int]]:
    """Yield (samples, rate) of each decoded piece of the best audio stream; nothing where there is none.

    Args:
        source: path or content of the file.
        uri: its name in messages.
        what: for messages, what of the file is read.

    Raises:
        Reject: unreadable_audio.
        InputError: PyAV is not installed.
    """
    decoded = rate = channels = 0
    stated: float | None = None
    with open_container(source, uri, RejectReason.UNREADABLE_AUDIO, what) as container:
        stream = container.streams.best("audio")
        if stream is None:
            return
        if stream.codec_context is None:
            raise _unreadable(uri, f"{what}there is no decoder for it")
        stated = _stated_seconds(container, stream)
        converter = load_av().AudioResampler(format="fltp")
        for frame in container.decode(stream):
            for piece in converter.resample(frame):
                chunk = piece.to_ndarray().T
                if decoded and (chunk.shape[1], piece.sample_rate) != (channels, rate):
                    raise _unreadable(uri, f"{what}its channels or its rate change on the way")
                channels, rate = chunk.shape[1], int(piece.sample_rate)
                decoded += len(chunk)
                yield chunk, rate
    if not decoded:
        raise _unreadable(uri, f"{what}it has no samples")
    if not what and stated is not None and decoded / rate < stated - _SLACK:
        raise _unreadable(uri, f"cut short: {decoded / rate:.2f} of the {stated:.2f} s its header states")


def read_samples(data: bytes, uri: str) -> tuple[Channels, int]:
    """Return ((samples, channels), rate) of a file of sound. Raises as `audio_pieces`, and without sound in it."""
    pieces = list(audio_pieces(data, uri))
    if not pieces:
        raise _unreadable(uri, "there is no sound in it")
    return np.concatenate([chunk for chunk, _ in pieces]), pieces[0][1]


def _stated_seconds(container: Any, stream: Any) -> float | None:
    if not any(name in _STATE_DURATION for name in container.format.name.split(",")):
        return None
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return None if container.duration is None else container.duration / 1_000_000


def _unreadable(uri: str, message: str) -> Reject:
    return Reject(RejectReason.UNREADABLE_AUDIO, f"{uri}: {message}")
