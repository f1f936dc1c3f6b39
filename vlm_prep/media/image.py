"""A picture's header, its completeness, and its RGB pixels.

Pillow is the one reader, for the header as for the pixels: what it calls width and height is what it will decode. Which
formats it may open is said by a list, see `image_formats`. Reading a header from the first 64 KiB costs 15 µs. EXIF
orientation is applied, transparency is laid on white, 16-bit grey is scaled (not clipped) to 8 bits, as is grey in
floats that lie in [0, 1] or in the range that the file declares; of an animation the first frame is taken.

A file that was cut short opens like a whole one, so its end is looked at too: JPEG, PNG and WebP say where they end. A
file without the expected end, or of another format, is decoded to decide, and its size is that of the decoded picture.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from vlm_prep.core.errors import Reject, RejectReason
from vlm_prep.core.regular_files import open_regular
from vlm_prep.media.files import Ends, local_path, read_bytes
from vlm_prep.media.image_formats import open_picture
from vlm_prep.media.jpeg import decode_rgbx
from vlm_prep.media.library_words import begins, named_words

MAX_PIXELS = 178_956_970
"""Pillow's own limit for a decompression bomb (a quarter of a gigabyte of RGB, rounded by Pillow)."""
_MOST_PASSES = 16
"""Over so many pixels; progressive JPEGs have ten scans or so."""

_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation → what turns the stored pixels upright; 5 to 8 exchange width and height."""
_SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I;16N")
_RANGE = ((340, 0.0), (341, 1.0))
"""TIFF's SMinSampleValue and SMaxSampleValue, and what is taken where they are absent."""
_PNG_ORIENTATION = (b"eXIf", b"iTXt", b"zTXt", b"fcTL")
"""PNG chunks that, behind the pixels, may hold an orientation (or, of an animation, end Pillow's search for one)."""
_PROFILE = b"Raw profile type exif"
_CHUNK_HEAD = 8 + len(_PROFILE)


class PictureLook(NamedTuple):
    """What the head of a picture says."""

    size: tuple[int, int]
    """(height, width) in pixels after EXIF orientation."""
    has_alpha: bool
    """Whether it has an alpha channel or a transparent colour; what is transparent in it only its pixels tell."""


def probe_image(
    uri: str,
    ends: Ends,
    *,
    data: bytes | None = None,
    max_pixels: int = MAX_PIXELS,
    formats: Sequence[str] | None = None,
) -> PictureLook:
    """Return a picture's size and whether it may be transparent, from the file's ends.

    Args:
        uri: the picture.
        ends: its first and last bytes.
        data: all its bytes, where they are in memory anyway.
        max_pixels: reject larger pictures, before anything is decoded.
        formats: those that may be opened, see `image_formats.open_picture`.

    Raises:
        Reject: unreadable_image, truncated_image or image_too_large.
    """
    if ends.size <= len(ends.head):
        data = ends.head
    picture, data = _opened(uri, ends, data, formats)
    check_size(uri, picture.size, max_pixels)
    if not _ends_well(picture.format, ends) or (picture.format == "PNG" and _turned_behind_pixels(uri, data)):
        return PictureLook(check_decodes(uri, data or read_bytes(uri)), has_alpha(picture))
    width, height = picture.size
    size = (width, height) if _orientation(uri, picture) in (5, 6, 7, 8) else (height, width)
    return PictureLook(size, has_alpha(picture))


def _opened(
    uri: str, ends: Ends, data: bytes | None, formats: Sequence[str] | None
) -> tuple[Image.Image, bytes | None]:
    """Return the picture, opened from its head if that suffices, and its bytes if they were read."""
    try:
        return open_picture(ends.head, uri, formats), data
    except (MemoryError, Reject):
        raise
    except Exception as error:
        # a big metadata block (an ICC profile, a TIFF whose directory is at the end) can push the header out of
        # the first 64 KiB; only then is the whole file read
        if data is ends.head:
            raise _unreadable(uri, error, begins(ends.head)) from error
    data = data or read_bytes(uri)
    try:
        return open_picture(data, uri, formats), data
    except (MemoryError, Reject):  # out of memory is the engine's matter: rejected if the row alone needs too much
        raise
    except Exception as error:  # Pillow's readers raise nearly anything on damaged headers
        raise _unreadable(uri, error) from error


def _orientation(uri: str, picture: Image.Image) -> int | None:
    try:
        # PngImageFile.getexif would decode the pixels first, to look behind them: see _turned_behind_pixels
        value: int | None = Image.Image.getexif(picture).get(_ORIENTATION)
    except MemoryError:
        raise
    except Exception as error:
        raise _unreadable(uri, error) from error
    return value


def _turned_behind_pixels(uri: str, data: bytes | None) -> bool:
    """Whether a PNG may state its orientation behind its pixels: its chunks are walked, without reading what they hold
    where it is a file."""
    path = local_path(uri) if data is None else None
    if path is None:
        whole = read_bytes(uri) if data is None else data
        return _turns_behind(lambda place: whole[place : place + _CHUNK_HEAD], len(whole))
    try:
        with open_regular(path) as file:
            number = file.fileno()
            return _turns_behind(lambda place: os.pread(number, _CHUNK_HEAD, place), os.fstat(number).st_size)
    except OSError as error:
        raise Reject(RejectReason.UNREADABLE_FILE, f"{uri}: {error.strerror or error}") from error


def _turns_behind(head: Callable[[int], bytes], size: int) -> bool:
    position, pixels = 8, False
    while position + 12 <= size:
        chunk = head(position)
        length, name = int.from_bytes(chunk[:4]), chunk[4:8]
        profile = name == b"tEXt" and chunk[8:].startswith(_PROFILE)
        if pixels and (name in _PNG_ORIENTATION or profile):
            return True
        pixels = pixels or name == b"IDAT"
        position += 12 + length
    return False


def _unreadable(uri: str, error: Exception, more: str = "") -> Reject:
    if isinstance(error, Image.DecompressionBombError):
        return Reject(RejectReason.IMAGE_TOO_LARGE, f"{uri}: {error}")
    if isinstance(error, UnidentifiedImageError):
        return Reject(RejectReason.UNREADABLE_IMAGE, f"{uri}: not an image that Pillow can identify{more}")
    return Reject(RejectReason.UNREADABLE_IMAGE, f"{uri}: {named_words(error)}")


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
    # a GIF ends in ";", and so does one in 256 that was cut
    return False


def check_decodes(uri: str, data: bytes) -> tuple[int, int]:
    """Decode a picture to the pixels that training sees and return its (height, width).

    Raises:
        Reject: truncated_image or unreadable_image.
    """
    width, height = load_rgb(data, uri).size
    return height, width


def is_transparent(data: bytes, uri: str) -> bool:
    """Whether any pixel of a picture is not opaque.

    Raises:
        Reject: truncated_image or unreadable_image.
    """
    with _saying(uri):
        least: Any = open_picture(data, uri).convert("RGBA").getchannel("A").getextrema()[0]
        return bool(least < 255)


def load_rgb(data: bytes, uri: str = "image") -> Image.Image:
    """Return the picture in `data` as 8-bit RGB, upright.

    Raises:
        Reject: unreadable_image or truncated_image.
    """
    with _saying(uri):
        return _decoded(_whole(data, uri), uri)


def load_rgbx(data: bytes, uri: str = "image", *, buffer: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
    """Return what `load_rgb` does as uint8 (height, width, 4), of which the last byte means nothing.

    A plain JPEG is decoded past Pillow, to the same pixels in three quarters of the time, see `jpeg`.

    Args:
        data: the file.
        uri: for messages.
        buffer: memory to decode into if it is large enough; it may also be left alone.

    Raises:
        Reject: unreadable_image or truncated_image.
    """
    with _saying(uri):
        picture = _whole(data, uri)
        plain = picture.format == "JPEG" and picture.mode == "RGB" and _turned(picture) is None
        found = decode_rgbx(data, picture.size, buffer) if plain else None
        return found if found is not None else four_bytes(_decoded(picture, uri))


@contextlib.contextmanager
def _saying(uri: str) -> Iterator[None]:
    """Turn what goes wrong in decoding into a reject."""
    try:
        yield
    except (Reject, MemoryError):
        raise
    except Exception as error:
        raise _undecodable(uri, error) from error


def _whole(data: bytes, uri: str) -> Image.Image:
    """Open a picture; a JPEG that was cut is rejected, and one that passes over its pixels again and again."""
    picture = open_picture(data, uri)
    if picture.format in ("JPEG", "MPO"):
        # Pillow stops reading the header at the start of the pixels; an EXIF thumbnail with its own end lies before
        pixels: int = getattr(picture, "fp").tell()  # noqa: B009 - ImageFile's, which Image.open does not promise
        end = data.find(b"\xff\xd9", pixels)
        if end < 0:  # filled up with zeros, it decodes without an error
            raise Reject(RejectReason.TRUNCATED_IMAGE, f"{uri}: no end-of-image marker after its pixels")
        # of a progressive one; a scan of some bytes is a pass over all pixels
        scans, (width, height) = 1 + data.count(b"\xff\xda", pixels, end), picture.size
        if scans * width * height > _MOST_PASSES * MAX_PIXELS:
            message = f"{uri}: {scans} scans of {width}x{height} are more than {_MOST_PASSES} x {MAX_PIXELS} pixels"
            raise Reject(RejectReason.IMAGE_TOO_LARGE, message)
    return picture


def _decoded(picture: Image.Image, uri: str) -> Image.Image:
    picture.load()
    # ImageOps.exif_transpose would also write the EXIF block anew, which fails on odd ones
    method = _turned(picture)
    return to_rgb(picture.transpose(method) if method is not None else picture, uri)


def _turned(picture: Image.Image) -> Image.Transpose | None:
    orientation: Any = picture.getexif().get(_ORIENTATION)
    return _UPRIGHT.get(orientation)


def four_bytes(picture: Image.Image) -> NDArray[np.uint8]:
    """Return a picture as (height, width, 4)."""
    try:
        data = pa.array(picture).values.to_numpy()  # as Pillow holds it
    except ValueError:  # larger than a block of Pillow's memory
        data = np.asarray(picture.convert("RGBX"))
    return np.array(data, np.uint8).reshape(picture.height, picture.width, -1)


def _undecodable(uri: str, error: Exception) -> Reject:
    text = str(error)
    if isinstance(error, UnidentifiedImageError | Image.DecompressionBombError):
        return _unreadable(uri, error)
    cut = "truncated" in text or "unexpected end" in text.lower() or isinstance(error, EOFError)
    reason = RejectReason.TRUNCATED_IMAGE if cut else RejectReason.UNREADABLE_IMAGE
    return Reject(reason, f"{uri}: does not decode: {named_words(error)}")


def to_rgb(picture: Image.Image, uri: str) -> Image.Image:
    """Return `picture`, which `uri` names, as 8-bit RGB: transparency laid on white, as transformers' processors lay it
    (`image_transforms.convert_to_rgb`), 16-bit grey scaled to 8 bits.

    Raises:
        Reject: unreadable_image for pixels whose range is not known (floating point, 32-bit integers above 65535).
    """
    if picture.mode == "RGB" and "transparency" not in picture.info:
        return picture
    if picture.mode in _SIXTEEN_BIT or picture.mode in ("I", "F"):
        return _scaled_grey(picture, uri).convert("RGB")
    if has_alpha(picture):
        coloured = picture.convert("RGBA")
        white = Image.new("RGBA", coloured.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, coloured).convert("RGB")
    return picture.convert("RGB")


def has_alpha(picture: Image.Image) -> bool:
    """Whether a picture has an alpha channel or a transparent colour, as far as its head tells."""
    return picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info


def _scaled_grey(picture: Image.Image, uri: str) -> Image.Image:
    values = np.asarray(picture)
    if picture.mode == "F":
        return _scaled_floats(picture, values, uri)
    if values.size and (values.min() < 0 or values.max() > 65535):
        message = f"{uri}: pixels of mode {picture.mode} beyond 0 to 65535 have no known range; convert them"
        raise Reject(RejectReason.UNREADABLE_IMAGE, message)
    if picture.mode == "I" and values.max(initial=0) <= 255:
        return Image.fromarray(values.astype(np.uint8))
    wide = values.astype(np.uint32)
    return Image.fromarray(((wide * 255 + 32767) // 65535).astype(np.uint8))


def _scaled_floats(picture: Image.Image, values: NDArray[np.float32], uri: str) -> Image.Image:
    """Grey in floats: from the range that a TIFF declares, or from [0, 1]."""
    tags: Any = getattr(picture, "tag_v2", {})
    least, most = (float(np.asarray(tags.get(tag, usual)).flat[0]) for tag, usual in _RANGE)
    if not (most > least and values.size and values.min() >= least and values.max() <= most):
        message = f"{uri}: pixels of mode F are not all in the range {least:g} to {most:g} that is declared or usual"
        hint = "convert them, or declare it in the TIFF (SMinSampleValue, SMaxSampleValue)"
        raise Reject(RejectReason.UNREADABLE_IMAGE, f"{message}; {hint}")
    scaled = (values.astype(np.float64) - least) * 255 / (most - least)
    return Image.fromarray(np.floor(scaled + 0.5).astype(np.uint8))
