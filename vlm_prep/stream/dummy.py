"""A stand-in picture for batches without media.

Where parameters are sharded (FSDP, ZeRO-3), all ranks must run the vision tower in the same steps: a rank whose batch
is all text would leave the others waiting. `pack` deals ranks packs with the same kinds of media, so this is off by
default. One stand-in a batch is enough; its tokens stand in padding: masked, unlabelled, attended by nothing real.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from vlm_prep.core.errors import StoreError


@dataclass(frozen=True, kw_only=True)
class DummyMedia:
    """What a batch without media gets."""

    ids: tuple[int, ...]
    """The placeholder tokens that the model pairs with the picture's features."""
    tensors: Mapping[str, torch.Tensor]
    """The picture as the model takes it, e.g. pixel_values and image_grid_thw."""

    @classmethod
    def of(cls, processor: Mapping[str, Any]) -> DummyMedia:
        """Return the smallest picture of a manifest's processor: one merged patch, black.

        Raises:
            StoreError: the family's pictures are not patches with a grid; make a DummyMedia of your own.
        """
        settings = (processor.get("parts", {}).get("image") or {}).get("config", {})
        names = ("patch_size", "temporal_patch_size", "merge_size")
        if not isinstance(processor.get("image_token_id"), int) or not all(name in settings for name in names):
            raise StoreError(
                f"the smallest picture of {processor.get('family')} is not known",
                "give the collater dummy=DummyMedia(ids=..., tensors=...)",
            )
        patch, frames, merge = (int(settings[name]) for name in names)
        return cls(
            ids=(processor["image_token_id"],),
            tensors={
                "pixel_values": torch.zeros(merge * merge, 3 * frames * patch * patch),
                "image_grid_thw": torch.tensor([[1, merge, merge]]),
            },
        )
