"""The patches of Qwen2VLImageProcessor (Qwen-VL, Qwen-Omni, LLaVA-OneVision-1.5) in uint8, without its detours.

A picture goes to the processor's own resize as the decoder left it, four bytes a pixel, which is the form that torch's
kernel works in; patches are then cut out of the result in runs of whole patch rows. One megapixel, on one core: 3.5 ms
and 1.3 ms, where the processor takes 26 ms. Used where it gives what the
processor gives (`encodings.find_encoding`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vlm_prep.core.scratch import MOST_KEPT, Scratch
from vlm_prep.media.decode import load_rgbx_media

if TYPE_CHECKING:
    from vlm_prep.processors.payload.pixels import PixelMaker

_CLASS = "Qwen2VLImageProcessor"
_TENSORS = {"pixel_values", "image_grid_thw"}


def patches_for(maker: PixelMaker, kind: str) -> Patches | None:
    """Return what makes patches for a kind of media, or None where this way is not known to."""
    settings = maker.settings(kind)
    known = kind == "image" and type(maker.part(kind)).__name__ == _CLASS and maker.names(kind) == _TENSORS
    return Patches(maker.part(kind), settings) if known and settings.get("do_resize") else None


class Patches:
    """Makes the patches of pictures.

    Args:
        part: the transformers image processor.
        settings: its own and those of each call.
    """

    def __init__(self, part: Any, settings: Mapping[str, Any]) -> None:
        self._part, self._settings = part, settings
        self._patch, self._merge = int(settings["patch_size"]), int(settings["merge_size"])
        self._decoded = Scratch()

    def of_media(self, struct: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        """Return the tensors of a stored picture, see `tensors`.

        Raises:
            Reject: it is gone, changed or damaged.
        """
        self._decoded.reset()
        size = 4 * struct["height"] * struct["width"]
        # the row says so, the file may not: what is larger than is kept is taken when the file has said so, too
        room = self._decoded.take(size) if 0 < size <= MOST_KEPT else None
        return self.tensors(load_rgbx_media(struct, room))

    def tensors(self, picture: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """Return pixel_values uint8 (patches, 3 * patch * patch), a frame once, and image_grid_thw int64 (1, 3).

        Args:
            picture: uint8 (height, width, 4), the last byte of which means nothing.
        """
        import torch

        resized = self._part.resize(
            images=torch.from_numpy(picture).permute(2, 0, 1)[None],
            size=self._part_size(),
            resample=self._settings["resample"],
            factor=self._patch * self._merge,
        )
        pixels = resized[0].permute(1, 2, 0).contiguous(memory_format=torch.contiguous_format).numpy()
        grid = np.array([[1, pixels.shape[0] // self._patch, pixels.shape[1] // self._patch]], np.int64)
        return {"pixel_values": self._cut(pixels), "image_grid_thw": grid}

    def _part_size(self) -> Any:
        from transformers.image_utils import SizeDict

        size = self._settings["size"]
        return size if isinstance(size, SizeDict) else SizeDict(**size)

    def _cut(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Cut (height, width, 4) into (patches, 3 * patch * patch), in the order of merged patches."""
        height, width, depth = pixels.shape
        patch, merge = self._patch, self._merge
        down, across = height // patch // merge, width // patch // merge
        line, tile = np.dtype(f"V{patch * depth}"), np.dtype(f"V{patch * patch}")
        strips = pixels.reshape(down, -1)
        cut = np.empty((down, across * merge * merge, 3), tile)
        # a row of merged patches at a time is copied to where it stays in the processor's cache: its lines lie far
        # apart. Then a patch's line is copied as one item; pixels are little-endian numbers, which numpy shifts and
        # narrows several times faster than it steps through bytes
        strip, ordered = np.empty(strips.shape[1], np.uint8), np.empty((across, merge, merge, patch), line)
        lines = strip.view(line).reshape(merge, patch, across, merge).transpose(2, 0, 3, 1)
        numbers = ordered.view("<u4").reshape(-1)
        shifted, planes = np.empty_like(numbers), np.empty((3, numbers.size), np.uint8)
        tiles = planes.view(tile).T
        for row in range(down):
            np.copyto(strip, strips[row])
            np.copyto(ordered, lines)
            np.copyto(planes[0], numbers, casting="unsafe")
            for channel in (1, 2):
                np.right_shift(numbers, 8 * channel, out=shifted)
                np.copyto(planes[channel], shifted, casting="unsafe")
            cut[row] = tiles
        return cut.view(np.uint8).reshape(-1, 3 * patch * patch)
