"""Position → row: a pure function of (seed, epoch, position).

An epoch is a sequence of positions. Global batch b is the positions [b x G, (b+1) x G) for every world size that divides G:
rank r takes positions r, r + world_size, ... . Rows that were planned as one step (a packed store's packs, one for
each rank) stay together: shuffling moves whole steps, so a rank of the planned world size keeps reading its own folder.
A last step that is not full stays at the end, where it cannot shift the ranks of others.

Worked example: 7 packs planned for 2 ranks are the steps (0 1) (2 3) (4 5) (6); a shuffle may give 4 5 0 1 2 3 6.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Remainder = Literal["pad", "drop"]
Order = NDArray[np.int64]


def epoch_order(rows: int, seed: int, epoch: int, *, shuffle: bool, group: int = 1) -> Order:
    """Return (rows,) the row at each position of an epoch: every row exactly once.

    Args:
        rows: rows in the store.
        seed: of the run.
        epoch: 0-based.
        shuffle: False gives the store's own order in every epoch.
        group: rows that stay together, in order.
    """
    order = np.arange(rows, dtype=np.int64)
    if not shuffle:
        return order
    full = rows // group * group
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, epoch])))
    steps = generator.permutation(full // group)
    order[:full] = order[:full].reshape(-1, group)[steps].reshape(-1)
    return order


def positions_in_epoch(rows: int, world_size: int, remainder: Remainder) -> int:
    """Return the positions of an epoch, a multiple of `world_size` so that all ranks take as many steps.

    "pad" repeats rows from the start of the epoch's order at its end; "drop" leaves the last rows % world_size of the
    epoch's order out of this epoch.
    """
    whole, rest = divmod(rows, world_size)
    return (whole + (1 if rest and remainder == "pad" else 0)) * world_size
