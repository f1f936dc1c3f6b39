"""Documents of a step's packs change places until the packs cost the same, or as nearly as can be.

The most expensive pack gives one document to the cheapest, for none, one or two, such that both keep their capacities
and their kinds of media and the gap between them shrinks most (two for one, since full packs of long and of short
documents take the same tokens); where these two have none to give, each tries the others. Each exchange lowers the sum
of the squares of costs, so it ends. A step that stays uneven gives two at once, for up to three: full packs exchange
what takes the same tokens, and few choices do. Then it is evened out together with a step of the same kinds and nearly
its cost, and the packs of both are dealt anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
"""Documents of a pack of which two may be given at once."""
_MOST_IN_THREES = 16
"""Documents of a pack of which three may be given for two."""
_MOST_CHOICES = 1 << 20
"""Exchanges of two packs that are counted through."""
_LEVEL = 0.02
"""Of its most expensive pack's cost: what a step's packs may differ by without being shared out again."""
_MOST_LEVELLED = 10_000
"""Steps that are shared out again."""
_MATES = 16
"""Steps that an uneven one is evened out with, one after the other."""
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
    """

    demands: Numbers
    capacities: NDArray[Any]
    kinds: NDArray[np.uint8]
    cost: NDArray[np.float64]

    def level(self, packs: list[Numbers], kinds: NDArray[np.uint8], steps: Numbers) -> int:
        """Share the documents of steps out again whose packs differ in cost.

        Args:
            packs: the rows of all packs, which are changed in their places.
            kinds: (packs,) of media.
            steps: (steps, world size) numbers of packs.

        Returns:
            How many steps were shared out again.
        """
        spread = np.array([self._spread([packs[each] for each in step]) for step in steps])
        of_step = np.where((kinds[steps] == kinds[steps[:, :1]]).all(axis=1), kinds[steps[:, 0]].astype(np.int64), -1)
        levelled = set[int]()
        for number in np.flatnonzero(spread > _LEVEL)[:_MOST_LEVELLED].tolist():
            tried = [packs[each] for each in steps[number]]
            ways, kind = [self.even_out(tried)], int(of_step[number])
            shared = self._share_out(np.concatenate(tried), kind, len(tried)) if kind >= 0 else None
            if shared is not None:
                ways += [shared, self.even_out(shared)]
            best = min(ways, key=self._spread)
            if self._spread(best) > _LEVEL:
                best = min(best, *(self.even_out(way, 2) for way in (tried, best)), key=self._spread)
            if self._spread(best) < spread[number]:
                self._put(packs, steps[number], best)
                spread[number] = self._spread(best)
                levelled.add(number)
        cost = np.array([self.cost[packs[step[0]]].sum() for step in steps])
        for number in np.flatnonzero((spread > _LEVEL) & (of_step >= 0))[:_MOST_LEVELLED].tolist():
            alike = np.flatnonzero(of_step == of_step[number])
            near = alike[np.argsort(np.abs(cost[alike] - cost[number]), kind="stable")]
            levelled.update(self._level_with_others(packs, steps, spread, number, near[: _MATES + 1].tolist()))
        return len(levelled)

    def _level_with_others(
        self, packs: list[Numbers], steps: Numbers, spread: NDArray[np.float64], number: int, mates: Sequence[int]
    ) -> Iterator[int]:
        """Even a step out with others, one after the other; yield the steps that changed."""
        for mate in mates:
            if spread[number] <= _LEVEL:
                return
            if mate == number:
                continue
            both = np.concatenate([steps[number], steps[mate]])
            evened = self.even_out([packs[each] for each in both], 2)
            evened.sort(key=lambda pack: -float(self.cost[pack].sum()))
            halves = evened[: len(steps[number])], evened[len(steps[number]) :]
            made = [self._spread(half) for half in halves]
            if max(made) < max(spread[number], spread[mate]):
                for each, half, found in zip((number, mate), halves, made, strict=True):
                    self._put(packs, steps[each], half)
                    spread[each] = found
                    yield each

    def _put(self, packs: list[Numbers], step: Numbers, rows: Sequence[Numbers]) -> None:
        for each, pack in zip(step.tolist(), rows, strict=True):
            packs[each] = pack

    def _spread(self, packs: Sequence[Numbers]) -> float:
        costs = [float(self.cost[pack].sum()) for pack in packs]
        return 1 - min(costs) / max(costs)

    def _share_out(self, rows: Numbers, kinds: int, count: int) -> list[Numbers] | None:
        """Return the rows in `count` packs with all `kinds` each, of about equal cost; None where that cannot be.

        The most expensive first, each into the cheapest pack that has room, after each pack has all its kinds.
        """
        packs: list[list[int]] = [[] for _ in range(count)]
        load = np.zeros((count, len(self.capacities)), np.int64)
        cost = np.zeros(count)
        lacks = [kinds] * count
        left = sorted(rows.tolist(), key=lambda row: (-float(self.cost[row]), row))
        while left:
            needed = [pack for pack in range(count) if lacks[pack]]
            at = next((at for at, row in enumerate(left) if any(int(self.kinds[row]) & lacks[p] for p in needed)), None)
            if needed and at is None:
                return None
            row = left.pop(at or 0)
            allowed = [p for p in needed if int(self.kinds[row]) & lacks[p]] or range(count)
            fits = [p for p in allowed if (load[p] + self.demands[row] <= self.capacities).all()]
            if not fits:
                return None
            pack = min(fits, key=lambda p: (cost[p], p))
            packs[pack].append(row)
            load[pack] += self.demands[row]
            cost[pack] += self.cost[row]
            lacks[pack] &= ~int(self.kinds[row])
        return [np.asarray(pack, np.int64) for pack in packs]

    def even_out(self, packs: list[Numbers], most: int = 1) -> list[Numbers]:
        """Return the packs of a step with documents exchanged; each keeps its kinds of media.

        Args:
            packs: the rows of each.
            most: documents that the more expensive of two gives at once, 1 or 2.
        """
        packs = list(packs)
        costs = np.array([self.cost[pack].sum() for pack in packs])
        for _ in range(_MOST_EXCHANGES):
            order = np.argsort(-costs, kind="stable").tolist()
            first, last = order[0], order[-1]
            if costs[first] - costs[last] <= _LEVEL / 4 * costs[first]:
                break
            pairs = [(first, last), *((first, each) for each in order[:0:-1]), *((each, last) for each in order[1:-1])]
            for high, low in dict.fromkeys(pairs):
                exchanged = self._exchange(packs[high], packs[low], float(costs[high] - costs[low]), most)
                if exchanged is not None:
                    packs[high], packs[low] = exchanged
                    costs[high], costs[low] = (self.cost[packs[each]].sum() for each in (high, low))
                    break
            else:
                break
        return packs

    def _exchange(self, high: Numbers, low: Numbers, gap: float, most: int) -> tuple[Numbers, Numbers] | None:
        """Return both packs after the exchange that leaves the smallest gap; None if none makes it smaller.

        `most` documents of the first are given at once.
        """
        givens, in_return = _choices(len(high), 2)[1:], _choices(len(low), most + 1)
        if most == 1 or len(givens) * len(in_return) > _MOST_CHOICES:
            givens = givens[: len(high)]
        given, got = self._sums(self.demands, high, givens), self._sums(self.demands, low, in_return)
        moved = self._sums(self.cost, high, givens)[:, None] - self._sums(self.cost, low, in_return)[None, :]
        # less than a thousandth is not worth a move, and sums in another order differ by less
        fits = (moved > gap * 1e-3) & (moved < gap * (1 - 1e-3))
        room = self.capacities - self.demands[low].sum(axis=0), self.capacities - self.demands[high].sum(axis=0)
        for number in range(len(self.capacities)):
            change = given[:, None, number] - got[None, :, number]
            fits &= (change <= room[0][number]) & (-change <= room[1][number])
        places = np.flatnonzero(fits)
        left = np.abs(gap - 2 * moved.reshape(-1)[places])
        for place in places[np.argsort(left, kind="stable")[:_MOST_TRIED]].tolist():
            own, other = divmod(place, len(in_return))
            gone, back = list(givens[own]), list(in_return[other])
            above = np.concatenate([np.delete(high, gone), low[back]])
            below = np.concatenate([np.delete(low, back), high[gone]])
            if len(above) and self._kinds(above) == self._kinds(high) and self._kinds(below) == self._kinds(low):
                return above, below
        return None

    @staticmethod
    def _sums(numbers: NDArray[Any], pack: Numbers, choices: Sequence[tuple[int, ...]]) -> NDArray[Any]:
        """Return what each choice of a pack's documents asks for, or costs, together."""
        own = numbers[pack]
        return np.stack([own[list(each)].sum(axis=0) for each in choices])

    def _kinds(self, rows: Numbers) -> int:
        return int(np.bitwise_or.reduce(self.kinds[rows]))


@cache
def _choices(count: int, most: int) -> list[tuple[int, ...]]:
    """Return which of so many documents may be given at once: none, each, any two, and any three if `most` is 3."""
    pairs = combinations(range(count), 2) if count <= _MOST_IN_PAIRS else ()
    threes = combinations(range(count), 3) if most == 3 and count <= _MOST_IN_THREES else ()
    return [(), *((each,) for each in range(count)), *pairs, *threes]
