"""Bins with several capacities: tokens, visual patches, media, documents, seconds of audio.

Where best-fit-decreasing by tokens alone keeps all capacities, that is the plan: nothing is tighter. Otherwise
documents with something but tokens are laid first, in up to three ways, until one comes within 0.1 % of the lower
bound; the fewest bins win. Documents of tokens alone then fill what is left of the tokens, exactly.

    by the tightest   best-fit-decreasing by the tightest capacity; documents that break another one are laid again
    by shares         best-fit-decreasing by the share of its tightest capacity that a document takes, against what a
                      bin has left of its tightest one: this never breaks a capacity
    in rounds         dealt over as many bins as the lower bound asks for, the largest first, one for each bin in a
                      round; among bins of like room those that lack patches meet the documents that have them, so
                      that all capacities fill at one pace; the last part is laid by shares

Each step is numpy over all bins: a document at a time would be some microseconds each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlm_prep.pack.bins import Bins, best_fit_decreasing, fill_best

Numbers = NDArray[np.int64]
_UNITS = (1 << 16) - 1
"""Of a capacity, in which shares are counted: 16-bit keys sort by radix. Rounding up costs a document 1/65,535."""
_CLOSE = 0.999
"""Of the lower bound; closer is not looked for."""
_LAST = 0.10
"""Share of all that the rounds leave to best-fit-decreasing."""
_CLASSES = 8
"""Of bins by room, within which documents are matched by what they take more of."""


def lower_bounds(demands: NDArray[Any], capacities: Sequence[int]) -> list[int]:
    """Return (k,) how many bins each capacity asks for at least: the sum of all demands over it, rounded up."""
    return [-(-int(total) // each) for total, each in zip(demands.sum(axis=0, dtype=np.int64), capacities, strict=True)]


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
        bins = _Rows(demands[rows], capacities).pack()
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


class _Rows:
    """Documents whose demands do not all go by tokens.

    Args:
        demands: (n, k) of each document.
        capacities: (k,) of a bin.
    """

    def __init__(self, demands: NDArray[Any], capacities: Sequence[int]) -> None:
        self.demands, self.capacities = demands, capacities
        self.shares = [_shares(demands[:, column], capacity) for column, capacity in enumerate(capacities)]
        self.size: NDArray[np.int32] = np.maximum.reduce(self.shares)
        """(n,) share of its tightest capacity."""
        self.order = np.argsort(_descending(self.size), kind="stable")
        plain = (demands[:, 1:] == 0).all(axis=1)
        self.plain, self.mixed = np.flatnonzero(plain), np.flatnonzero(~plain)
        self.bounds = lower_bounds(demands, capacities)

    def pack(self) -> Bins:
        """Return the bins of the best way."""
        found: list[tuple[Numbers, int]] = []
        for way in (self._by_the_tightest, self._by_shares, self._in_rounds):
            found.append(self._with_plain(*way()))
            if found[-1][1] * _CLOSE <= max(self.bounds):
                break
        bin_of, n_bins = min(found, key=lambda each: each[1])
        return _bins_of(bin_of, n_bins, self.demands[:, 0], self.order, self.capacities[0])

    def _with_plain(self, bin_of: Numbers, n_bins: int) -> tuple[Numbers, int]:
        """Fill up with the documents of tokens alone."""
        used = np.bincount(bin_of[self.mixed], weights=self.demands[self.mixed, 0], minlength=n_bins).astype(np.int64)
        room = self.capacities[0] - used
        bin_of[self.plain], n_bins = fill_best(self.demands[self.plain, 0], room, self.capacities[0])
        return bin_of, n_bins

    def _by_shares(self) -> tuple[Numbers, int]:
        bin_of = np.full(len(self.demands), -1, np.int64)
        bin_of[self.mixed], n_bins = fill_best(self.size[self.mixed], np.empty(0, np.int64), _UNITS)
        return bin_of, n_bins

    def _by_the_tightest(self) -> tuple[Numbers, int]:
        mixed = self.mixed
        totals = [int(self.demands[mixed, column].sum()) / each for column, each in enumerate(self.capacities)]
        tightest = int(np.argmax(totals))
        column = np.maximum(self.demands[mixed, tightest], 1)  # nothing at all would be no document
        in_bin, n_bins = fill_best(column, np.empty(0, np.int64), self.capacities[tightest])
        bin_of = np.full(len(self.demands), -1, np.int64)
        bin_of[mixed] = in_bin
        stays = np.ones(len(mixed), np.bool_)
        for other, share in enumerate(self.shares):
            # in each bin those first that take least of it; what comes after the capacity is full goes
            order = np.lexsort((share[mixed] - self.shares[tightest][mixed], in_bin))
            taken = np.cumsum(self.demands[mixed[order], other], dtype=np.int64)
            starts = np.flatnonzero(np.diff(in_bin[order], prepend=-1))
            before = np.concatenate([[0], taken])[starts]
            within = taken - np.repeat(before, np.diff(np.append(starts, len(order))))
            stays[order[within > self.capacities[other]]] = False
        room = np.full(n_bins, _UNITS, np.int64)
        for share in self.shares:
            used = np.bincount(in_bin[stays], weights=share[mixed[stays]], minlength=n_bins)
            room = np.minimum(room, np.maximum(0, _UNITS - used.astype(np.int64)))
        gone = mixed[~stays]
        bin_of[gone], n_bins = fill_best(self.size[gone], room, _UNITS)
        return bin_of, n_bins

    def _in_rounds(self) -> tuple[Numbers, int]:
        size, shares = self.size, self.shares
        first, second = np.argsort([-bound for bound in self.bounds], kind="stable")[:2]
        lean = shares[second] - shares[first]  # what a document takes more of
        n_bins = max(*self.bounds, int((size > _UNITS // 2).sum()))
        room = [np.full(n_bins, _UNITS, np.int32) for _ in shares]
        bin_of = np.full(len(self.demands), -1, np.int64)
        mixed = self.mixed[np.argsort(_descending(size[self.mixed]), kind="stable")]
        total = int(size[mixed].sum(dtype=np.int64))
        left, start = total, 0
        rest: list[Numbers] = []
        while start < len(mixed) and left > _LAST * total:
            taken = mixed[start : start + n_bins]
            start += len(taken)
            places = _match(lean[taken], np.minimum.reduce(room), room[second] - room[first], len(taken))
            pairs = zip(shares, room, strict=True)
            fitting = np.logical_and.reduce([share[taken] <= of[places] for share, of in pairs])
            rest.append(taken[~fitting])
            taken, places = taken[fitting], places[fitting]
            for share, of in zip(shares, room, strict=True):
                of[places] -= share[taken]
            bin_of[taken] = places
            left -= int(size[taken].sum(dtype=np.int64))
        last = np.sort(np.concatenate([*rest, mixed[start:]]))
        bin_of[last], n_bins = fill_best(size[last], np.minimum.reduce(room), _UNITS)
        return bin_of, n_bins


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
