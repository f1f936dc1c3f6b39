"""From a sample of rows to the whole source: which rows are sampled, and how sure the numbers are.

The source is cut into as many equal stretches as rows are wanted, and one row of each is taken by a hash of the
stretch's number: the same rows every time, in proportion from all datasets, and in step with no period of the data.
Uncertainties are those of a simple random sample of that size, which are at least those of such a spread-out one
unless the data is adverse. All are 95 % intervals, and shrink to nothing as the sample becomes the whole source.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from vlm_prep.core.errors import InputError
from vlm_prep.pack.bins import best_fit_decreasing

DEFAULT_FRACTION = 0.01
LEAST_ROWS, MOST_ROWS = 256, 4096
"""Bounds of the default sample; one that is asked for by share or number is taken as asked."""
_Z = 1.96
_MOST_TIMES = 5.0
"""An interval's upper end is at most exp of this times the value."""
_MOST_PACKED = 1_000_000
"""Documents that are packed to find the fill: 0.06 s."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number of the whole source."""

    value: float
    low: float
    high: float
    """The 95 % interval; equal to the value where every row was looked at."""

    def scaled(self, factor: float) -> Estimate:
        """Return it times a factor above 0."""
        return Estimate(value=self.value * factor, low=self.low * factor, high=self.high * factor)

    def to_json(self) -> dict[str, int]:
        """Return it as whole numbers, the interval rounded outwards."""
        known = self.low == self.high
        low, high = (self.value, self.value) if known else (math.floor(self.low), math.ceil(self.high))
        return {"value": round(self.value), "low": round(low), "high": round(high)}


def exactly(value: float) -> Estimate:
    """Return a number that is known."""
    return Estimate(value=value, low=value, high=value)


@dataclass(frozen=True, kw_only=True)
class SampleSize:
    """How many rows to look at."""

    fraction: float | None = None
    rows: int | None = None

    def of(self, total: int) -> int:
        """Return how many of `total` rows are looked at: at least 2, without which nothing is known of the spread.

        Raises:
            InputError: both a share and a number are asked for.
        """
        if self.fraction is not None and self.rows is not None:
            raise InputError("`fraction` and `rows` exclude each other", "give one of them")
        if self.rows is not None:
            wanted = self.rows
        elif self.fraction is not None:
            wanted = math.ceil(total * self.fraction)
        else:
            wanted = min(MOST_ROWS, max(LEAST_ROWS, math.ceil(total * DEFAULT_FRACTION)))
        return min(total, max(2, wanted))


def choose_rows(total: int, count: int) -> list[int]:
    """Return `count` of the numbers 0..total-1, ascending: one of each of `count` stretches, by a hash."""
    if count >= total:
        return list(range(total))
    edges = [stretch * total // count for stretch in range(count + 1)]
    return [
        start + xxhash.xxh3_64_intdigest(stretch.to_bytes(8, "little")) % (end - start)
        for stretch, (start, end) in enumerate(pairwise(edges))
    ]


@dataclass(frozen=True, kw_only=True)
class Population:
    """A source of which some rows were looked at."""

    rows: int
    """Of the whole source."""
    sampled: int

    @property
    def complete(self) -> bool:
        """Whether the sample is the whole source, and what is counted is exact."""
        return self.sampled == self.rows

    def total(self, values: NDArray[Any] | Sequence[float], largest: float = 0.0) -> Estimate:
        """Return the sum over all rows of what each sampled row has.

        The interval's upper end is that of the logarithm (sums of skewed sizes are missed on that side), its lower end
        the plain one.

        Args:
            values: (at most `sampled`,) a number above or equal to 0; rows that have none are left out.
            largest: what a row may have, for the upper end where no sampled row has any.
        """
        present = np.asarray(values, np.float64)
        seen = float(present.sum())
        if self.complete:
            return exactly(seen)
        mean = seen / self.sampled
        missing = self.sampled - len(present)
        squares = float(((present - mean) ** 2).sum()) + missing * mean**2
        deviation = math.sqrt(squares / (self.sampled - 1)) if self.sampled > 1 else math.inf
        left_out = 1 - self.sampled / self.rows
        half = _Z * self.rows * deviation * math.sqrt(left_out / self.sampled)
        value = mean * self.rows
        if not value:
            return self.count(0).scaled(largest)
        # a few large values make the sum: a sample that missed them finds a small spread, too
        high = value * math.exp(min(half / value, _MOST_TIMES))
        return Estimate(value=value, low=max(seen, value - half), high=high)

    def count(self, seen: int) -> Estimate:
        """Return how many of all rows are like `seen` of the sampled ones (Wilson's interval, which has an upper end
        also where none was seen)."""
        if self.complete:
            return exactly(seen)
        share = seen / self.sampled
        size = self.sampled * (self.rows - 1) / (self.rows - self.sampled)
        middle = (share + _Z**2 / (2 * size)) / (1 + _Z**2 / size)
        half = _Z / (1 + _Z**2 / size) * math.sqrt(share * (1 - share) / size + _Z**2 / (4 * size**2))
        most = self.rows - (self.sampled - seen)
        value = share * self.rows
        return Estimate(
            value=value,
            low=min(value, max(float(seen), (middle - half) * self.rows)),
            high=max(value, min(float(most), (middle + half) * self.rows)),
        )

    def packs(self, lengths: NDArray[np.int64], capacity: int, tokens: Estimate) -> tuple[Estimate, float, float]:
        """Return how many packs the documents of all rows make, their fill, and the fill of the sample alone.

        More documents fill packs better, so each sampled one is packed as often as it stands for others. The interval
        goes from the fewest tokens in full packs to the most in packs as the sample alone fills them.

        Args:
            lengths: tokens of each sampled document; none is above `capacity`.
            capacity: tokens of a pack.
            tokens: the sum of the lengths, of all rows.
        """
        alone = best_fit_decreasing(lengths, capacity)
        if self.complete or not len(lengths):
            return exactly(alone.n_bins), alone.fill, alone.fill
        repeats = max(1, min(self.rows // self.sampled, _MOST_PACKED // len(lengths)))
        bins = best_fit_decreasing(np.tile(lengths, repeats), capacity)
        value = bins.n_bins * self.rows / (self.sampled * repeats)
        low, high = tokens.low / capacity, tokens.high / (capacity * alone.fill)
        return Estimate(value=value, low=min(value, low), high=max(value, high)), bins.fill, alone.fill
