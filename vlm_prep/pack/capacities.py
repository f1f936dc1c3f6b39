"""Bins with several capacities: tokens, visual patches, media, documents, seconds of audio.

Where best-fit-decreasing by tokens alone keeps all capacities, that is the plan: nothing is tighter. Otherwise
documents with something but tokens are laid first, until a way comes within 0.1 % of the lower bound; documents of
tokens alone then fill what is left of the tokens, exactly. Many documents are laid as groups of those that are nearly
alike (`alike.py`).

    in rounds         dealt over as many bins as the lower bound asks for, the largest first, one for each bin in a
                      round; among bins of like room those that lack patches meet the documents that have them, so
                      that all capacities fill at one pace
    the last part     best-fit-decreasing by the tightest capacity, and then, by tokens, documents that take nothing of
                      that one. Documents that take as much of it change places
                      for nothing, so those that take most of the others go where most is left of those; documents
                      that break another capacity all the same are laid again, by the share of their tightest one
    by shares         best-fit-decreasing by the share of its tightest capacity that a document takes, against what a
                      bin has left of its tightest one, where no other way came close
    topped up         bins that end just below the smallest document exchange a document for a larger one of some bins,
                      which shrink by what the others gain, and are laid anew into fewer

Each step is numpy over all bins: a document at a time would be some microseconds each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlm_prep.pack.alike import group_alike
from vlm_prep.pack.bins import Bins, best_fit_decreasing, fill_best
from vlm_prep.pack.lower_bounds import fewest_bins
from vlm_prep.pack.mixed_bins import MixedRows
from vlm_prep.pack.order_by import order_by

Columns = Sequence[NDArray[np.int32] | NDArray[np.int64]]
"""(n,) what documents take of each capacity."""
_SEED = 0
"""Of the order in which groups of one size are laid."""
_LOOSE = 0.5
"""Of the lower bound: a capacity that asks for less is planned for only where bins break it."""
_MANY = 500_000
"""Documents of which loose capacities are planned for at once: in 10 million they cost no bin, and time counts."""
_CLOSE = 0.999
"""Of it: as close as is looked for."""
_FIRST_BINS = 1 << 12
"""Are looked at first, then twice as many, ..., for one that holds too much."""


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
    fits = np.logical_and.reduce([demands[:, column] <= each for column, each in enumerate(capacities)])
    rows = None if fits.all() else np.flatnonzero(fits)
    dtype = np.int32 if max(capacities) < 1 << 31 else np.int64
    columns = [(of if rows is None else of[rows]).astype(dtype) for of in demands.T]
    bins = best_fit_decreasing(columns[0], capacities[0])
    if not _keeps(bins, columns, capacities):
        bins = _pack_several(columns, capacities)
    return replace(bins, rows=bins.rows if rows is None else rows[bins.rows], too_long=np.flatnonzero(~fits))


def _keeps(bins: Bins, columns: Columns, capacities: Sequence[int]) -> bool:
    start, count = 0, _FIRST_BINS
    while start < bins.n_bins:
        offsets = bins.offsets[start : start + count + 1]
        rows = bins.rows[offsets[0] : offsets[-1]]
        for column, capacity in zip(columns[1:], capacities[1:], strict=True):
            if int(np.add.reduceat(column[rows], offsets[:-1] - offsets[0], dtype=np.int64).max()) > capacity:
                return False
        start, count = start + count, 2 * count
    return True


def _pack_several(columns: Columns, capacities: Sequence[int]) -> Bins:
    """Return the bins by the tight capacities alone, where those that break a loose one are laid anew; or by all.

    A loose capacity seldom asks for anything, and planning for it costs some bins of few.
    """
    if len(columns[0]) > _MANY:
        return _pack_mixed(columns, capacities)
    bounds = [fewest_bins(column, each) for column, each in zip(columns, capacities, strict=True)]
    tight = [0, *(number for number, bound in enumerate(bounds) if number and bound > _LOOSE * max(bounds))]
    if len(tight) in (1, len(columns)):
        return _pack_mixed(columns, capacities)
    bins = _pack_mixed([columns[number] for number in tight], [capacities[number] for number in tight])
    breaks = np.zeros(bins.n_bins, np.bool_)
    for column, capacity in zip(columns, capacities, strict=True):
        breaks |= np.add.reduceat(column[bins.rows], bins.offsets[:-1], dtype=np.int64) > capacity
    if breaks.any():
        counts = np.diff(bins.offsets)
        again = np.repeat(breaks, counts)
        rows = bins.rows[again]
        anew = _pack_mixed([column[rows] for column in columns], capacities)
        sizes = np.concatenate([counts[~breaks], np.diff(anew.offsets)])
        bins = replace(
            bins,
            rows=np.concatenate([bins.rows[~again], rows[anew.rows]]),
            offsets=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        )
    if max(bounds) >= _CLOSE * bins.n_bins:
        return bins
    return min(bins, _pack_mixed(columns, capacities), key=lambda found: found.n_bins)


def _pack_mixed(columns: Columns, capacities: Sequence[int]) -> Bins:
    """Return the bins of documents whose demands do not all go by tokens."""
    some = np.logical_or.reduce([column > 0 for column in columns[1:]])
    plain, others = np.flatnonzero(~some), np.flatnonzero(some)
    bounds = [fewest_bins(column, each) for column, each in zip(columns, capacities, strict=True)]
    alike = group_alike([column[others] for column in columns], capacities, bounds)
    # not in an order that says what they take: where much is equal, each would meet its like again and again
    shuffled = np.argsort(np.random.PCG64(_SEED).random_raw(len(alike.most)), kind="stable")
    most, tokens = np.take(alike.most, shuffled, axis=0), columns[0][plain]
    planned = MixedRows(most, capacities, np.sort(tokens)[::-1][:: alike.size], max(bounds) / alike.size)
    bin_of, of_group = np.empty(len(some), np.int64), np.empty(len(most), np.int64)
    of_group[shuffled], n_bins = planned.lay()
    bin_of[others], n_bins = alike.bins(of_group), n_bins * alike.size
    used = np.bincount(bin_of[others], weights=columns[0][others], minlength=n_bins).astype(np.int64)
    bin_of[plain], n_bins = fill_best(tokens, capacities[0] - used, capacities[0])
    counts = np.bincount(bin_of, minlength=n_bins)
    return Bins(
        rows=order_by([bin_of, capacities[0] - columns[0]]),
        offsets=np.concatenate([[0], np.cumsum(counts[counts > 0])]).astype(np.int64),
        too_long=np.empty(0, np.int64),
        capacity=capacities[0],
        tokens=int(columns[0].sum(dtype=np.int64)),
    )
