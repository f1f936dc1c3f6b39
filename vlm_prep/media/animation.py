"""GIF, animated WebP and PNG as videos, by Pillow: each frame as a picture, transparency laid on white."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageSequence

from vlm_prep.core.errors import Reject, RejectReason
from vlm_prep.core.records import MediaHeader
from vlm_prep.media.files import read_bytes
from vlm_prep.media.image import MAX_PIXELS, check_size, to_rgb
from vlm_prep.media.image_formats import open_picture
from vlm_prep.media.library_words import named_words

FORMATS = ("GIF", "WEBP", "PNG")
_USUAL_MS = 100
"""How long a frame is shown that states no duration, as browsers do."""
_MOST_FRAMES = 16
"""Times the pixels that one frame may have: of all frames together. They are decoded to be counted and again to be
read, at about 100 megapixels a second; a WebP of 1,000 bytes can have any number."""


def is_animation(head: bytes) -> bool:
    """Whether a file is a picture format that can hold an animation, by its first bytes."""
    return head.startswith((b"GIF8", b"\x89PNG")) or (head.startswith(b"RIFF") and head[8:12] == b"WEBP")


def frames_of_picture(uri: str, head: bytes, data: bytes | None = None) -> int:
    """Return how many frames a picture has: 1 for all formats but GIF, WebP, PNG and TIFF.

    Args:
        uri: the picture.
        head: its first bytes; of WebP and PNG they tell.
        data: all of it, where it is in memory.

    Raises:
        Reject: the file cannot be read.
    """
    if head.startswith(b"RIFF"):
        animated = head[8:16] == b"WEBPVP8X" and bool(head[20] & 2)
    elif head.startswith(b"\x89PNG"):
        animated = 0 < head.find(b"acTL") < head.find(b"IDAT")
    else:
        animated = head.startswith((b"GIF8", b"II*\0", b"MM\0*"))
    if not animated:
        return 1
    try:
        with open_picture(data or read_bytes(uri), uri, (*FORMATS, "TIFF")) as picture:
            return int(getattr(picture, "n_frames", 1))
    except (Reject, MemoryError):
        raise
    except Exception:  # damaged behind its first frame, which is what is decoded then
        return 1


def probe_animation(data: bytes, uri: str, *, max_pixels: int = MAX_PIXELS) -> MediaHeader:
    """Return the header of an animation: its size, frames, mean rate, and times where frames are shown unevenly.

    Args:
        data: the file.
        uri: for messages.
        max_pixels: most of a frame, and a sixteenth of the most of all, told before one is decoded.

    Raises:
        Reject: unreadable_video, it does not decode, or is one picture alone; image_too_large.
    """
    shown = []
    with _opened(data, uri) as picture:
        width, height = picture.size
        check_size(uri, picture.size, max_pixels)
        number = int(getattr(picture, "n_frames", 1))
        if number * width * height > _MOST_FRAMES * max_pixels:
            message = f"{uri}: {number} frames of {width}x{height} are more than {_MOST_FRAMES} x {max_pixels} pixels"
            raise Reject(RejectReason.IMAGE_TOO_LARGE, f"{message} (--max-image-pixels)")
        for frame in ImageSequence.Iterator(picture):
            if frame.size != (width, height):
                raise Reject(RejectReason.UNREADABLE_VIDEO, f"{uri}: its frames change their size")
            frame.load()
            shown.append(float(frame.info.get("duration") or _USUAL_MS) / 1000)
    if len(shown) < 2:
        raise Reject(RejectReason.UNREADABLE_VIDEO, f"{uri}: one picture, not a video; give it as an image")
    starts = np.concatenate([[0.0], np.cumsum(shown)])
    fps = len(shown) / float(starts[-1])
    even = len(set(shown)) == 1
    times = None if even else tuple(float(start) for start in starts[:-1])
    return MediaHeader(height=height, width=width, total_frames=len(shown), fps=fps, times=times, decoder="pillow")


def read_animation(data: bytes, indices: Sequence[int], uri: str) -> NDArray[np.uint8]:
    """Return the frames at `indices` as uint8 (n, height, width, 3), RGB.

    Raises:
        Reject: unreadable_video.
    """
    wanted, frames = set(indices), {}
    with _opened(data, uri) as picture:
        for number, frame in enumerate(ImageSequence.Iterator(picture)):
            if number in wanted:
                frames[number] = np.asarray(to_rgb(frame, uri))
            if len(frames) == len(wanted):
                break
    if missing := wanted - frames.keys():
        raise Reject(RejectReason.UNREADABLE_VIDEO, f"{uri}: no frame {min(missing)}")
    if len({frame.shape for frame in frames.values()}) > 1:
        raise Reject(RejectReason.UNREADABLE_VIDEO, f"{uri}: its frames change their size")
    return np.stack([frames[index] for index in indices])


@contextmanager
def _opened(data: bytes, uri: str) -> Iterator[Image.Image]:
    try:
        with open_picture(data, uri, FORMATS) as picture:
            yield picture
    except (Reject, MemoryError):
        raise
    except Exception as error:  # Pillow's readers raise nearly anything on damaged files
        raise Reject(RejectReason.UNREADABLE_VIDEO, f"{uri}: does not decode: {named_words(error)}") from error
