"""NeMo Automodel's collate signature over shards: a function of (examples, processor).

In a recipe's YAML:

    dataset:
      _target_: vlm_prep.stream.ShardDataset
      path: out/tok
      shuffle: false          # Automodel's DistributedSampler shuffles and shares out
    dataloader:
      collate_fn:
        _target_: vlm_prep.trainers.collate_fn
        store: out/tok

`packed_collate_fn` is the same for a packed store. Labels are shifted, pixels are bfloat16 and the names are those of
pad_collate_fn and of neat_packed_vlm_collater. Automodel's sampler hands out rows by number: give each ShardDataset
world_size 1, or use `sampler=dataset.sampler()` in a loader of your own.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch

from vlm_prep.stream import PackedCollate, PadCollate, ShardDataset
from vlm_prep.stream.attention import document_ids
from vlm_prep.stream.forms import Mask


def collate_fn(
    examples: Sequence[dict[str, Any]], processor: Any, max_length: int | None = None, store: str | None = None
) -> dict[str, Any]:
    """Pad and stack rows of a tokenized store.

    Args:
        examples: the rows.
        processor: Automodel's; says pad, picture and video tokens where no store is named.
        max_length: pad to it.
        store: whose rows they are; says what else its family's batches hold (token types, masks).
    """
    options: dict[str, Any] = {"max_length": max_length, "pixel_dtype": torch.bfloat16}
    collate = PadCollate(**options, **_tokens(processor)) if store is None else _padded(store, max_length)
    return collate(examples)


def packed_collate_fn(
    examples: Sequence[dict[str, Any]],
    processor: Any,
    max_length: int | None = None,
    mask: Mask = "sdpa",
    store: str | None = None,
    attention: str | None = None,
) -> dict[str, Any]:
    """Lay out packs; `mask` is the packing contract (block-causal "sdpa", "document_ids", "varlen", "thd").

    Models with sdpa attention read `sdpa`, with flash attention `varlen`, those that declare it (and `fa4`)
    `document_ids`, Transformer Engine `thd`. With `attention` (the model's implementation, in transformers' words) a
    mask that it does not read is refused. With all but `thd`, packs of several documents come with `_packed_seq_ids`,
    int64 (batch, length), 1-based document numbers, 0 where padded: its losses of further tokens (MTP), its context
    parallelism and some of its models read there which document a token is of.
    """
    options: dict[str, Any] = {"max_length": max_length, "pixel_dtype": torch.bfloat16}
    if store is not None:
        collate = _packed(store, max_length, mask, attention)
    else:
        collate = PackedCollate(mask=mask, shift=True, attention=attention, **options, **_tokens(processor))
    batch = dict(collate(examples))
    if mask != "thd":
        multiple = collate.document_multiple
        lengths = [-(-each // multiple) * multiple for each in batch.pop("seq_lens")]
        if max(map(len, lengths)) > 1:
            batch["_packed_seq_ids"] = document_ids(lengths, batch["input_ids"].shape[1])
    return batch


@functools.lru_cache(maxsize=8)
def _padded(store: str, max_length: int | None) -> PadCollate:
    return PadCollate.for_store(ShardDataset(store), max_length=max_length, pixel_dtype=torch.bfloat16)


@functools.lru_cache(maxsize=8)
def _packed(store: str, max_length: int | None, mask: Mask, attention: str | None) -> PackedCollate:
    options: dict[str, Any] = {"max_length": max_length, "mask": mask, "attention": attention}
    return PackedCollate.for_store(ShardDataset(store), shift=True, pixel_dtype=torch.bfloat16, **options)


def _tokens(processor: Any) -> dict[str, Any]:
    return {
        "pad_token_id": processor.tokenizer.pad_token_id or 0,
        "image_token_id": getattr(processor, "image_token_id", None),
        "video_token_id": getattr(processor, "video_token_id", None),
    }
