"""The part of an audio or video file that a row means, in samples and frames.

The part is what a file cut out beforehand would hold: the samples from round(start x rate) up to round(end x rate), the
frames that are shown at or after `start` and before `end`. Its frames and times are counted from its own first one.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import replace

from vlm_prep.core.errors import Reject, RejectReason
from vlm_prep.core.records import Media, MediaHeader

_SLACK_AUDIO = 0.01
"""Seconds by which a part may be said to end behind the file: durations are rounded when they are written down."""
_SLACK_VIDEO = 0.1
_EXACT = 1e-6


def cut_audio(media: Media, header: MediaHeader) -> MediaHeader:
    """Return the header of the part of an audio file that `media` means.

    Raises:
        Reject: bad_media_entry, the part is not in the file.
    """
    samples, rate = header.samples or 0, header.sampling_rate or 1
    if media.start is None and media.end is None:
        return header
    start = int((media.start or 0.0) * rate + 0.5)
    stop = samples if media.end is None else int(media.end * rate + 0.5)
    _require_within(media, start < min(stop, samples), stop <= samples + _SLACK_AUDIO * rate, samples / rate)
    stop = min(stop, samples)
    return header if (start, stop) == (0, samples) else replace(header, samples=stop - start, segment=(start, stop))


def cut_video(media: Media, header: MediaHeader) -> MediaHeader:
    """Return the header of the part of a video file that `media` means.

    Raises:
        Reject: bad_media_entry, the part is not in the file.
    """
    if media.start is None and media.end is None:
        return header
    total, fps = header.total_frames or 0, header.fps or 1.0
    times = header.times or [number / fps for number in range(total)]
    length = times[-1] + 1 / fps
    start = bisect_left(times, (media.start or 0.0) - _EXACT)
    stop = total if media.end is None else bisect_left(times, media.end - _EXACT)
    _require_within(media, start < stop, (media.end or 0.0) <= length + _SLACK_VIDEO, length)
    if header.samples is not None:
        message = f"{media.uris[0]}: a part of a video is not cut with its sound; cut the file first"
        raise Reject(RejectReason.BAD_MEDIA_ENTRY, message)
    if (start, stop) == (0, total):
        return header
    cut = None if header.times is None else tuple(time - times[start] for time in times[start:stop])
    return replace(header, total_frames=stop - start, times=cut, segment=(start, stop))


def _require_within(media: Media, holds: bool, ends: bool, length: float) -> None:
    if holds and ends:
        return
    end = "its end" if media.end is None else f"{media.end:g} s"
    what = "holds nothing" if ends else f"ends behind the file's end at {length:g} s"
    message = f"{media.uris[0]}: the part from {media.start or 0:g} s to {end} {what}"
    raise Reject(RejectReason.BAD_MEDIA_ENTRY, message)
