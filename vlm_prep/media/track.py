"""The sound of a video file: its audio track as a waveform, by FFmpeg (PyAV).

Channels are averaged and resampled as in `audio`, so the number of samples at a model's rate follows from the number
decoded; the track is decoded to be counted, its pictures are not.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from vlm_prep.core.errors import Reject, RejectReason
from vlm_prep.media.audio import Waveform, require_rate, require_sound, resample
from vlm_prep.media.audio_stream import audio_pieces
from vlm_prep.media.ffmpeg import open_container

_WHAT = "its audio track: "


def probe_track(source: str | bytes, uri: str, *, offset: float = 0.0) -> tuple[int, int] | None:
    """Return the number of samples and the rate of a video's audio track; None for a video without one.

    Args:
        source: path or content of the file.
        uri: its name in messages.
        offset: as in `read_track`.

    Raises:
        Reject: unreadable_audio.
        InputError: PyAV is not installed.
    """
    samples = rate = 0
    for chunk, found in _chunks(source, uri):
        samples, rate = samples + len(chunk), found
        require_rate(rate, uri)
    samples += round(offset * rate)
    return (samples, rate) if samples > 0 else None


def read_track(source: str | bytes, rate: int, uri: str, *, offset: float = 0.0) -> Waveform:
    """Return the audio track of a video as float32 (samples,): channels averaged, at `rate` samples a second.

    Args:
        source: path or content of the file.
        rate: the model's.
        uri: its name in messages.
        offset: seconds by which it is shifted: silence before it, or (below 0) its beginning left out.

    Raises:
        Reject: unreadable_audio, also where there is no track.
        InputError: PyAV is not installed.
    """
    chunks = list(_chunks(source, uri))
    if not chunks:
        raise Reject(RejectReason.UNREADABLE_AUDIO, f"{uri}: has no audio track")
    wave, found = np.concatenate([chunk for chunk, _ in chunks]), chunks[0][1]
    require_rate(found, uri)
    shift = round(offset * found)
    wave = np.concatenate([np.zeros(max(shift, 0), np.float32), wave[max(-shift, 0) :]])
    return wave if found == rate else resample(wave, found, rate)


def sound_offset(source: str | bytes, uri: str) -> float:
    """Return by how many seconds a video's sound starts later (below 0: earlier) than its first picture.

    Readers of transformers (torchcodec, soundfile) return the samples alone, as if they began with the pictures.

    Raises:
        Reject: unreadable_audio.
        InputError: PyAV is not installed.
    """
    with open_container(source, uri, RejectReason.UNREADABLE_AUDIO, _WHAT) as container:
        video, audio = container.streams.best("video"), container.streams.best("audio")
        if video is None or audio is None or audio.codec_context is None or video.start_time is None:
            return 0.0
        first = next(container.decode(audio), None)
        if first is None or first.time is None:
            return 0.0
        return float(first.time) - float(video.start_time * video.time_base)


def _chunks(source: str | bytes, uri: str) -> Iterator[tuple[Waveform, int]]:
    """Yield (samples, rate) of each decoded piece, channels averaged."""
    for chunk, rate in audio_pieces(source, uri, _WHAT):
        require_sound(chunk, uri)
        yield chunk.T.mean(axis=0, dtype=np.float32), rate
