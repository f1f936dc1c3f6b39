"""Attention of packed documents, in the forms that trainers take; `forms` says which one a model needs.

- positions: no mask at all: plain positions that restart in each document, of which the model makes the mask of each
  of its layers. Each token of padding is a document of its own.
- sdpa: bool (batch, 1, length, length), True = may attend: causal within a document, nothing across. Rows of
  padding are all False. It grows with the square of the length: 4 x 16384 tokens are 1 GiB. Eager attention, which adds
  it to its scores, gets float32, four times as large.
- document ids: int64 (batch, length), 1-based number of the document, 0 for padding, for a trainer that builds its
  masks of them. Stock attention does not: it sees that no number is 0, and attends across all documents.
- varlen: int32 `cu_seq_lens` over the flattened batch, each row's documents and then its padding as a run of its
  own, as flash attention's varlen kernels take them.
- thd: each row's document lengths, and the lengths with its padding counted to the last document, as Transformer
  Engine's kernels take them through NeMo Automodel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch


def document_ids(seq_lens: Sequence[torch.Tensor], length: int) -> torch.Tensor:
    """Return int64 (batch, length): 1-based document numbers, 0 where padded."""
    ids = torch.zeros(len(seq_lens), length, dtype=torch.int64)
    for row, lengths in enumerate(seq_lens):
        numbers = torch.arange(1, len(lengths) + 1)
        ids[row, : int(lengths.sum())] = torch.repeat_interleave(numbers, lengths)
    return ids


def block_causal(documents: torch.Tensor) -> torch.Tensor:
    """Return bool (batch, 1, length, length), True where query (row) may attend to key (column).

    Args:
        documents: int64 (batch, length), see `document_ids`.
    """
    length = documents.shape[1]
    same = documents.unsqueeze(2) == documents.unsqueeze(1)
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    real = (documents > 0).unsqueeze(2)
    return (same & causal & real).unsqueeze(1)


Masks = Mapping[str, torch.Tensor | None] | torch.Tensor


def additive(masks: Masks) -> Masks:
    """Return bool masks, of each kind of layer or one, as float32 to be added to scores: 0 where True, else the lowest
    number there is."""
    if isinstance(masks, Mapping):
        return {kind: None if mask is None else cast(torch.Tensor, additive(mask)) for kind, mask in masks.items()}
    lowest = torch.finfo(torch.float32).min
    return torch.zeros(masks.shape, dtype=torch.float32).masked_fill_(~masks, lowest)


def cumulative_lengths(seq_lens: Sequence[torch.Tensor], length: int) -> tuple[torch.Tensor, int]:
    """Return int32 boundaries of all runs of the flattened (batch x length) tokens, and the longest run.

    Worked example: two rows of length 6 with documents (3, 2) and (6): runs 3, 2, padding 1, 6 give 0 3 5 6 12.
    """
    runs: list[int] = []
    for lengths in seq_lens:
        documents = [int(count) for count in lengths]
        padding = length - sum(documents)
        runs += [*documents, *([padding] if padding else [])]
    boundaries = torch.zeros(len(runs) + 1, dtype=torch.int32)
    boundaries[1:] = torch.cumsum(torch.tensor(runs), 0)
    return boundaries, max(runs)


def text_positions(seq_lens: Sequence[torch.Tensor], length: int) -> torch.Tensor:
    """Return int64 (batch, length): 0, 1, 2, ... in each document, 0 where padded."""
    positions = torch.zeros(len(seq_lens), length, dtype=torch.int64)
    for row, lengths in enumerate(seq_lens):
        runs = [torch.arange(int(count)) for count in lengths]
        positions[row, : int(lengths.sum())] = torch.cat(runs)
    return positions


def sequence_index(seq_lens: Sequence[torch.Tensor], length: int) -> torch.Tensor:
    """Return int32 (batch, length): number of the run from 0, padding a run of its own, as the kernels of causal-conv1d
    and mamba-ssm take it (`seq_idx`)."""
    index = torch.empty(len(seq_lens), length, dtype=torch.int32)
    for row, lengths in enumerate(seq_lens):
        index[row] = len(lengths)
        index[row, : int(lengths.sum())] = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    return index


NO_DOCUMENT = -1000
"""Fills the lengths of rows with fewer documents; NeMo Automodel filters it out."""


def thd_lengths(seq_lens: Sequence[torch.Tensor], length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return int64 (batch, documents) lengths, and the same with each row's padding counted to its last document."""
    most = max(len(lengths) for lengths in seq_lens)
    real = torch.full((len(seq_lens), most), NO_DOCUMENT, dtype=torch.int64)
    padded = real.clone()
    for row, lengths in enumerate(seq_lens):
        real[row, : len(lengths)] = padded[row, : len(lengths)] = lengths
        padded[row, len(lengths) - 1] += length - int(lengths.sum())
    return real, padded
