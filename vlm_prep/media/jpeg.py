"""JPEG to four bytes a pixel, without the detour over Pillow's lines.

Both decoders are libjpeg-turbo; simplejpeg asks it for the whole picture at once, in the layout that is wanted. That
this gives Pillow's pixels is not assumed: once in a process, pictures of noise are decoded both ways, and kinds of
JPEG that were not compared, or differed, are left to Pillow, as is every file that libjpeg-turbo warns of.
"""

from __future__ import annotations

import functools
import io

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

_SAMPLINGS = {"444": "4:4:4", "422": "4:2:2", "420": "4:2:0"}
"""Kinds of chroma subsampling, by simplejpeg's and by Pillow's name."""


def decode_rgbx(
    data: bytes, size: tuple[int, int], buffer: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8] | None:
    """Return uint8 (height, width, 4), the last byte of which means nothing; None if Pillow is to decode it.

    Args:
        data: a JPEG file.
        size: (width, height) that Pillow read from its header.
        buffer: memory for the pixels if it is large enough.
    """
    try:
        height, width, colours, sampling = simplejpeg.decode_jpeg_header(data)
        if colours != "YCbCr" or (width, height) != size or sampling not in _as_pillow():
            return None
        large = buffer is not None and buffer.size >= 4 * width * height
        found: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, "RGBX", buffer=buffer if large else None)
    except (ValueError, KeyError):
        # what libjpeg-turbo refuses, or only warns of, and kinds of subsampling that simplejpeg has no name for: Pillow
        # decodes it, or says what is wrong
        return None
    return found


@functools.cache
def _as_pillow() -> frozenset[str]:
    """Return the kinds of subsampling that both decode alike, sequential and progressive, of even and odd sizes."""
    return frozenset(name for name, pillow in _SAMPLINGS.items() if all(map(_same, _noise(pillow))))


def _noise(sampling: str) -> list[bytes]:
    draws, files = np.random.default_rng(0), []
    for quality, width, height in ((95, 96, 64), (75, 61, 45), (30, 33, 80)):
        coarse = Image.fromarray(draws.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8))
        smooth = np.asarray(coarse.resize((width, height)), np.int16) + draws.integers(-20, 21, (height, width, 3))
        picture = Image.fromarray(smooth.clip(0, 255).astype(np.uint8))
        for progressive in (False, True):
            file = io.BytesIO()
            picture.save(file, "JPEG", quality=quality, subsampling=sampling, progressive=progressive)
            files.append(file.getvalue())
    return files


def _same(data: bytes) -> bool:
    return np.array_equal(simplejpeg.decode_jpeg(data, "RGBX")[..., :3], np.asarray(Image.open(io.BytesIO(data))))
