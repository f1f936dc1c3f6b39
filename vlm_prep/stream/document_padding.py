"""Documents of a pack padded each to a multiple, for context and sequence parallelism and for FP8 kernels.

The plan counted that padding (`pack` with `document_multiple`), the store does not hold it: it is laid here, behind
each document's own tokens, and belongs to the document. Attention is causal, so no token of the document sees it; it
predicts nothing and is predicted by nothing (labels -100).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

PADDED_AT = "padded_at"
"""Of an item: bool (length,), True for padding inside of documents."""
REAL_LENGTHS = "real_seq_lens"
"""Of an item: lengths of the documents' own tokens; its seq_lens hold their padding, too."""


def pad_documents(item: dict[str, Any], multiple: int, fills: Mapping[str, float]) -> dict[str, Any]:
    """Return a pack whose documents each fill a multiple of tokens.

    Args:
        item: a pack: seq_lens (documents,), position_ids (..., length), and tensors with an entry for each token.
        multiple: of tokens.
        fills: the tensors with an entry for each token, and what pads them.
    """
    real = np.asarray(item["seq_lens"]).astype(np.int64)
    padded = -(-real // multiple) * multiple
    total = int(padded.sum())
    ends = np.cumsum(padded) - padded + real
    at = np.arange(total)
    document = np.repeat(np.arange(len(real)), padded)
    beyond = at - ends[document]  # 0, 1, ... in the padding of a document
    own = beyond < 0
    made = {**item, "seq_lens": padded, REAL_LENGTHS: real, PADDED_AT: ~own}
    for name, fill in fills.items():
        if name in item:
            values = np.asarray(item[name])
            made[name] = np.full(total, fill, values.dtype)
            made[name][own] = values
    positions = np.asarray(item["position_ids"])
    laid = np.empty((*positions.shape[:-1], total), positions.dtype)
    laid[..., own] = positions
    # they go on behind the last token's: a position of 0 would open a document for models that read packs off them
    last = positions[..., np.cumsum(real) - 1].max(axis=tuple(range(positions.ndim - 1)))
    laid[..., ~own] = (last[document] + 1 + beyond)[~own]
    return {**made, "position_ids": laid}


def boundaries(lengths: Sequence[torch.Tensor], documents: int | None = None) -> torch.Tensor:
    """Return int32 (documents + 1,): where each document of the flattened batch begins, and where the last one ends.

    Args:
        lengths: of each row's documents.
        documents: as many for each row, for graphs of fixed shapes; those that are missing are empty, at the end.

    Raises:
        ValueError: a row has more.
    """
    joined = torch.cat(list(lengths))
    if documents is not None:
        most = max(len(row) for row in lengths)
        if most > documents:
            raise ValueError(f"a pack of {most} documents, more than documents={documents}: pack with pack_documents")
        joined = torch.cat([joined, joined.new_zeros(documents * len(lengths) - len(joined))])
    return torch.cat([joined.new_zeros(1), joined.cumsum(0)]).to(torch.int32)


def with_row_padding(lengths: Sequence[torch.Tensor], length: int) -> list[torch.Tensor]:
    """Return each row's lengths with the padding behind its last document counted to that document."""
    rows: list[torch.Tensor] = []
    for row in lengths:
        grown: NDArray[np.int64] = row.numpy().copy()
        grown[-1] += length - int(grown.sum())
        rows.append(torch.from_numpy(grown))
    return rows
