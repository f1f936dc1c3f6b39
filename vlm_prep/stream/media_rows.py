"""The media tensors of a batch's rows, each as it has to be beside the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vlm_prep.processors.payload.join import whole_mask
from vlm_prep.processors.payload.pointers import CountingOn, Pointers

Row = Mapping[str, Any]


def with_masks(rows: Sequence[Row], masks: Mapping[str, Sequence[str]]) -> Sequence[Row]:
    """Return the rows with a mask in each where one of them, or padding beside others, needs it.

    Args:
        rows: tensors by name.
        masks: {mask: (the tensor that it is of, its dtype)}.
    """
    if not masks:
        return rows
    made = [dict(row) for row in rows]
    for name, (of, dtype) in masks.items():
        having = [row for row in made if of in row and row[of].shape[0]]
        for row in having if len(having) > 1 else ():
            row.setdefault(name, whole_mask(row[of].shape, dtype))
    return made


def counted_on(rows: Sequence[Row], pointers: Pointers) -> Sequence[Row]:
    """Return the rows with what points counted on from row to row."""
    if not pointers:
        return rows
    count_on = CountingOn(pointers)
    return [count_on(row) for row in rows]


def trimmed(rows: Sequence[Row], trims: Mapping[str, str]) -> Sequence[Row]:
    """Return the rows with tensors that reach as far as the longest mask, as views.

    Args:
        rows: tensors by name.
        trims: {tensor: its mask}.
    """
    for name, mask in trims.items():
        ends = [int(row[mask].any(0).nonzero().max()) + 1 for row in rows if mask in row and row[mask].any()]
        rows = [
            {**row, **{key: row[key][..., : max(ends)] for key in (name, mask)}} if ends and mask in row else row
            for row in rows
        ]
    return rows
