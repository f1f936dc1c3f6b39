"""Bins with several capacities: tokens, visual patches, media, documents, seconds of audio.

Where best-fit-decreasing by tokens alone keeps all capacities, that is the plan: nothing is tighter. Otherwise
documents with something but tokens are laid first, until a way comes within 0.1 % of the lower bound; documents of
tokens alone then fill what is left of the tokens, exactly.

    in rounds         dealt over as many bins as the lower bound asks for, the largest first, one for each bin in a
                      round; among bins of like room those that lack patches meet the documents that have them, so
                      that all capacities fill at one pace
    the last part     best-fit-decreasing by the tightest capacity. Documents that take as much of it change places
                      for nothing, so those that take most of the others go where most is left of those; documents
                      that break another capacity all the same are laid again, by the share of their tightest one
    by shares         best-fit-decreasing by the share of its tightest capacity that a document takes, against what a
                      bin has left of its tightest one, where no other way came close
    topped up         bins that end just below the smallest document exchange a document for a larger one of some bins,
                      which shrink by what the others gain, and are laid anew into fewer

Each step is numpy over all bins: a document at a time would be some microseconds each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlm_prep.pack.bins import Bins, best_fit_decreasing, fill_best

Numbers = NDArray[np.int64]
_UNITS = 65_520
"""Of a capacity, in which shares are counted: 16-bit keys sort by radix. Rounding up costs a document one of them, and
nothing where the capacity is a small number: all up to 16 but 11 divide it."""
_CLOSE = 0.999
"""Of the lower bound; closer is not looked for."""
_NEAR = 0.98
"""Of it: worth topping up."""
_LEFT = (0.3, 0.1, 0.4, 1.0)
"""Shares of all that the rounds leave to best-fit-decreasing, tried one after the other; at last there are none."""
_CLASSES = 8
"""Of bins by room, within which documents are matched by what they take more of."""
_MOST_TOP_UPS = 4
_ONE_OF = 50
"""Bins gives its documents to the others, and is laid anew."""
_TURNS = 12
"""Documents of a bin that are compared with those."""


def lower_bounds(demands: NDArray[Any], capacities: Sequence[int]) -> list[int]:
    """Return (k,) how many bins each capacity asks for at least.

    That is the sum of all demands over it; or more, where documents larger than half of it cannot share bins: of
    those larger than C - a each fills a bin that takes none of a or more, of the others larger than C / 2 each has a
    bin of its own, and those of a to C / 2 need what these leave; of all a the one that asks for most (Martello and
    Toth's L2). Demands larger than a capacity are not counted.
    """
    return [_least(demands[:, column], int(each)) for column, each in enumerate(capacities)]


def _least(sizes: NDArray[Any], capacity: int) -> int:
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


def pack_within(demands: NDArray[Any], capacities: Sequence[int]) -> Bins:
    """Pack documents into bins that keep every capacity.

    Deterministic: it depends on the demands and capacities alone.

    Args:
        demands: (n, k) integers; the first column is tokens (at least 1), the others are at least 0.
        capacities: (k,) the most that a bin holds of each, at least 1.

    Returns:
        The bins; `capacity` and `tokens` are those of the first column. `too_long` are documents that exceed any
        capacity alone.

    Raises:
        ValueError: shapes do not fit, or a demand or capacity is below its least.
    """
    demands = np.asarray(demands)
    if demands.ndim != 2 or demands.shape[1] != len(capacities):
        raise ValueError(f"demands of shape {demands.shape} for {len(capacities)} capacities")
    if min(capacities) < 1 or (demands.size and demands.min() < 0):
        raise ValueError("capacities are at least 1, demands at least 0")
    fits = (demands <= np.asarray(capacities)).all(axis=1)
    rows = np.flatnonzero(fits)
    bins = best_fit_decreasing(np.ascontiguousarray(demands[rows, 0]), capacities[0])
    if not _keeps(bins, demands[rows], capacities):
        bins = _pack_mixed(demands[rows], capacities)
    return Bins(
        rows=rows[bins.rows],
        offsets=bins.offsets,
        too_long=np.flatnonzero(~fits),
        capacity=capacities[0],
        tokens=bins.tokens,
    )


def _keeps(bins: Bins, demands: NDArray[Any], capacities: Sequence[int]) -> bool:
    for column, capacity in list(enumerate(capacities))[1:]:
        if bins.n_bins and int(np.add.reduceat(demands[bins.rows, column], bins.offsets[:-1]).max()) > capacity:
            return False
    return True


def _pack_mixed(demands: NDArray[Any], capacities: Sequence[int]) -> Bins:
    """Return the bins of documents whose demands do not all go by tokens."""
    plain = (demands[:, 1:] == 0).all(axis=1)
    rows = MixedRows(demands[~plain], capacities, lower_bounds(demands, capacities), demands[plain, 0])
    bin_of = np.empty(len(demands), np.int64)
    bin_of[~plain], n_bins = rows.lay()
    bin_of[plain], n_bins = rows.with_plain(bin_of[~plain], n_bins)
    size = np.maximum.reduce([_shares(demands[:, column], each) for column, each in enumerate(capacities)])
    order = np.argsort(_descending(size), kind="stable")
    return _bins_of(bin_of, n_bins, demands[:, 0], order, capacities[0])


class MixedRows:
    """Documents that take something but tokens.

    Args:
        demands: (n, k) of each document.
        capacities: (k,) of a bin.
        bounds: (k,) bins that each capacity asks for, with documents of tokens alone.
        plain: (m,) tokens of those, which fill up the bins.
    """

    def __init__(
        self, demands: NDArray[Any], capacities: Sequence[int], bounds: Sequence[int], plain: NDArray[Any]
    ) -> None:
        self.demands, self.capacities = demands.astype(np.int64), np.asarray(capacities, np.int64)
        self.shares = [_shares(demands[:, column], each) for column, each in enumerate(capacities)]
        self.size: NDArray[np.int32] = np.maximum.reduce(self.shares)
        """(n,) share of its tightest capacity."""
        self.least, self.plain = max(bounds), plain
        self.first, self.second = np.argsort([-bound for bound in bounds], kind="stable")[:2].tolist()
        self.others = np.maximum.reduce([share for column, share in enumerate(self.shares) if column != self.first])

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
        return n_bins * share <= self.least

    def _in_rounds(self, leave: float) -> tuple[Numbers, int]:
        """Deal all but a share of the documents, and lay the last ones by the tightest capacity."""
        size, shares = self.size, self.shares
        lean = shares[self.second] - shares[self.first]  # what a document takes more of
        n_bins = max(self.least, int((size > _UNITS // 2).sum())) if leave < 1 else 0
        room = [np.full(n_bins, _UNITS, np.int32) for _ in shares]
        bin_of = np.full(len(size), -1, np.int64)
        order = np.argsort(_descending(size), kind="stable")
        total = int(size.sum(dtype=np.int64))
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
        return self._by_the_tightest(bin_of, n_bins, np.sort(np.concatenate([*rest, order[start:]])))

    def _by_shares(self) -> tuple[Numbers, int]:
        return fill_best(self.size, np.empty(0, np.int64), _UNITS)

    def _by_the_tightest(self, bin_of: Numbers, n_bins: int, last: Numbers) -> tuple[Numbers, int]:
        """Lay the last documents into what all the others leave of the bins."""
        laid = np.flatnonzero(bin_of >= 0)
        used = self._sums(laid, bin_of[laid], n_bins)
        column = np.maximum(self.demands[last, self.first], 1)  # nothing at all would be no document
        room = np.maximum(0, self.capacities[self.first] - used[:, self.first])
        in_bin, n_bins = fill_best(column, room, int(self.capacities[self.first]))
        used = np.concatenate([used, np.zeros((n_bins - len(used), len(self.capacities)), np.int64)])
        taken = np.delete(used * _UNITS // self.capacities, self.first, axis=1).max(axis=1, initial=0)
        in_bin = levelled(column, self.others[last], in_bin, taken)
        stays = np.ones(len(last), np.bool_)
        for other in range(len(self.capacities)):
            # in each bin those first that take least of it; what comes after the capacity is full goes
            order = np.lexsort((self.shares[other][last] - self.shares[self.first][last], in_bin))
            sums = np.cumsum(self.demands[last[order], other])
            starts = np.flatnonzero(np.diff(in_bin[order], prepend=-1))
            before = np.concatenate([[0], sums])[starts]
            within = sums - np.repeat(before, np.diff(np.append(starts, len(order))))
            stays[order[within + used[in_bin[order], other] > self.capacities[other]]] = False
        bin_of[last[stays]] = in_bin[stays]
        used += self._sums(last[stays], in_bin[stays], n_bins)
        gone = last[~stays]
        shares = ((self.capacities - used) * _UNITS // self.capacities).min(axis=1, initial=_UNITS)
        bin_of[gone], n_bins = fill_best(self.size[gone], shares, _UNITS)
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
        bounds = lower_bounds(self.demands[pool], self.capacities.tolist())
        anew, more = MixedRows(self.demands[pool], self.capacities.tolist(), bounds, self.plain[:0]).lay(False)
        in_bin = (np.cumsum(~given) - 1)[in_bin]
        in_bin[pool] = anew + int((~given).sum())
        return in_bin, int((~given).sum()) + more

    def _sums(self, rows: Numbers, in_bin: Numbers, n_bins: int) -> Numbers:
        """Return (n_bins, k) what some documents take of each bin."""
        columns = self.demands[rows].T
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
    return (_UNITS - values).astype(np.uint16)


def _match(lean: NDArray[np.int32], room: NDArray[np.int32], bin_lean: NDArray[np.int32], count: int) -> Numbers:
    """Return (count,) a bin for each document of a round, whose documents come largest first."""
    roomy = np.argsort(_descending(room), kind="stable")[:count]
    group = (np.arange(count) * _CLASSES // count).astype(np.int64) << 17
    documents = np.argsort(_key(group + lean + _UNITS), kind="stable")
    bins = np.argsort(_key(group + bin_lean[roomy] + _UNITS), kind="stable")
    places = np.empty(count, np.int64)
    places[documents] = roomy[bins]
    return places


def _key(values: Numbers) -> NDArray[np.uint16]:
    """Return 20-bit values as 16-bit keys."""
    return (values >> 4).astype(np.uint16)


def _shares(demand: NDArray[Any], capacity: int) -> NDArray[np.int32]:
    """Return each demand in units of the capacity, rounded up, so that shares that fit are demands that fit."""
    return np.asarray(-(-demand.astype(np.int64) * _UNITS // capacity), np.int32)


def _bins_of(bin_of: Numbers, n_bins: int, tokens: NDArray[Any], order: Numbers, capacity: int) -> Bins:
    """Return the bins, empty ones left out, in each the largest documents first."""
    counts = np.bincount(bin_of, minlength=n_bins)
    numbers = np.cumsum(counts > 0) - 1
    of = numbers[bin_of[order]]
    rows = order[np.argsort((of & 0xFFFF).astype(np.uint16), kind="stable")]
    if n_bins >> 16:
        rows = rows[np.argsort((numbers[bin_of[rows]] >> 16).astype(np.uint16), kind="stable")]
    offsets = np.concatenate([[0], np.cumsum(counts[counts > 0])]).astype(np.int64)
    return Bins(
        rows=rows,
        offsets=offsets,
        too_long=np.empty(0, np.int64),
        capacity=capacity,
        tokens=int(tokens.sum(dtype=np.int64)),
    )
