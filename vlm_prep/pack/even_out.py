"""Documents of a step's packs change places until the packs cost the same, or as nearly as can be.

The most expensive pack gives one document to the cheapest, for none, one or two, such that both keep their capacities
and their kinds of media and the gap between them shrinks most (two for one, since full packs of long and of short
documents take the same tokens); where these two have none to give, each tries the
others. Each exchange lowers the sum of the squares of costs, so it ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]
_MOST_EXCHANGES = 64
"""Of one step."""
_MOST_IN_PAIRS = 48
"""Documents of a pack of which two may be given for one."""
_MOST_TRIED = 64
"""Exchanges that are looked at, the best first, for one that keeps capacities and kinds."""


@dataclass(frozen=True, eq=False)
class Evener:
    """Evens out steps.

    Args:
        demands: (n, k) of each row.
        capacities: (k,) of a pack.
        kinds: (n,) of each row, a bit each.
        cost: (n,) of each row.
        goal: what the packs of a step may differ by, of the most expensive one.
    """

    demands: Numbers
    capacities: NDArray[Any]
    kinds: NDArray[np.uint8]
    cost: NDArray[np.float64]
    goal: float

    def even_out(self, packs: list[Numbers]) -> list[Numbers]:
        """Return the packs of a step with documents exchanged; each keeps its kinds of media."""
        packs = list(packs)
        costs = np.array([self.cost[pack].sum() for pack in packs])
        for _ in range(_MOST_EXCHANGES):
            order = np.argsort(-costs, kind="stable").tolist()
            first, last = order[0], order[-1]
            if costs[first] - costs[last] <= self.goal * costs[first]:
                break
            pairs = [(first, last), *((first, each) for each in order[:0:-1]), *((each, last) for each in order[1:-1])]
            for high, low in dict.fromkeys(pairs):
                exchanged = self._exchange(packs[high], packs[low], float(costs[high] - costs[low]))
                if exchanged is not None:
                    packs[high], packs[low] = exchanged
                    costs[high], costs[low] = (self.cost[packs[each]].sum() for each in (high, low))
                    break
            else:
                break
        return packs

    def _exchange(self, high: Numbers, low: Numbers, gap: float) -> tuple[Numbers, Numbers] | None:
        """Return both packs after the exchange that leaves the smallest gap; None if none makes it smaller."""
        in_return = _choices(len(low))
        given, got = self.demands[high], np.stack([self.demands[low[list(each)]].sum(axis=0) for each in in_return])
        worth = np.array([self.cost[low[list(each)]].sum() for each in in_return])
        moved = self.cost[high][:, None] - worth[None, :]
        change = given[:, None, :] - got[None, :, :]
        fits = (change <= self.capacities - self.demands[low].sum(axis=0)).all(axis=2)
        fits &= (-change <= self.capacities - self.demands[high].sum(axis=0)).all(axis=2)
        # less than a thousandth is not worth a move, and sums in another order differ by less
        fits &= (moved > gap * 1e-3) & (moved < gap * (1 - 1e-3))
        if len(high) == 1:
            fits[:, 0] = False
        places = np.flatnonzero(fits)
        left = np.abs(gap - 2 * moved.reshape(-1)[places])
        for place in places[np.argsort(left, kind="stable")[:_MOST_TRIED]].tolist():
            own, other = divmod(place, len(in_return))
            back = list(in_return[other])
            above = np.concatenate([np.delete(high, own), low[back]])
            below = np.append(np.delete(low, back), high[own])
            if self._kinds(above) == self._kinds(high) and self._kinds(below) == self._kinds(low):
                return above, below
        return None

    def _kinds(self, rows: Numbers) -> int:
        return int(np.bitwise_or.reduce(self.kinds[rows]))


@cache
def _choices(count: int) -> list[tuple[int, ...]]:
    """Return which of so many documents may be given for one: none, each, and any two."""
    pairs = combinations(range(count), 2) if count <= _MOST_IN_PAIRS else ()
    return [(), *((each,) for each in range(count)), *pairs]
