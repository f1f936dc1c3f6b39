"""Media of a size that show nothing, noise, or noise within a margin: to ask a processor what depends on it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vlm_prep.core.records import MediaHeader, MediaKind

Show = Literal["blank", "white", "noise", "margin", "dark margin"]
Place = tuple[MediaKind, MediaHeader, tuple[int, ...] | None, float | None]
"""A media as the answer may depend on it: kind, header, frames that are taken, and their rate."""
LARGER = 7
"""By how much tiny media are enlarged, for processors that take none as small, or none of sides that are no multiples
of a patch."""
TINY = MediaHeader(height=64, width=96, total_frames=4, fps=2.0, samples=16_000, sampling_rate=16_000)


def place_of(kind: MediaKind, header: MediaHeader = TINY) -> Place:
    """Return the place of a media of which all frames are taken."""
    if kind != "video":
        return kind, header, None, None
    return kind, header, tuple(range(header.total_frames or 0)), header.fps


def size_of(kind: MediaKind, header: MediaHeader) -> MediaHeader:
    """Return what of a header a blank media has: equal for all files of one size."""
    if kind == "audio":
        return MediaHeader(samples=header.samples, sampling_rate=header.sampling_rate)
    sized = MediaHeader(height=header.height, width=header.width)
    return sized if kind == "image" else replace(sized, total_frames=header.total_frames, fps=header.fps)


def drawn(place: Place, show: Show, samples: int) -> Any:
    """Return a media: a picture, uint8 (frames, height, width, 3), or float32 (samples,).

    Args:
        place: its kind and size.
        show: what it shows.
        samples: of a waveform, at the processor's rate.
    """
    from PIL import Image

    kind, header, indices, _ = place
    if kind == "audio":
        noise = np.random.default_rng(0).standard_normal(samples).astype(np.float32)
        return noise * np.float32(0.1 if show == "noise" else 1e-3)
    picture = _pixels(header.height, header.width, show)
    if kind == "image":
        return Image.fromarray(picture)
    frames = np.broadcast_to(picture, (len(indices or ()), *picture.shape))
    # frames that differ: some processors leave out what stays the same
    return frames if show == "blank" else np.stack([np.roll(frame, 7 * n, 1) for n, frame in enumerate(frames)])


def described(place: Place) -> str:
    """Return a media in words."""
    kind, header, indices, _ = place
    if kind == "audio":
        return f"audio of {header.samples} samples"
    size = f"{header.width}x{header.height}"
    return f"a picture of {size}" if kind == "image" else f"{len(indices or ())} frames of {size}"


def _pixels(height: int, width: int, show: str) -> NDArray[np.uint8]:
    """uint8 (height, width, 3)."""
    if show in ("blank", "white"):
        return np.full((height, width, 3), 255 * (show == "white"), np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    if show == "noise":
        return noise
    framed = np.full_like(noise, 0 if show == "dark margin" else 255)
    middle = (slice(height // 4, height // 2), slice(width // 3, width // 2))
    framed[middle] = noise[middle]
    return framed
