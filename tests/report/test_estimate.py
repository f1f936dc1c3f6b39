"""Which rows are sampled, and how often the stated interval holds the truth."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from vlm_prep.core.errors import InputError
from vlm_prep.pack.bins import best_fit_decreasing
from vlm_prep.report.plan.estimate import LEAST_ROWS, MOST_ROWS, Population, SampleSize, choose_rows


@pytest.mark.parametrize(("total", "count"), [(1000, 10), (1000, 999), (7, 3), (5, 5), (5, 9)])
def test_one_row_is_chosen_of_each_stretch(total: int, count: int) -> None:
    rows = choose_rows(total, count)
    count = min(count, total)
    edges = [stretch * total // count for stretch in range(count + 1)]
    assert len(rows) == count
    assert all(start <= row < end for row, (start, end) in zip(rows, pairwise(edges), strict=True))
    assert rows == choose_rows(total, count)


def test_the_choice_is_not_in_step_with_a_period_of_the_data() -> None:
    within = np.bincount(np.array(choose_rows(64_000, 1600)) % 40, minlength=40)  # stretches of 40 rows
    assert within.min() > 0
    assert within.max() < 80


def test_by_default_one_in_a_hundred_rows_is_looked_at_within_bounds() -> None:
    size = SampleSize()
    assert [size.of(total) for total in (100, 1000, 100_000, 10_000_000)] == [100, LEAST_ROWS, 1000, MOST_ROWS]


def test_a_share_or_a_number_that_is_asked_for_is_taken() -> None:
    assert SampleSize(fraction=0.25).of(403) == 101
    assert SampleSize(fraction=1.0).of(100_000) == 100_000
    assert SampleSize(rows=50).of(10_000) == 50
    assert SampleSize(rows=50).of(20) == 20
    assert SampleSize(fraction=0.0001).of(100) == 2
    with pytest.raises(InputError, match="exclude"):
        SampleSize(fraction=0.5, rows=3).of(10)


def test_a_sample_of_all_rows_is_exact() -> None:
    whole = Population(rows=5, sampled=5)
    total = whole.total([3, 4, 5])
    assert (total.low, total.value, total.high) == (12, 12, 12)
    count = whole.count(2)
    assert (count.low, count.value, count.high) == (2, 2, 2)
    packs, fill, alone = whole.packs(np.array([6, 6, 5, 4, 3]), 10, whole.total([6, 6, 5, 4, 3]))
    assert packs.value == packs.low == packs.high == best_fit_decreasing(np.array([6, 6, 5, 4, 3]), 10).n_bins
    assert fill == alone


def covered(rows: int, sampled: int, seeds: int = 200) -> dict[str, float]:
    """How often the truth of a population of rows of log-normal lengths is in the interval of a sample."""
    hits = {"total": 0, "skewed": 0, "count": 0, "rare": 0, "packs": 0}
    for seed in range(seeds):
        random = np.random.default_rng(seed)
        lengths = np.clip(random.lognormal(6.0, 0.7, rows), 20, 4096).astype(np.int64)
        rare = random.random(rows) < 0.004
        chosen = random.choice(rows, sampled, replace=False)
        population = Population(rows=rows, sampled=sampled)
        total = population.total(lengths[chosen])
        packs, _, _ = population.packs(lengths[chosen], 4096, total)
        real = best_fit_decreasing(lengths, 4096).n_bins
        long, few = population.count(int((lengths[chosen] > 600).sum())), population.count(int(rare[chosen].sum()))
        skewed = np.where(random.random(rows) < 0.2, random.lognormal(11.0, 0.8, rows), 0.0)  # a picture in few rows
        disk = population.total(skewed[chosen])
        hits["skewed"] += disk.low <= skewed.sum() <= disk.high
        hits["total"] += total.low <= lengths.sum() <= total.high
        hits["count"] += long.low <= (lengths > 600).sum() <= long.high
        hits["rare"] += few.low <= rare.sum() <= few.high
        hits["packs"] += packs.low <= real <= packs.high
    return {name: found / seeds for name, found in hits.items()}


@pytest.mark.parametrize(("rows", "sampled"), [(2000, 200), (600, 300)])
def test_intervals_hold_the_truth_about_95_times_in_100(rows: int, sampled: int) -> None:
    shares = covered(rows, sampled)
    assert min(shares.values()) > 0.91
    assert shares["total"] < 0.99  # no wider than they need to be


def test_what_was_not_seen_may_still_be_there() -> None:
    none = Population(rows=100_000, sampled=1000).count(0)
    assert (none.low, none.value) == (0, 0)
    assert 300 < none.high < 450


def test_an_interval_never_contradicts_the_sample() -> None:
    few = Population(rows=100, sampled=99)
    assert few.count(98).high <= 99
    assert few.count(3).low >= 3
    assert few.total([10] * 99).low >= 990
