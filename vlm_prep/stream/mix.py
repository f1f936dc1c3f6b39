"""The order of several stores mixed by weight: an explicit interleave, no draws.

Of T slots in an epoch, store i gets n_i, in proportion to its weight (largest remainders); its k-th slot stands at
time (k + 1/2) / n_i, and slots are taken in order of time. So the shares hold in every stretch of the epoch, to
within one slot of each store. A slot is one row, or one planned step of packs.

Worked example: weights 2 and 1, six slots: n = (4, 2), times .125 .375 .625 .875 and .25 .75 give 0 1 0 0 1 0.

A store goes through its own epochs at its own pace, and goes on where the last mixed epoch left it: a store that
gives half of its rows to each mixed epoch gives the other half to the next one. Everything is a pure function of
(seed, epoch, position), computed in stretches of about STRETCH slots, so memory does not grow with the epoch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vlm_prep.stream.order import Numbers, Order

STRETCH = 4096


class MixedOrder:
    """Positions of a mixed epoch to rows, the stores' rows numbered through.

    Args:
        orders: of the stores; all of one group, with as many rows in each epoch.
        weights: of the stores, above 0.
        positions: rows in an epoch; rounded down to whole slots, and up to one for each store.
    """

    def __init__(self, orders: Sequence[Order], weights: Sequence[float], positions: int) -> None:
        self._orders = list(orders)
        self.group = self._group = orders[0].group
        self.counts = shares(weights, max(len(orders), positions // self._group))
        self._slots = sum(self.counts)
        self.positions = self._slots * self._group
        self._firsts = np.cumsum([0, *(order.rows_of_all for order in orders)]).tolist()
        self.rows_of_all = self._firsts[-1]
        self._stretches = -(-self._slots // STRETCH)
        self._made: tuple[int, int, Numbers, Numbers] | None = None

    def count(self, epoch: int) -> int:
        """See `Order.count`."""
        return self.positions

    def row(self, epoch: int, position: int) -> int:
        """See `Order.row`."""
        slot, inside = divmod(position, self._group)
        store, turn = self._slot(slot)
        order = self._orders[store]
        own_epoch, own = divmod((epoch * self.counts[store] + turn) * self._group + inside, order.count(0))
        return int(self._firsts[store]) + order.row(own_epoch, own)

    def rows(self, epoch: int, start: int, stop: int) -> Numbers:
        """See `Order.rows`."""
        return np.fromiter((self.row(epoch, position) for position in range(start, stop)), np.int64, stop - start)

    def _slot(self, slot: int) -> tuple[int, int]:
        """Return (store, which of its slots)."""
        if self._made is None or not self._made[0] <= slot < self._made[1]:
            self._made = self._stretch(self._find(slot))
        first, _, stores, turns = self._made
        return int(stores[slot - first]), int(turns[slot - first])

    def _before(self, stretch: int) -> list[int]:
        """Return how many slots of each store have a time below stretch / stretches, in whole numbers."""
        return [(2 * count * stretch + self._stretches - 1) // (2 * self._stretches) for count in self.counts]

    def _find(self, slot: int) -> int:
        low, high = 0, self._stretches - 1
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if sum(self._before(middle)) <= slot else (low, middle - 1)
        return low

    def _stretch(self, number: int) -> tuple[int, int, Numbers, Numbers]:
        """Return (first slot, end, stores, turns) of a stretch."""
        begin, end = self._before(number), self._before(number + 1)
        turns = np.concatenate([np.arange(a, b) for a, b in zip(begin, end, strict=True)])
        stores = np.repeat(np.arange(len(begin)), [b - a for a, b in zip(begin, end, strict=True)])
        times = (2 * turns + 1) / np.asarray(self.counts)[stores]
        order = np.argsort(times, kind="stable")
        return sum(begin), sum(end), stores[order], turns[order]


def shares(weights: Sequence[float], slots: int) -> list[int]:
    """Divide `slots` in proportion to `weights`, by largest remainders, at least one for each."""
    whole = [slots * weight / sum(weights) for weight in weights]
    counts = [max(1, int(part)) for part in whole]
    by_remainder = sorted(range(len(whole)), key=lambda i: (int(whole[i]) - whole[i], i))
    for i in by_remainder[: max(0, slots - sum(counts))]:
        counts[i] += 1
    return counts
