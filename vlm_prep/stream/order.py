"""Position → row: a pure function of (seed, epoch, position).

An epoch is a sequence of positions. Global batch b is the positions [b x G, (b+1) x G) for every world size that
divides G: rank r takes positions r, r + world_size, ... . Rows that were planned as one step (a packed store's
packs, one for each rank) stay together: shuffling moves whole steps, so a rank of the planned world size keeps
reading its own folder. A last step that is not full stays at the end, where it cannot shift the ranks of others.

Worked example: 7 packs planned for 2 ranks are the steps (0 1) (2 3) (4 5) (6); a shuffle may give 4 5 0 1 2 3 6.

The shuffle knows where rows lie, so that a disk or a cache of shards is not asked for everything at once:

    shards   are drawn in random order, SHARDS of them at a time
    blocks   (about a record batch each) of those shards are drawn in random order, BLOCKS of them at a time
    rows     of those blocks are drawn in random order

A store of up to BLOCKS blocks (about 1 GiB) is shuffled uniformly; a larger one reads from at most BLOCKS places, in
at most SHARDS shards (8 GiB) at a time (twice that where one round passes to the next). Rows of one block are
spread over a whole window of BLOCKS blocks, which come from SHARDS random shards. Memory is 8 bytes for each block
and each row of a window, whatever the store's size.

The permutations sort 64-bit draws of PCG64: NumPy freezes the raw stream of a bit generator and of SeedSequence, but
not what `Generator.permutation` makes of it (NEP 19), and a resumed run must find its order after an upgrade.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Remainder = Literal["pad", "drop"]
Numbers = NDArray[np.int64]
BLOCKS = 64
SHARDS = 32
MOST_STEPS = 1 << 14
"""In a block; a window of 64 such blocks takes 8 MiB."""


class Order(Protocol):
    """Which row stands at which position of which epoch."""

    rows_of_all: int
    """Rows that numbers count through."""
    group: int
    """Rows planned as one step."""

    def count(self, epoch: int) -> int:
        """Return the positions of an epoch."""

    def row(self, epoch: int, position: int) -> int:
        """Return the row at a position below the epoch's count."""

    def rows(self, epoch: int, start: int, stop: int) -> Numbers:
        """Return the rows at positions start .. stop."""


@dataclass(frozen=True, kw_only=True)
class Places:
    """How the rows of a store lie on disk, as far as a shuffle cares."""

    rows: int
    group: int = 1
    """Rows planned as one step, which stay together."""
    block: int = 1
    """Steps that lie next to each other and are read together."""
    shard: int = 1
    """Blocks in a shard."""
    epochs: tuple[int, ...] = ()
    """Rows of each epoch that was planned, one after the other; none were of a store whose epochs have all rows."""

    @property
    def shards_at_a_time(self) -> int:
        """Shards (of each folder of a group) that a shuffle reads from at a time: a round's, or a window's if more."""
        return max(SHARDS, -(-BLOCKS // self.shard))

    @classmethod
    def of(cls, rows: int, *, group: int, batches: int, shards: int, epochs: Sequence[int] = ()) -> Places:
        """Return the places of `rows` rows in `batches` record batches of `shards` shards."""
        per_batch = -(-rows // max(1, batches))
        block = min(MOST_STEPS, max(1, per_batch))
        steps = rows // group
        per_shard = -(-steps * group // max(1, shards))
        return cls(rows=rows, group=group, block=block, shard=max(1, per_shard // block), epochs=tuple(epochs))


class EpochOrder:
    """The order of one store: every row exactly once an epoch.

    Args:
        places: where its rows lie.
        seed: of the run.
        shuffle: False gives the store's own order in every epoch.
    """

    def __init__(self, places: Places, seed: int, *, shuffle: bool) -> None:
        self.places, self.seed, self.shuffle = places, seed, shuffle
        self.rows_of_all, self.group = places.rows, places.group
        self._steps = places.rows // places.group
        self._blocks: tuple[int, Numbers, list[int]] | None = None
        self._last: tuple[int, int, int, Numbers] = (-1, 0, 0, np.empty(0, np.int64))
        # two: the positions of a step, or of two ranks, may lie on both sides of a boundary
        self._windows: OrderedDict[tuple[int, int], Numbers] = OrderedDict()

    def count(self, epoch: int) -> int:
        """See `Order.count`."""
        return self.places.rows

    def row(self, epoch: int, position: int) -> int:
        """See `Order.row`."""
        group = self.places.group
        if not self.shuffle or position >= self._steps * group:
            return position
        step, inside = divmod(position, group)
        of_epoch, start, stop, window = self._last
        if of_epoch != epoch or not start <= step < stop:
            start, window = self._window_at(epoch, step)
            self._last = (epoch, start, start + len(window), window)
        return int(window[step - start]) * group + inside

    def rows(self, epoch: int, start: int, stop: int) -> Numbers:
        """See `Order.rows`; whole windows at a time."""
        group, found = self.places.group, []
        end = min(stop, self._steps * group)
        while self.shuffle and start < end:
            first_step, window = self._window_at(epoch, start // group)
            rows = (window[:, None] * group + np.arange(group)).reshape(-1)
            first = first_step * group
            found.append(rows[start - first : end - first])
            start = min(end, first + len(rows))
        return np.concatenate([*found, np.arange(start, stop)])

    def _window_at(self, epoch: int, step: int) -> tuple[int, Numbers]:
        """Return the first step of the window that holds position `step` of the epoch's steps, and the window."""
        starts = self._block_order(epoch)[1]
        number = bisect_right(starts, step) - 1
        return starts[number], self._window(epoch, number)

    def _block_order(self, epoch: int) -> tuple[Numbers, list[int]]:
        """Return the blocks in their order, and the step with which each window of BLOCKS of them begins."""
        if self._blocks is None or self._blocks[0] != epoch:
            size = self.places.block
            count = -(-self._steps // size)
            shard_of = np.arange(count) // self.places.shard
            shards = int(shard_of[-1]) + 1 if count else 0
            rounds = _rank(self._draws(shards, epoch, 0)) // SHARDS
            order = np.lexsort((self._draws(count, epoch, 1), rounds[shard_of]))
            sizes = np.minimum(self._steps - order * size, size)
            ends = np.concatenate([[0], np.cumsum(sizes)])
            self._blocks = (epoch, order, ends[:-1:BLOCKS].tolist())
        return self._blocks[1:]

    def _window(self, epoch: int, number: int) -> Numbers:
        """Return the steps of a window in their order."""
        key = (epoch, number)
        if key not in self._windows:
            size = self.places.block
            blocks = self._block_order(epoch)[0][number * BLOCKS : (number + 1) * BLOCKS]
            steps = (blocks[:, None] * size + np.arange(size)).reshape(-1)
            steps = steps[steps < self._steps]
            self._windows[key] = steps[_sort(self._draws(len(steps), epoch, 2, number))]
            if len(self._windows) > 2:
                self._windows.popitem(last=False)
        return self._windows[key]

    def _draws(self, count: int, *key: int) -> NDArray[np.uint64]:
        return np.random.PCG64(np.random.SeedSequence(self.seed, spawn_key=key)).random_raw(count)


class PlannedOrder:
    """The order of packs planned for several epochs: epoch e reads those of planned epoch e modulo their number.

    Args:
        places: where all packs lie; they say the packs of each planned epoch.
        seed: of the run.
        shuffle: False gives the store's own order.
        most: packs of each epoch that are read, the first ones.
    """

    def __init__(self, places: Places, seed: int, *, shuffle: bool, most: int | None = None) -> None:
        self.rows_of_all, self.group = places.rows, places.group
        self._firsts = [0, *accumulate(places.epochs)]
        self._orders = [
            EpochOrder(replace(places, rows=min(count, most or count)), seed, shuffle=shuffle)
            for count in places.epochs
        ]

    def _of(self, epoch: int) -> tuple[EpochOrder, int]:
        planned = epoch % len(self._orders)
        return self._orders[planned], self._firsts[planned]

    def count(self, epoch: int) -> int:
        """See `Order.count`."""
        return self._of(epoch)[0].count(epoch)

    def row(self, epoch: int, position: int) -> int:
        """See `Order.row`."""
        order, first = self._of(epoch)
        return first + order.row(epoch, position)

    def rows(self, epoch: int, start: int, stop: int) -> Numbers:
        """See `Order.rows`."""
        order, first = self._of(epoch)
        return first + order.rows(epoch, start, stop)


def order_of(places: Places, seed: int, *, shuffle: bool, most: int | None = None) -> EpochOrder | PlannedOrder:
    """Return the order of a store, of which `most` rows of an epoch, the first ones, are read."""
    if places.epochs:
        return PlannedOrder(places, seed, shuffle=shuffle, most=most)
    return EpochOrder(replace(places, rows=min(places.rows, most or places.rows)), seed, shuffle=shuffle)


def _sort(draws: NDArray[np.uint64]) -> Numbers:
    return np.argsort(draws, kind="stable")


def _rank(draws: NDArray[np.uint64]) -> Numbers:
    """Return each draw's place among all of them."""
    ranks = np.empty(len(draws), np.int64)
    ranks[_sort(draws)] = np.arange(len(draws))
    return ranks


def steps_left(rows: int, start: int, world_size: int, remainder: Remainder) -> int:
    """Return how many rows each rank takes from position `start` on: the same for all ranks, so all take as many steps.

    "pad" rounds up: the positions past the last row repeat rows from the start of the epoch's order. "drop" rounds
    down: the last rows of the epoch's order are left out of this epoch. What counts is the rows that are *left*: a
    run that goes on with another world size must lose none because the epoch began with one that divides otherwise.
    """
    left = max(0, rows - start)
    return -(-left // world_size) if remainder == "pad" else left // world_size
