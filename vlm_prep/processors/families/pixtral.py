"""Pixtral (and Mistral 3, which uses its processor): rows of patches that end in break tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from vlm_prep.core.records import MediaKind
from vlm_prep.processors import internals
from vlm_prep.processors.adapter import Adapter
from vlm_prep.processors.expansion import Level, Size, Tensor


class Pixtral(Adapter):
    """Pixtral and Mistral 3."""

    family: ClassVar[str] = "pixtral"
    levels: Mapping[MediaKind, Level] = {"image": "formula"}
    geometry: tuple[Tensor, ...] = (Tensor(name="image_sizes", kind="image", dtype="int64", shape=(2,)),)

    def image_inputs(self, sizes: tuple[Size, ...]) -> Mapping[str, Any]:
        """See `Adapter.image_inputs`: the sizes after resizing."""
        import numpy as np

        patch = int(self.hf.patch_size * self.hf.spatial_merge_size)
        longest = self.part_record("image").kwargs.get("size", self.hf.image_processor.size)["longest_edge"]
        resize = internals.pixtral_resize.get()
        resized = [
            resize(np.broadcast_to(np.zeros(1, np.uint8), (height, width, 3)), (longest, longest), (patch, patch))
            for height, width in sizes
        ]
        return {"image_sizes": [[int(side) for side in size] for size in resized]}
