"""Documents that are alike are planned as one: what takes as much of everything goes the same ways.

Of millions of documents many are nearly the same. Sorted by what they take, each few in a row are a group; one that
takes the most of each is laid for all of them, and each bin of the plan is then made so many times, from the first
documents of the groups, from the second, ... What rounding up costs is counted beforehand: groups are as large as they
can be without asking for more bins than `_LOSS` allows, and single documents where nothing is alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlm_prep.pack.order_by import order_by

Numbers = NDArray[np.int64]
_PLANNED = 250_000
"""Documents or more are planned: a bin too many, made once for each of a group, is nothing then."""
_LARGEST = 64
_LOSS = 2e-4
"""Of the bins that the tightest capacity asks for."""
_SLACK = 0.2
"""Of what another capacity has left, that rounding may take."""
_FEW = 64
"""A demand that is never larger, as of media, is told apart first."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Alike:
    """Groups of documents, each of `size`, but for the last."""

    order: Numbers
    """(n,) the documents, group after group."""
    size: int
    most: Numbers
    """(groups, k) what one that stands for its group takes."""

    def bins(self, of_group: Numbers) -> Numbers:
        """Return (n,) the bin of each document, from those of the groups: bin b became b * size and the next ones."""
        found = np.empty(len(self.order), np.int64)
        copies = of_group[:, None] * self.size + np.arange(self.size)
        found[self.order] = copies.ravel()[: len(self.order)]
        return found


def group_alike(columns: Sequence[NDArray[Any]], capacities: Sequence[int], bounds: Sequence[int]) -> Alike:
    """Group documents that take nearly as much of everything.

    Args:
        columns: k, each (n,) what the documents take of one capacity.
        capacities: (k,) of a bin.
        bounds: (k,) bins that each capacity asks for.
    """
    size = 1
    while size < _LARGEST and len(columns[0]) // (2 * size) >= _PLANNED:
        size *= 2
    if size == 1:
        return Alike(order=np.arange(len(columns[0])), size=1, most=np.stack(columns, axis=1))
    few = [int(column.max()) <= _FEW for column in columns]
    by_weight = sorted(range(len(columns)), key=lambda column: (not few[column], -bounds[column]))
    order = order_by([columns[column] for column in by_weight], lossy=True)
    columns = [column[order] for column in columns]
    least = max(bounds)
    spare = [
        _LOSS * least * capacity + _SLACK * max(0, (least - bound) * capacity)
        for capacity, bound in zip(capacities, bounds, strict=True)
    ]
    while size > 1:
        groups = [_most_of(column, size) for column in columns]
        lost = [size * int(each.sum()) - int(column.sum()) for each, column in zip(groups, columns, strict=True)]
        if all(each <= allowed for each, allowed in zip(lost, spare, strict=True)):
            break
        size //= 2
    return Alike(order=order, size=size, most=np.stack([_most_of(column, size) for column in columns], axis=1))


def _most_of(column: NDArray[Any], size: int) -> NDArray[Any]:
    whole = len(column) // size * size
    most: NDArray[Any] = column[:whole].reshape(-1, size).max(axis=1)
    return np.append(most, column[whole:].max()) if whole < len(column) else most
