"""Documents with something but tokens, laid into bins with several capacities; `capacities.py` says how.

Each step is numpy over all bins: a document at a time would be some microseconds each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlm_prep.pack.bins import fill_best
from vlm_prep.pack.lower_bounds import lower_bounds

Numbers = NDArray[np.int64]
UNITS = 65_520
"""Of a capacity, in which shares are counted: 16-bit keys sort by radix. Rounding up costs a document one of them, and
nothing where the capacity is a small number: all up to 16 but 11 divide it."""
_CLOSE = 0.999
"""Of the lower bound; closer is not looked for."""
_NEAR = 0.98
"""Of it: worth topping up."""
_LEFT = (0.3, 0.05, 0.07, 0.1, 0.4, 1.0)
"""Shares of all that the rounds leave to best-fit-decreasing, tried one after the other; at last there are none."""
_CLASSES = 8
"""Of bins by room, within which documents are matched by what they take more of."""
_AS_TIGHT = 0.98
"""Of the lower bound."""
_MOST_TOP_UPS = 4
_ONE_OF = 50
"""Bins gives its documents to the others, and is laid anew."""
_TURNS = 12
"""Documents of a bin that are compared with those."""


class MixedRows:
    """Documents that take something but tokens.

    Args:
        demands: (n, k) of each document.
        capacities: (k,) of a bin.
        plain: (m,) tokens of documents of tokens alone, which fill up the bins.
        goal: bins that all of them ask for at least, where that is not what these ask for.
    """

    def __init__(
        self, demands: NDArray[Any], capacities: Sequence[int], plain: NDArray[Any], goal: float | None = None
    ) -> None:
        self.demands, self.capacities = demands.astype(np.int64), np.asarray(capacities, np.int64)
        self.shares = [shares_of(demands[:, column], each) for column, each in enumerate(capacities)]
        self.size: NDArray[np.int32] = np.maximum.reduce(self.shares)
        """(n,) share of its tightest capacity."""
        bounds = lower_bounds(demands, capacities)
        bounds[0] = max(bounds[0], -(-int(demands[:, 0].sum() + plain.sum()) // int(capacities[0])))
        self.least, self.plain = max(bounds), plain
        self.goal = self.least if goal is None else goal
        # of those that are as tight the first: counts of media or documents order few documents
        by_bound = np.argsort([-min(bound, _AS_TIGHT * self.least) for bound in bounds], kind="stable")
        self.first, self.second = by_bound[:2].tolist()

    def lay(self, top_up: bool = True) -> tuple[Numbers, int]:
        """Return (n,) the bin of each document, and how many there are, by the best way."""
        ways: list[Callable[[], tuple[Numbers, int]]] = [partial(self._in_rounds, left) for left in _LEFT]
        found: list[tuple[Numbers, int]] = []
        counts: list[int] = []
        for way in (*ways, self._by_shares):
            laid = way()
            found.append(self._topped_up(*laid) if top_up and self._within(_NEAR, laid[1]) else laid)
            counts.append(self.with_plain(*found[-1])[1])
            if self._within(_CLOSE, counts[-1]):
                break
        return found[int(np.argmin(counts))]

    def with_plain(self, in_bin: Numbers, n_bins: int) -> tuple[Numbers, int]:
        """Return (m,) the bin of each document of tokens alone, and how many bins there are then."""
        room = self.capacities[0] - self._sums(np.arange(len(in_bin)), in_bin, n_bins)[:, 0]
        return fill_best(self.plain, room, int(self.capacities[0]))

    def _within(self, share: float, n_bins: int) -> bool:
        return n_bins * share <= self.goal

    def _in_rounds(self, leave: float) -> tuple[Numbers, int]:
        """Deal all but a share of the documents, and lay the last ones by the tightest capacity."""
        size, shares = self.size, self.shares
        lean = shares[self.second] - shares[self.first]  # what a document takes more of
        n_bins = max(self.least, int((size > UNITS // 2).sum())) if leave < 1 else 0
        room = [np.full(n_bins, UNITS, np.int32) for _ in shares]
        bin_of = np.full(len(size), -1, np.int64)
        # those that take nothing of the tightest capacity fill up the tokens
        fills = np.flatnonzero(self.demands[:, self.first] == 0)
        order = np.argsort(_descending(size), kind="stable")
        if len(fills):
            order = order[self.demands[order, self.first] > 0]
        total = int(size[order].sum(dtype=np.int64))
        left, start = total, 0
        rest: list[Numbers] = []
        while start < len(order) and left > leave * total:
            taken = order[start : start + n_bins]
            start += len(taken)
            places = _match(lean[taken], np.minimum.reduce(room), room[self.second] - room[self.first], len(taken))
            pairs = zip(shares, room, strict=True)
            fitting = np.logical_and.reduce([share[taken] <= of[places] for share, of in pairs])
            rest.append(taken[~fitting])
            taken, places = taken[fitting], places[fitting]
            for share, of in zip(shares, room, strict=True):
                of[places] -= share[taken]
            bin_of[taken] = places
            left -= int(size[taken].sum(dtype=np.int64))
        last = np.sort(np.concatenate([*rest, order[start:]]))
        bin_of, n_bins = self._by_one(self.first, bin_of, n_bins, last)
        return self._by_one(0, bin_of, n_bins, fills) if len(fills) else (bin_of, n_bins)

    def _by_shares(self) -> tuple[Numbers, int]:
        return fill_best(self.size, np.empty(0, np.int64), UNITS)

    def _by_one(self, first: int, bin_of: Numbers, n_bins: int, last: Numbers) -> tuple[Numbers, int]:
        """Lay the last documents by one capacity into what all the others leave of the bins."""
        laid = np.flatnonzero(bin_of >= 0)
        used = self._sums(laid, bin_of[laid], n_bins)
        size = np.maximum(self.demands[last, first], 1)  # nothing at all would be no document
        room = np.maximum(0, self.capacities[first] - used[:, first])
        in_bin, n_bins = fill_best(size, room, int(self.capacities[first]))
        used = np.concatenate([used, np.zeros((n_bins - len(used), len(self.capacities)), np.int64)])
        taken = np.delete(used * UNITS // self.capacities, first, axis=1).max(axis=1, initial=0)
        others = np.maximum.reduce([share[last] for column, share in enumerate(self.shares) if column != first])
        in_bin = levelled(size, others, in_bin, taken)
        stays = np.ones(len(last), np.bool_)
        for other in range(len(self.capacities)):
            # in each bin those first that take least of it; what comes after the capacity is full goes
            order = np.lexsort((self.shares[other][last] - self.shares[first][last], in_bin))
            sums = np.cumsum(self.demands[last[order], other])
            starts = np.flatnonzero(np.diff(in_bin[order], prepend=-1))
            before = np.concatenate([[0], sums])[starts]
            within = sums - np.repeat(before, np.diff(np.append(starts, len(order))))
            stays[order[within + used[in_bin[order], other] > self.capacities[other]]] = False
        bin_of[last[stays]] = in_bin[stays]
        used += self._sums(last[stays], in_bin[stays], n_bins)
        gone = last[~stays]
        asked = [column for column, share in enumerate(self.shares) if share[gone].any()]
        shares = ((self.capacities - used) * UNITS // self.capacities)[:, asked].min(axis=1, initial=UNITS)
        bin_of[gone], n_bins = fill_best(self.size[gone], shares, UNITS)
        return bin_of, n_bins

    def _topped_up(self, in_bin: Numbers, n_bins: int) -> tuple[Numbers, int]:
        """Return the bins topped up until that saves none, or they are close to the lower bound."""
        for _ in range(_MOST_TOP_UPS):
            if self._within(_CLOSE, n_bins):
                break
            topped, fewer = self._exchanged(in_bin, n_bins)
            if fewer >= n_bins:
                break
            in_bin, n_bins = topped, fewer
        return in_bin, n_bins

    def _exchanged(self, in_bin: Numbers, n_bins: int) -> tuple[Numbers, int]:
        """Return bins in which those that end just below a document hold larger ones of some bins, laid anew."""
        capacity, size = self.capacities[self.first], self.demands[:, self.first]
        used = self._sums(np.arange(len(in_bin)), in_bin, n_bins)
        counts = np.bincount(in_bin, minlength=n_bins)
        by_room = np.argsort(used[:, self.first], kind="stable")
        given = np.zeros(n_bins, np.bool_)
        given[by_room[:: max(2, min(_ONE_OF, n_bins // 32))]] = True
        filled = by_room[~given[by_room] & (counts[by_room] > 0) & (used[by_room, self.first] < capacity)]
        filled = filled[: n_bins // 3]
        documents, firsts = np.argsort(in_bin, kind="stable"), np.cumsum(counts) - counts
        in_bin, pool = in_bin.copy(), np.flatnonzero(given[in_bin])
        for turn in range(_TURNS):
            pool = pool[np.argsort(size[pool], kind="stable")]
            slots = firsts[filled] + turn % counts[filled]
            wanted = size[documents[slots]] + capacity - used[filled, self.first]
            order = np.argsort(-wanted, kind="stable")
            slots, bins = slots[order], filled[order]
            own = documents[slots]
            # each the largest that fits; of those that want the same, the second the next smaller, ...
            places = np.searchsorted(size[pool], wanted[order], "right") - 1
            starts = np.flatnonzero(np.diff(places, prepend=-2))
            places -= np.arange(len(places)) - np.repeat(starts, np.diff(np.append(starts, len(places))))
            new = pool[np.maximum(places, 0)]
            gain = size[new] - size[own]
            fits = (used[bins] - self.demands[own] + self.demands[new] <= self.capacities).all(axis=1)
            good = np.flatnonzero((places >= 0) & (gain > 0) & (2 * gain >= capacity - used[bins, self.first]) & fits)
            good = good[np.unique(places[good], return_index=True)[1]]
            used[bins[good]] += self.demands[new[good]] - self.demands[own[good]]
            in_bin[new[good]], documents[slots[good]], pool[places[good]] = bins[good], new[good], own[good]
        left = np.take(self.demands, pool, axis=0)
        anew, more = MixedRows(left, self.capacities.tolist(), self.plain[:0]).lay(False)
        in_bin = (np.cumsum(~given) - 1)[in_bin]
        in_bin[pool] = anew + int((~given).sum())
        return in_bin, int((~given).sum()) + more

    def _sums(self, rows: Numbers, in_bin: Numbers, n_bins: int) -> Numbers:
        """Return (n_bins, k) what some documents take of each bin."""
        columns = [self.demands[rows, column] for column in range(self.demands.shape[1])]
        return np.stack([np.bincount(in_bin, weights=each, minlength=n_bins) for each in columns], 1).astype(np.int64)


def levelled(size: Numbers, other: NDArray[np.int32], in_bin: Numbers, taken: Numbers) -> Numbers:
    """Return bins of as many documents of each size, which take about equally much of something else.

    From the largest size on, the document that takes most of the other goes to the bin where least is taken.

    Args:
        size: (n,) of each document.
        other: (n,) what it takes of the other.
        in_bin: (n,) the bin of each.
        taken: (bins,) what is taken of the other already.
    """
    documents, places = np.lexsort((-other, -size)), np.lexsort((in_bin, -size))
    bins, of_size = in_bin[places], size[places]
    starts = np.flatnonzero((np.diff(bins, prepend=-1) != 0) | (np.diff(of_size, prepend=-1) != 0))
    turn = np.arange(len(bins)) - np.repeat(starts, np.diff(np.append(starts, len(bins))))
    by_turn = np.lexsort((turn, -of_size))  # the first of each bin, then the second of those that hold two
    bins, of_size, turn = bins[by_turn], of_size[by_turn], turn[by_turn]
    ends = np.append(np.flatnonzero((np.diff(of_size) != 0) | (np.diff(turn) != 0)) + 1, len(bins)).tolist()
    taken, start = taken.copy(), 0
    for end in ends:
        group = bins[start:end]
        group[:] = group[np.argsort(taken[group], kind="stable")]
        taken[group] += other[documents[start:end]]
        start = end
    found = np.empty_like(in_bin)
    found[documents] = bins
    return found


def _descending(values: NDArray[np.int32]) -> NDArray[np.uint16]:
    return (UNITS - values).astype(np.uint16)


def _match(lean: NDArray[np.int32], room: NDArray[np.int32], bin_lean: NDArray[np.int32], count: int) -> Numbers:
    """Return (count,) a bin for each document of a round, whose documents come largest first."""
    roomy = np.argsort(_descending(room), kind="stable")[:count]
    group = (np.arange(count) * _CLASSES // count).astype(np.int64) << 17
    documents = np.argsort(_key(group + lean + UNITS), kind="stable")
    bins = np.argsort(_key(group + bin_lean[roomy] + UNITS), kind="stable")
    places = np.empty(count, np.int64)
    places[documents] = roomy[bins]
    return places


def _key(values: Numbers) -> NDArray[np.uint16]:
    """Return 20-bit values as 16-bit keys."""
    return (values >> 4).astype(np.uint16)


def shares_of(demand: NDArray[Any], capacity: int) -> NDArray[np.int32]:
    """Return each demand in units of the capacity, rounded up, so that shares that fit are demands that fit."""
    return np.asarray(-(-demand.astype(np.int64) * UNITS // capacity), np.int32)
