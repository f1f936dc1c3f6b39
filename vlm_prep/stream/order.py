"""Position → row: a pure function of (seed, epoch, position).

An epoch is a sequence of positions. Global batch b is the positions [b x G, (b+1) x G) for every world size that
divides G: rank r takes positions r, r + world_size, ... . Rows that were planned as one step (a packed store's
packs, one for each rank) stay together: shuffling moves whole steps, so a rank of the planned world size keeps
reading its own folder. A last step that is not full stays at the end, where it cannot shift the ranks of others.

Worked example: 7 packs planned for 2 ranks are the steps (0 1) (2 3) (4 5) (6); a shuffle may give 4 5 0 1 2 3 6.

The permutation sorts 64-bit draws of PCG64: NumPy freezes the raw stream of a bit generator and of SeedSequence, but
not what `Generator.permutation` makes of it (NEP 19), and a resumed run must find its order after an upgrade. 10
million rows cost 1.4 s an epoch, in the process that draws them.
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
    draws = np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(epoch,))).random_raw(full // group)
    steps = np.argsort(draws, kind="stable")
    order[:full] = order[:full].reshape(-1, group)[steps].reshape(-1)
    return order


def steps_left(rows: int, start: int, world_size: int, remainder: Remainder) -> int:
    """Return how many rows each rank takes from position `start` on: the same for all ranks, so all take as many steps.

    "pad" rounds up: the positions past the last row repeat rows from the start of the epoch's order. "drop" rounds
    down: the last rows of the epoch's order are left out of this epoch. What counts is the rows that are *left*: a
    run that goes on with another world size must lose none because the epoch began with one that divides otherwise.
    """
    left = max(0, rows - start)
    return -(-left // world_size) if remainder == "pad" else left // world_size
