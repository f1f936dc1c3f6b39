"""sample_ratio → which rows are taken, in which order.

The rule is the one of NeMo Automodel's unsharded meta datasets, so a run over the same meta file sees the
same rows:

    ratio = 1   every row in file order
    ratio < 1   Random(42).sample(range(total), max(1, floor(total * ratio))), in the order drawn
    ratio > 1   int(ratio) passes in file order, then Random(42).sample(range(total), floor(total * fraction))

`fraction` is `ratio - int(ratio)` and the products are IEEE doubles, because the reference's are: 10 rows at
2.3 give 2 extra rows and not 3, since 2.3 - 2 is 0.2999999999999998. The rule is kept, not mended; otherwise
a corpus would differ by a row.
"""

from __future__ import annotations

import math
import random

import numpy as np
from numpy.typing import NDArray

_SEED = 42


def pick_rows(total: int, ratio: float) -> NDArray[np.int64]:
    """Return the row numbers that a ratio takes out of `total` rows, int64 of shape (picks,)."""
    if total == 0:
        return np.zeros(0, dtype=np.int64)
    if ratio < 1:
        return _draw(total, max(1, math.floor(total * ratio)))
    passes = int(ratio)
    picks = np.arange(total, dtype=np.int64)
    if passes == ratio:  # no copies: of a million rows and once each it is all there is
        return picks if passes == 1 else np.tile(picks, passes)
    return np.concatenate([np.tile(picks, passes), _draw(total, math.floor(total * (ratio - passes)))])


def copies(total: int, picks: int) -> NDArray[np.int64]:
    """Return how often the row of each pick was taken before it, int64 of shape (picks,).

    Every pass takes each row once and the extras come last, so it is the number of passes already made.
    """
    return np.arange(picks, dtype=np.int64) // max(total, 1)


def _draw(total: int, count: int) -> NDArray[np.int64]:
    return np.array(random.Random(_SEED).sample(range(total), count), dtype=np.int64)


def occurrences(picks: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how often the row of each pick was taken before it, for picks in any order; int64 of shape (picks,)."""
    order = np.argsort(picks, kind="stable")
    ranked = picks[order]
    first = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]])) if len(picks) else np.zeros(0, np.int64)
    starts = np.repeat(first, np.diff(np.append(first, len(picks))))
    counts = np.empty(len(picks), dtype=np.int64)
    counts[order] = np.arange(len(picks)) - starts
    return counts
