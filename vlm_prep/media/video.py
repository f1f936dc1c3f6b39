"""A video file's header and its frames: by PyAV, by decord where a store was frozen with it or a run asks for it, and
an animation (GIF, WebP, PNG) by Pillow.

Which of them numbered the frames is stored with the media, so that a frame index names the same frame at run time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vlm_prep.core.errors import Reject, RejectReason
from vlm_prep.core.media_settings import VideoDecoder
from vlm_prep.core.records import MediaHeader
from vlm_prep.core.regular_files import open_regular
from vlm_prep.media.animation import is_animation, probe_animation, read_animation
from vlm_prep.media.ffmpeg import require_whole
from vlm_prep.media.files import read_bytes
from vlm_prep.media.frames_decord import probe_by_decord, read_by_decord
from vlm_prep.media.frames_pyav import probe_by_pyav, read_by_pyav
from vlm_prep.media.image import MAX_PIXELS
from vlm_prep.media.image_formats import IMAGE_FORMATS, format_of


def probe_video(
    source: str | bytes, uri: str, *, decoder: VideoDecoder = "pyav", decode: bool = False, max_pixels: int = MAX_PIXELS
) -> MediaHeader:
    """Return height and width in pixels, the number of frames, frames per second, and what reads them.

    Args:
        source: path or content of the file.
        uri: for messages.
        decoder: what reads video files; an animation is read by Pillow.
        decode: decode all frames, to find damage between them.
        max_pixels: most of a frame of an animation.

    Raises:
        Reject: unreadable_video.
    """
    require_whole(source, uri, RejectReason.UNREADABLE_VIDEO)
    head = _head(source, uri)
    if is_animation(head):
        return probe_animation(_content(source), uri, max_pixels=max_pixels)
    if decoder == "pyav":
        try:
            return probe_by_pyav(source, uri, decode=decode)
        except Reject as reject:
            if (kind := format_of(head)) not in IMAGE_FORMATS:
                raise
            message = f"{uri}: one picture ({kind}), not a video; give it as an image"
            raise Reject(RejectReason.UNREADABLE_VIDEO, message) from reject
    header = probe_by_decord(source, uri)
    if decode:
        read_by_decord(source, range(header.total_frames or 0)[-1:], uri)
    return header


def read_frames(
    source: str | bytes, indices: Sequence[int], uri: str, decoder: str | None = "pyav"
) -> NDArray[np.uint8]:
    """Return the frames at `indices` as uint8 (n, height, width, 3), RGB.

    Args:
        source: path or content of the file.
        indices: frames, in any order.
        uri: for messages.
        decoder: what numbered them; None in stores that were written when there was decord alone.

    Raises:
        Reject: unreadable_video.
    """
    if decoder == "pillow":
        return read_animation(_content(source), indices, uri)
    if decoder == "pyav":
        return read_by_pyav(source, indices, uri)
    return read_by_decord(source, indices, uri)


def _head(source: str | bytes, uri: str) -> bytes:
    if isinstance(source, bytes):
        return source[:64]
    try:
        with open_regular(source) as file:
            return file.read(64)
    except OSError as error:
        raise Reject(RejectReason.UNREADABLE_VIDEO, f"{uri}: {error.strerror or error}") from error


def _content(source: str | bytes) -> bytes:
    return source if isinstance(source, bytes) else read_bytes(source)
