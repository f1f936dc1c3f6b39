"""NeMo Automodel's collate signature over shards: a function of (examples, processor).

In a recipe's YAML, with this file on PYTHONPATH:

    dataset:
      _target_: vlm_prep.stream.ShardDataset
      path: out/tok
      shuffle: false          # Automodel's DistributedSampler shuffles and shares out
    dataloader:
      collate_fn:
        _target_: automodel.collate_fn

`packed_collate_fn` is the same for a packed store. Labels are shifted, pixels are bfloat16 and the names are those of
pad_collate_fn and of neat_packed_vlm_collater. Automodel's sampler hands out rows by number: give each ShardDataset
world_size 1, or use `sampler=dataset.sampler()` in a loader of your own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from vlm_prep.stream import PackedCollate, PadCollate
from vlm_prep.stream.forms import Mask


def collate_fn(examples: Sequence[dict[str, Any]], processor: Any, max_length: int | None = None) -> dict[str, Any]:
    """Pad and stack rows of a tokenized store."""
    return PadCollate(max_length=max_length, pixel_dtype=torch.bfloat16, **_tokens(processor))(examples)


def packed_collate_fn(
    examples: Sequence[dict[str, Any]], processor: Any, max_length: int | None = None, mask: Mask = "sdpa"
) -> dict[str, Any]:
    """Lay out packs; `mask` is the packing contract (block-causal "sdpa", "document_ids", "varlen", "thd")."""
    collate = PackedCollate(
        max_length=max_length, mask=mask, shift=True, pixel_dtype=torch.bfloat16, **_tokens(processor)
    )
    return collate(examples)


def _tokens(processor: Any) -> dict[str, Any]:
    return {
        "pad_token_id": processor.tokenizer.pad_token_id or 0,
        "image_token_id": getattr(processor, "image_token_id", None),
        "video_token_id": getattr(processor, "video_token_id", None),
    }
