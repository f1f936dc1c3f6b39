"""What the decoder of an encoder-decoder is given, and its encoder where that reads text beside media.

Whisper, Donut     prompt answer </s>                  all of it is the decoder's
Florence-2         <image>... <s> prompt </s> | <s> answer </s>     encoder | decoder
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from vlm_prep.stream.collate_base import IGNORE, TRAINED, Arrays, array_of, rows_of
from vlm_prep.stream.dataset import Item

DECODER = ("decoder_start_token_id", "encoder_end_token_id")
"""What a store's processor says of it, and `PadCollate` takes."""
_FILL = {"input_ids": 0, "labels": IGNORE, "loss_weights": 0}


def opened(item: Item, start: int) -> Item:
    """Return an item whose ids open with a decoder's first token."""
    ids = array_of(item["input_ids"])
    if rows_of(ids) and int(ids[0]) == start:
        return item
    fill = {**_FILL, "input_ids": start}
    arrays = {name: array_of(item[name]) for name in fill if name in item}
    return {**item, **{name: np.concatenate([np.full(1, fill[name], a.dtype), a]) for name, a in arrays.items()}}


def parted(items: Sequence[Item], end: int) -> tuple[list[Item], list[Any]]:
    """Return items of what decoders are given, and the ids that encoders are given: all up to the first `end`.

    Raises:
        ValueError: an item has no such token.
    """
    decoders, encoders = [], []
    for item in items:
        ids = array_of(item["input_ids"])
        ends = np.flatnonzero(ids == end)
        if not len(ends):
            raise ValueError(f"{item.get('sample_id')}: no token {end} ends what its encoder reads")
        first = int(ends[0]) + 1
        encoders.append(ids[:first])
        decoders.append({**item, **{name: array_of(item[name])[first:] for name in _FILL if name in item}})
    return decoders, encoders


def for_decoder(batch: Arrays, drop: Sequence[str]) -> Arrays:
    """Return a batch under a decoder's names: it is given each token but the last, and says each but the first.

    Args:
        batch: of tensors or arrays (B, S).
        drop: what it holds of tokens beside.
    """
    ids, mask = batch.pop("input_ids"), batch.pop("attention_mask")
    for name in drop:
        batch.pop(name, None)
    trained = {name: batch.pop(name)[:, 1:] for name in TRAINED if name in batch}
    return {"decoder_input_ids": ids[:, :-1], "decoder_attention_mask": mask[:, 1:], **trained, **batch}


def for_encoder(rows: Sequence[Any], pad: int, multiple: int) -> Arrays:
    """Return `input_ids` and `attention_mask`, int64 (B, S): right-padded to the longest row, and to a multiple."""
    lengths = np.array([len(row) for row in rows])
    length = -(-int(lengths.max()) // multiple) * multiple
    ids = np.full((len(rows), length), pad, np.int64)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = row
    return {"input_ids": ids, "attention_mask": (np.arange(length) < lengths[:, None]).astype(np.int64)}
