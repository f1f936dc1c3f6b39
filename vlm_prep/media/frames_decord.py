"""A video's header and frames by decord: for stores that were made with it, and where a run asks for it.

Frames are numbered as decord numbers them: it knows no edit lists. The first frame is decoded for its size and the last
one because a file that was cut short still opens.

Decord brings an old FFmpeg, which can be given no list of containers. So a file that would make it open others is
refused before: by what it begins with, and by PyAV.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlm_prep.core.errors import InputError, Reject, RejectReason
from vlm_prep.core.records import MediaHeader
from vlm_prep.media.ffmpeg import open_container, require_whole
from vlm_prep.media.library_words import plain_words

_LISTS = (b"#EXTM3U", b"ffconcat")
"""How files begin that name others, whatever follows; the FFmpeg of PyAV takes the first for one by its name alone."""


@contextmanager
def open_video(source: str | bytes, uri: str) -> Iterator[Any]:
    """Open a video file or its bytes with decord, one thread; what decord raises in the block is a reject.

    Raises:
        Reject: unreadable_video.
        InputError: decord is not installed.
    """
    try:
        import decord
    except ImportError as error:
        raise InputError("these videos are read with decord", "pip install decord (x86-64 Linux)") from error
    if require_whole(source, uri, RejectReason.UNREADABLE_VIDEO).startswith(_LISTS):
        raise Reject(RejectReason.UNREADABLE_VIDEO, f"{uri}: a list of other files, not a video")
    with open_container(source, uri, RejectReason.UNREADABLE_VIDEO):
        pass  # it is of a container that names no other file
    # decord's C++ log goes to stderr past Python; the reject carries the message
    decord.logging.set_level(decord.logging.QUIET)
    try:
        with _as_path(source) as path:
            yield decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1)
    except (Reject, InputError, MemoryError):
        raise
    except Exception as error:  # decord.DECORDError, and RuntimeError from its bindings
        raise Reject(RejectReason.UNREADABLE_VIDEO, f"{uri}: {plain_words(error)}") from error


@contextmanager
def _as_path(source: str | bytes) -> Iterator[str]:
    """The path of a file, or of one in memory: on bytes, decord 0.6 crashes the process where an AVI was cut short."""
    if isinstance(source, str):
        yield source
        return
    descriptor = os.memfd_create("video", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(source)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def probe_by_decord(source: str | bytes, uri: str) -> MediaHeader:
    """Return height and width in pixels, the number of frames, and frames per second.

    Raises:
        Reject: unreadable_video.
    """
    with open_video(source, uri) as reader:
        total, fps = len(reader), float(reader.get_avg_fps())
        if total == 0:
            raise Reject(RejectReason.UNREADABLE_VIDEO, f"{uri}: no frames")
        reader.seek_accurate(0)
        height, width, _ = reader[0].shape
        reader.seek_accurate(total - 1)
        reader[total - 1]
    return MediaHeader(height=int(height), width=int(width), total_frames=total, fps=fps, decoder="decord")


def read_by_decord(source: str | bytes, indices: Sequence[int], uri: str) -> NDArray[np.uint8]:
    """Return the frames at `indices` as uint8 (n, height, width, 3), RGB.

    Raises:
        Reject: unreadable_video.
    """
    wanted = set(indices)
    frames: dict[int, NDArray[np.uint8]] = {}
    with open_video(source, uri) as reader:
        # in order from the start: where decord 0.6 seeks (get_batch, skip_frames), it gave other frames than those
        # asked for in 2 of 20 test files (an AVI, an HEVC), and was 1.4 times faster
        for position in range(max(wanted, default=-1) + 1):
            frame = reader.next()
            if position in wanted:
                frames[position] = frame.asnumpy()[..., :3]
    return np.stack([frames[index] for index in indices])
