"""How many bins documents need at least, by each capacity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_COUNTED = 1 << 20
"""Up to this capacity each size has a counter; beyond, sizes are sorted."""


def lower_bounds(demands: NDArray[Any], capacities: Sequence[int]) -> list[int]:
    """Return (k,) how many bins each capacity asks for at least.

    That is the sum of all demands over it; or more, where documents larger than half of it cannot share bins: of
    those larger than C - a each fills a bin that takes none of a or more, of the others larger than C / 2 each has a
    bin of its own, and those of a to C / 2 need what these leave; of all a the one that asks for most (Martello and
    Toth's L2). Demands larger than a capacity are not counted.
    """
    return [fewest_bins(demands[:, column], int(each)) for column, each in enumerate(capacities)]


def fewest_bins(sizes: NDArray[Any], capacity: int) -> int:
    """Return how many bins (n,) sizes ask for at least."""
    if capacity < _COUNTED:
        counts = np.bincount(np.minimum(sizes, capacity + 1), minlength=capacity + 2)[: capacity + 1]
        values = np.flatnonzero(counts)
        counts = counts[values]
    else:
        values, counts = np.unique(sizes[sizes <= capacity], return_counts=True)
    totals = values.astype(np.int64) * counts
    number, total = (np.concatenate([[0], np.cumsum(each)]) for each in (counts, totals))
    half = np.searchsorted(values, capacity // 2, "right")
    least = np.concatenate([[0], values[:half]])  # a: all of them, and each size up to half
    at = np.searchsorted(values, least)
    alone = np.searchsorted(values, capacity - least, "right")
    shared = total[alone] - total[at] + capacity * (number[-1] - number[alone])
    apart = np.full(len(least), number[-1] - number[half])
    return int(np.maximum(-(-shared // capacity), apart).max())
