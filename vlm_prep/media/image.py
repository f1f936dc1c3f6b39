"""A picture's header, its completeness, and its RGB pixels.

Pillow is the one reader, for the header as for the pixels: what it calls width and height is what it will decode.
Reading a header from the first 64 KiB costs 15 µs. EXIF orientation is applied, transparency is laid on white,
16-bit grey is scaled (not clipped) to 8 bits; of an animation the first frame is taken.

A file that was cut short opens like a whole one, so its end is looked at too: JPEG, PNG, GIF and WebP say where
they end. A file without the expected end, or of another format, is decoded to decide.
"""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from vlm_prep.core.errors import Reject, RejectReason
from vlm_prep.media.files import Ends, read_bytes

MAX_PIXELS = 178_956_970
"""Pillow's own limit for a decompression bomb (a quarter of a gigabyte of RGB, rounded by Pillow)."""

_ORIENTATION = 0x0112
_TRANSPOSED = (5, 6, 7, 8)
_SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I;16N")


def probe_image(uri: str, ends: Ends, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Return (height, width) in pixels after EXIF orientation, from the file's ends.

    Raises:
        Reject: unreadable_image, truncated_image or image_too_large.
    """
    complete = ends.size <= len(ends.head)
    try:
        picture = _open(ends.head)
        size, orientation, kind = picture.size, picture.getexif().get(_ORIENTATION), picture.format
    except Exception as error:
        # a big metadata block (an ICC profile, a TIFF whose directory is at the end) can push the header out of
        # the first 64 KiB; only then is the whole file read
        if complete:
            raise _unreadable(uri, error) from error
        size, orientation, kind = _probe_whole(uri)
    check_size(uri, size, max_pixels)
    if not _ends_well(kind, ends):
        check_decodes(uri, ends.head if complete else read_bytes(uri))
    width, height = size
    return (width, height) if orientation in _TRANSPOSED else (height, width)


# the size is checked by check_size, with a reject instead of a warning; catching it around each call costs 5 µs
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def _open(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def _probe_whole(uri: str) -> tuple[tuple[int, int], int | None, str | None]:
    data = read_bytes(uri)
    try:
        picture = _open(data)
        return picture.size, picture.getexif().get(_ORIENTATION), picture.format
    except Exception as error:  # Pillow's readers raise nearly anything on damaged headers
        raise _unreadable(uri, error) from error


def _unreadable(uri: str, error: Exception) -> Reject:
    if isinstance(error, Image.DecompressionBombError):
        return Reject(RejectReason.IMAGE_TOO_LARGE, f"{uri}: {error}")
    if isinstance(error, UnidentifiedImageError):
        return Reject(RejectReason.UNREADABLE_IMAGE, f"{uri}: not an image that Pillow can identify")
    return Reject(RejectReason.UNREADABLE_IMAGE, f"{uri}: {type(error).__name__}: {error}")


def check_size(uri: str, size: tuple[int, int], max_pixels: int) -> None:
    """Reject a picture whose header claims more than `max_pixels` pixels, before anything is decoded."""
    width, height = size
    if width * height > max_pixels:
        raise Reject(
            RejectReason.IMAGE_TOO_LARGE,
            f"{uri}: {width}x{height} is more than {max_pixels} pixels (--max-image-pixels)",
        )


def _ends_well(kind: str | None, ends: Ends) -> bool:
    """Whether the file ends as its format says. False means "decode it to find out"."""
    if kind == "JPEG":
        # entropy-coded data cannot hold FF D9; cameras pad with zeros after it
        return ends.last.rstrip(b"\0").endswith(b"\xff\xd9")
    if kind == "PNG":
        return ends.last[-8:-4] == b"IEND"
    if kind == "WEBP":
        return ends.size >= int.from_bytes(ends.head[4:8], "little") + 8
    if kind == "GIF":
        return ends.last.rstrip(b"\0").endswith(b"\x3b")
    return False


def check_decodes(uri: str, data: bytes) -> None:
    """Decode a picture and reject it where that fails.

    Raises:
        Reject: truncated_image or unreadable_image.
    """
    try:
        _open(data).load()
    except Exception as error:
        text = str(error)
        cut = "truncated" in text or "unexpected end" in text.lower() or isinstance(error, EOFError)
        reason = RejectReason.TRUNCATED_IMAGE if cut else RejectReason.UNREADABLE_IMAGE
        raise Reject(reason, f"{uri}: does not decode: {type(error).__name__}: {text}") from error


def load_rgb(data: bytes, uri: str = "image") -> Image.Image:
    """Return the picture in `data` as 8-bit RGB, upright.

    Raises:
        Reject: unreadable_image or truncated_image.
    """
    try:
        picture = _open(data)
        picture.load()
        return to_rgb(ImageOps.exif_transpose(picture))
    except Reject:
        raise
    except Exception as error:  # see _probe_whole
        raise _unreadable(uri, error) from error


def to_rgb(picture: Image.Image) -> Image.Image:
    """Return `picture` as 8-bit RGB: transparency laid on white, 16-bit grey scaled to 8 bits.

    Raises:
        Reject: unreadable_image for pixels whose range is not known (floating point, 32-bit integers above 65535).
    """
    if picture.mode == "RGB" and "transparency" not in picture.info:
        return picture
    if picture.mode in _SIXTEEN_BIT or picture.mode in ("I", "F"):
        return _scaled_grey(picture).convert("RGB")
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        coloured = picture.convert("RGBA")
        white = Image.new("RGBA", coloured.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, coloured).convert("RGB")
    return picture.convert("RGB")


def _scaled_grey(picture: Image.Image) -> Image.Image:
    values = np.asarray(picture)
    if picture.mode == "F" or (values.size and (values.min() < 0 or values.max() > 65535)):
        raise Reject(RejectReason.UNREADABLE_IMAGE, f"pixels of mode {picture.mode} have no known range; convert them")
    if picture.mode == "I" and values.max(initial=0) <= 255:
        return Image.fromarray(values.astype(np.uint8))
    wide = values.astype(np.uint32)
    return Image.fromarray(((wide * 255 + 32767) // 65535).astype(np.uint8))
