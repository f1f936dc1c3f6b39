"""Pictures and sound that are made when they are read: `mock:noise/640x480/17`, `mock:chart/640x480/17`,
`mock:tone/48000@16000/17` (samples, rate), each by its seed alone.

They are for runs that measure, and stand in no file: a store with `--media reference` holds their names. The bytes are
those of PPM and WAV, which need no library, so that the same name gives the same bytes everywhere. Rows of a user's
data cannot name them; only `ingest.mock_rows` does.
"""

from __future__ import annotations

import re
import struct
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vlm_prep.core.errors import Reject, RejectReason

_NAME: Final = re.compile(
    r"mock:(?:(?P<look>noise|chart)/(?P<width>\d+)x(?P<height>\d+)|tone/(?P<samples>\d+)@(?P<rate>\d+))/(?P<seed>\d+)"
)
MADE: Final = "mock:"
_MOST: Final = 1 << 30
"""Bytes."""


def is_made(uri: str) -> bool:
    """Whether a uri names a media that is made when it is read."""
    return uri.startswith(MADE)


@lru_cache(maxsize=2)
def make_media(uri: str) -> bytes:
    """Return the bytes of a made picture (PPM) or sound (16-bit mono WAV).

    Raises:
        Reject: missing_file, no such name.
    """
    found = _NAME.fullmatch(uri)
    if found is None:
        raise Reject(RejectReason.MISSING_FILE, f"{uri}: no made media")
    seed = int(found["seed"])
    if found["samples"] is not None:
        return _wave(int(found["samples"]), int(found["rate"]), seed)
    width, height = int(found["width"]), int(found["height"])
    if width * height * 3 > _MOST:
        raise Reject(RejectReason.IMAGE_TOO_LARGE, f"{uri}: more than {_MOST:,} bytes")
    pixels = (_noise if found["look"] == "noise" else _chart)(width, height, np.random.default_rng(seed))
    return b"P6\n%d %d\n255\n" % (width, height) + pixels.tobytes()


def _noise(width: int, height: int, random: np.random.Generator) -> NDArray[np.uint8]:
    return random.integers(0, 256, size=(height, width, 3), dtype=np.uint8)


def _chart(width: int, height: int, random: np.random.Generator) -> NDArray[np.uint8]:
    """Bars on white, as they compress and tokenize: flat areas with sharp edges."""
    pixels = np.full((height, width, 3), 255, np.uint8)
    bars = max(1, min(12, width // 8))
    for number, (left, right) in enumerate(
        zip(range(0, width, width // bars), range(width // bars, width + 1, width // bars), strict=False)
    ):
        top = int(random.integers(0, height))
        pixels[top:, left : max(left + 1, right - (number % 2 + 1))] = random.integers(0, 256, 3, dtype=np.uint8)
    return pixels


def _wave(samples: int, rate: int, seed: int) -> bytes:
    random = np.random.default_rng(seed)
    period = max(2, rate // int(random.integers(110, 880)))
    tone = np.abs(np.arange(samples) % period - period // 2) * (16000 // period)  # a triangle, in whole numbers
    data = (tone - 4000 + random.integers(-400, 401, samples)).astype("<i2").tobytes()
    head = struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        b"RIFF",
        36 + len(data),
        b"WAVE",
        b"fmt ",
        16,
        1,
        1,
        rate,
        2 * rate,
        2,
        16,
        b"data",
        len(data),
    )
    return head + data
