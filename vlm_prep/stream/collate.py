"""Batches: pad and stack. Everything that could be decided before training was.

`PadCollate` has the semantics of the padding collater that it replaces in trainers (NeMo Automodel's
pad_collate_fn: right padding, shifted labels, media concatenated), except that nothing is cut or dropped: a row
longer than `max_length` raises, `second_per_grid_ts` is kept, and pixels keep the processor's float32 unless a
dtype is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch

from vlm_prep.stream.dataset import Item, ShardDataset
from vlm_prep.stream.masks import block_causal, cumulative_lengths, document_ids

IGNORE = -100
Mask = Literal["sdpa", "document_ids", "varlen"]
Batch = dict[str, Any]
_PIXELS = ("pixel_values", "pixel_values_videos")
_MEDIA = (*_PIXELS, "image_grid_thw", "video_grid_thw", "second_per_grid_ts")


class _Collate:
    """What both collaters share.

    Args:
        pad_token_id: fills input_ids.
        image_token_id: marks pictures in mm_token_type_ids.
        video_token_id: marks videos in mm_token_type_ids.
        max_length: pad to it; None pads to the longest row.
        pad_to_multiple_of: round the padded length up to a multiple.
        pixel_dtype: cast pixels; None keeps the processor's float32.
    """

    def __init__(
        self,
        pad_token_id: int = 0,
        *,
        image_token_id: int | None = None,
        video_token_id: int | None = None,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        pixel_dtype: torch.dtype | None = None,
    ) -> None:
        self.pad_token_id = pad_token_id
        self.image_token_id, self.video_token_id = image_token_id, video_token_id
        self.max_length, self.pad_to_multiple_of = max_length, pad_to_multiple_of
        self.pixel_dtype = pixel_dtype

    def _length(self, items: Sequence[Item]) -> int:
        """The padded length of a batch."""
        longest = max(len(item["input_ids"]) for item in items)
        if self.max_length is not None and longest > self.max_length:
            named = next(item for item in items if len(item["input_ids"]) == longest)
            raise ValueError(
                f"{named.get('sample_id', named.get('sample_ids'))}: {longest} tokens, more than max_length "
                f"{self.max_length}; rows are never cut here: tokenize or pack with that length"
            )
        length = self.max_length or longest
        multiple = self.pad_to_multiple_of or 1
        return -(-length // multiple) * multiple

    def _tokens(self, items: Sequence[Item], length: int) -> Batch:
        """input_ids, labels and mm_token_type_ids, right-padded."""
        ids = torch.full((len(items), length), self.pad_token_id, dtype=torch.int64)
        labels = torch.full((len(items), length), IGNORE, dtype=torch.int64)
        kinds = torch.zeros((len(items), length), dtype=torch.int64)
        for row, item in enumerate(items):
            count = len(item["input_ids"])
            ids[row, :count] = item["input_ids"]
            labels[row, :count] = item["labels"]
            for kind, token in ((1, self.image_token_id), (2, self.video_token_id)):
                if token is not None:
                    kinds[row, :count][item["input_ids"] == token] = kind
        batch: Batch = {"input_ids": ids, "labels": labels}
        if self.image_token_id is not None or self.video_token_id is not None:
            batch["mm_token_type_ids"] = kinds
        return batch

    def _media(self, items: Sequence[Item]) -> Batch:
        """Media tensors of all items, concatenated in order; none if no item has any."""
        batch: Batch = {}
        for name in _MEDIA:
            tensors = [item[name] for item in items if name in item and len(item[name])]
            if tensors:
                joined = torch.cat(tensors)
                batch[name] = joined.to(self.pixel_dtype) if name in _PIXELS and self.pixel_dtype else joined
        for name, key in (("n_images_per_sample", "n_images"), ("n_videos_per_sample", "n_videos")):
            counts = [item.get(key, 0) for item in items]
            if any(counts):
                batch[name] = torch.tensor(counts, dtype=torch.int64)
        return batch


def _store_options(dataset: ShardDataset) -> dict[str, Any]:
    processor = dataset.manifest.processor
    return {
        "pad_token_id": processor["pad_token_id"] or 0,
        "image_token_id": processor["image_token_id"],
        "video_token_id": processor["video_token_id"],
    }


class PadCollate(_Collate):
    """Pad samples on the right and stack them.

    Returns, for a batch of B items padded to S: input_ids, labels, attention_mask (1 for tokens, 0 for padding) and
    mm_token_type_ids, int64 (B, S), or (B, S-1) with `shift`; media tensors concatenated over the batch;
    n_images_per_sample and n_videos_per_sample int64 (B,) where the batch has any.

    Args:
        pad_token_id: see `_Collate`.
        shift: labels[t] is the token after input_ids[t], for trainers that compare position by position; False for
            models that shift inside (transformers).
        options: see `_Collate`.
    """

    def __init__(self, pad_token_id: int = 0, *, shift: bool = True, **options: Any) -> None:
        super().__init__(pad_token_id, **options)
        self.shift = shift

    @classmethod
    def for_store(cls, dataset: ShardDataset, **options: Any) -> PadCollate:
        """Return a collater with the token ids of the dataset's processor."""
        return cls(**{**_store_options(dataset), **options})

    def __call__(self, items: Sequence[Item]) -> Batch:
        """Collate items of a tokenized store."""
        if "seq_lens" in items[0]:
            raise ValueError("these items are packs, whose documents must not see each other: use PackedCollate")
        length = self._length(items)
        batch = self._tokens(items, length)
        mask = torch.zeros((len(items), length), dtype=torch.int64)
        for row, item in enumerate(items):
            mask[row, : len(item["input_ids"])] = 1
        batch["attention_mask"] = mask
        if self.shift:
            shifted = batch["labels"][:, 1:]
            batch = {name: tensor[:, :-1] for name, tensor in batch.items()}
            batch["labels"] = shifted
        return {**batch, **self._media(items)}


class PackedCollate(_Collate):
    """Pad packs on the right and stack them, with the attention of their documents.

    Returns, for a batch of B packs padded to S: input_ids, labels int64 (B, S); position_ids int64 (3, B, S) for
    mRoPE (float32 for Qwen3-Omni) or (B, S); seq_lens, a list of int64 (documents,); media tensors concatenated; and
    by `mask`

    - "sdpa": attention_mask bool (B, 1, S, S);
    - "document_ids": attention_mask int64 (B, S), 1-based document numbers;
    - "varlen": cu_seq_lens_q, cu_seq_lens_k int32, max_length_q, max_length_k, and no attention_mask.

    Args:
        pad_token_id: see `_Collate`.
        mask: the form of attention, see `masks`.
        shift: labels[t] becomes the label of t+1 within each document and -100 at its end, same length, so that no
            document predicts the next one's first token; False for models that shift inside. Those shift across
            documents too, so the first label of each later document is -100 then: it would be predicted from the
            document before.
        options: see `_Collate`.
    """

    def __init__(self, pad_token_id: int = 0, *, mask: Mask = "sdpa", shift: bool = False, **options: Any) -> None:
        super().__init__(pad_token_id, **options)
        if mask not in get_args(Mask):
            raise ValueError(f"mask {mask!r}: it is one of {', '.join(get_args(Mask))}")
        self.mask, self.shift = mask, shift

    @classmethod
    def for_store(cls, dataset: ShardDataset, **options: Any) -> PackedCollate:
        """Return a collater with the token ids of the dataset's processor."""
        return cls(**{**_store_options(dataset), **options})

    def __call__(self, items: Sequence[Item]) -> Batch:
        """Collate packs."""
        if "seq_lens" not in items[0]:
            raise ValueError("these items are samples, not packs: use PadCollate, or pack the store first")
        length = self._length(items)
        batch = self._tokens(items, length)
        lengths = [item["seq_lens"] for item in items]
        for row, counts in enumerate(lengths):
            starts = torch.cumsum(counts, 0)[:-1]
            if self.shift:
                total = int(counts.sum())
                batch["labels"][row, : total - 1] = batch["labels"][row, 1:total].clone()
                batch["labels"][row, starts - 1] = IGNORE
                batch["labels"][row, total - 1] = IGNORE
            else:
                batch["labels"][row, starts] = IGNORE
        batch["position_ids"] = self._positions(items, length)
        batch["seq_lens"] = lengths
        return {**batch, **self._attention(lengths, length), **self._media(items)}

    def _positions(self, items: Sequence[Item], length: int) -> torch.Tensor:
        first = items[0]["position_ids"]
        positions = torch.zeros((*first.shape[:-1], len(items), length), dtype=first.dtype)
        for row, item in enumerate(items):
            positions[..., row, : item["position_ids"].shape[-1]] = item["position_ids"]
        return positions

    def _attention(self, lengths: Sequence[torch.Tensor], length: int) -> Batch:
        if self.mask == "varlen":
            boundaries, longest = cumulative_lengths(lengths, length)
            return {
                "cu_seq_lens_q": boundaries,
                "cu_seq_lens_k": boundaries,
                "max_length_q": longest,
                "max_length_k": longest,
            }
        documents = document_ids(lengths, length)
        return {"attention_mask": documents if self.mask == "document_ids" else block_causal(documents)}
