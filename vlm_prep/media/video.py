"""A video's header and its frames, by decord.

Frames are numbered as decord numbers them, so a frame index frozen in a shard names the same frame at run time. The
header costs 2-12 ms; the first frame is decoded for its size and the last wanted one because a file that was cut
short still opens.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlm_prep.core.errors import InputError, Reject, RejectReason
from vlm_prep.core.types import MediaHeader


def open_video(source: str | bytes, uri: str) -> Any:
    """Open a video file or its bytes with decord, one thread.

    Raises:
        Reject: unreadable_video.
        InputError: decord is not installed.
    """
    try:
        import decord
    except ImportError as error:
        raise InputError("reading video files needs decord", "pip install decord (x86-64 Linux)") from error
    # decord's C++ log goes to stderr past Python; the reject carries the message
    decord.logging.set_level(decord.logging.QUIET)
    try:
        return decord.VideoReader(
            io.BytesIO(source) if isinstance(source, bytes) else source, ctx=decord.cpu(0), num_threads=1
        )
    except Exception as error:  # decord.DECORDError, and RuntimeError from its bindings
        raise Reject(RejectReason.UNREADABLE_VIDEO, f"{uri}: {_first_line(error)}") from error


def probe_video(source: str | bytes, uri: str) -> MediaHeader:
    """Return height and width in pixels, the number of frames, and frames per second.

    Raises:
        Reject: unreadable_video.
    """
    reader = open_video(source, uri)
    try:
        total, fps = len(reader), float(reader.get_avg_fps())
        if total == 0:
            raise Reject(RejectReason.UNREADABLE_VIDEO, f"{uri}: no frames")
        reader.seek_accurate(0)
        height, width, _ = reader[0].shape
        reader.seek_accurate(total - 1)
        reader[total - 1]
    except Reject:
        raise
    except Exception as error:
        raise Reject(RejectReason.UNREADABLE_VIDEO, f"{uri}: {_first_line(error)}") from error
    if not fps > 0:
        raise Reject(RejectReason.UNREADABLE_VIDEO, f"{uri}: frame rate {fps}")
    return MediaHeader(height=int(height), width=int(width), total_frames=total, fps=fps)


def read_frames(source: str | bytes, indices: Sequence[int], uri: str) -> NDArray[np.uint8]:
    """Return the frames at `indices` as uint8 (n, height, width, 3), RGB.

    Raises:
        Reject: unreadable_video.
    """
    reader = open_video(source, uri)
    try:
        frames: NDArray[np.uint8] = reader.get_batch(list(indices)).asnumpy()
    except Exception as error:
        raise Reject(RejectReason.UNREADABLE_VIDEO, f"{uri}: {_first_line(error)}") from error
    return frames


def _first_line(error: Exception) -> str:
    """The useful line of a decord error; the rest is a C++ stack."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
