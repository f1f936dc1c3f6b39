"""A stand-in picture for batches without media.

Where parameters are sharded (FSDP, ZeRO-3), all ranks must run the vision tower in the same steps: a rank whose batch
is all text would leave the others waiting. `pack` deals ranks packs with the same kinds of media, so this is off by
default. One stand-in a batch is enough; its tokens stand in padding: masked, unlabelled, attended by nothing real.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from vlm_prep.core.errors import StoreError
from vlm_prep.core.processor_record import ProcessorRecord
from vlm_prep.processors.stand_in import stand_in_tensors


@dataclass(frozen=True, kw_only=True)
class DummyMedia:
    """What a batch without media gets."""

    ids: tuple[int, ...]
    """The placeholder tokens that the model pairs with the picture's features."""
    tensors: Mapping[str, torch.Tensor]
    """The picture as the model takes it, e.g. pixel_values and image_grid_thw."""

    @classmethod
    def of(cls, processor: ProcessorRecord, *, trust_remote_code: bool = False) -> DummyMedia:
        """Return the smallest media of a manifest's processor: one merged patch, black, where pictures are patches with
        a grid, else what the processor itself makes of the smallest that it takes.

        Raises:
            StoreError: it takes no pictures and no sound alone; make a DummyMedia of your own.
        """
        part = processor.get("parts", {}).get("image")
        settings = part["config"] if part is not None else {}
        names = ("patch_size", "temporal_patch_size", "merge_size")
        grids = {name for name, _ in part["outputs"].values()} if part is not None else set()
        token = processor.get("image_token_id")
        qwen = processor.get("mrope") is not None  # others may lay their patches otherwise (PaddleOCR-VL)
        if qwen and token is not None and all(name in settings for name in names):
            patch, frames, merge = (int(settings[name]) for name in names)
            if grids <= {"pixel_values", "image_grid_thw"}:
                return cls(
                    ids=(token,),
                    tensors={
                        "pixel_values": torch.zeros(merge * merge, 3 * frames * patch * patch),
                        "image_grid_thw": torch.tensor([[1, merge, merge]]),
                    },
                )
        found = processor.get("stand_in")
        if found is None:
            raise StoreError(
                f"the smallest picture of {processor.get('family')} is not known",
                "give the collater dummy=DummyMedia(ids=..., tensors=...)",
            )
        tensors = stand_in_tensors(processor, trust_remote_code=trust_remote_code)
        return cls(ids=tuple(found["ids"]), tensors=tensors)
