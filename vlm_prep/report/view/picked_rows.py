"""Which rows of a store are shown: the longest, the shortest, those nearest to the limit, and a random sample."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SHARE_OF_EACH = 8
"""One row in so many is shown for each reason but chance."""


def pick(lengths: NDArray[np.int64], count: int, *, limit: int | None, seed: int) -> dict[int, list[str]]:
    """Return which rows are shown, in the store's order, and why each is.

    Args:
        lengths: (n,) tokens of each row.
        count: rows to show at most.
        limit: the most tokens that a row could have had, or None.
        seed: of the random sample.

    Returns:
        {row: reasons} of "longest", "shortest", "near the limit", "random", or "all" where all are shown.
    """
    if count >= len(lengths):
        return {row: ["all"] for row in range(len(lengths))}
    each = max(1, count // SHARE_OF_EACH)
    by_length = np.argsort(lengths, kind="stable")
    found: dict[int, list[str]] = {}
    groups = {"longest": by_length[::-1][:each], "shortest": by_length[:each]}
    if limit is not None:
        below = by_length[lengths[by_length] <= limit]
        groups["near the limit"] = below[::-1][:each]
    for reason, rows in groups.items():
        for row in rows.tolist():
            if len(found) < count or row in found:
                found.setdefault(row, []).append(reason)
    draws = np.random.PCG64(seed).random_raw(len(lengths))
    for row in np.argsort(draws, kind="stable").tolist():
        if len(found) >= count:
            break
        if row not in found:
            found[row] = ["random"]
    return dict(sorted(found.items()))
