"""sample_ratio picks the same rows, in the same order, as NeMo Automodel's unsharded meta datasets."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from vlm_prep.ingest.sampling import copies, pick_rows


def test_a_ratio_of_one_takes_every_row_in_file_order() -> None:
    assert pick_rows(5, 1.0).tolist() == [0, 1, 2, 3, 4]


def test_a_ratio_below_one_keeps_the_reference_order_of_the_draw() -> None:
    assert pick_rows(10, 0.5).tolist() == [1, 0, 4, 9, 6]


def test_a_ratio_above_one_is_full_passes_then_a_draw() -> None:
    assert pick_rows(10, 2.25).tolist() == [*range(10), *range(10), 1, 0]


def test_a_tiny_ratio_still_takes_one_row() -> None:
    assert len(pick_rows(10, 1e-9)) == 1


@pytest.mark.parametrize("ratio", [0.5, 1, 2.25])
def test_no_rows_give_no_picks(ratio: float) -> None:
    picks = pick_rows(0, ratio)
    assert picks.dtype == np.int64 and picks.shape == (0,)


def test_whole_ratios_draw_nothing() -> None:
    assert pick_rows(3, 2).tolist() == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize(
    ("total", "ratio", "extras"),
    [
        (10, 2.3, 2),  # 2.3 - 2 is 0.2999999999999998
        (10, 1.1, 1),  # 1.1 - 1 is 0.10000000000000009
        (100, 1.29, 29),
        (1000, 3.001, 0),  # 3.001 - 3 is 0.0009999999999998899
    ],
)
def test_extras_are_floored_in_doubles_as_the_reference_does(total: int, ratio: float, extras: int) -> None:
    assert len(pick_rows(total, ratio)) - int(ratio) * total == extras


@pytest.mark.parametrize(("total", "ratio"), [(100, 0.29), (100, 0.57), (7, 0.999), (1000, 0.001)])
def test_shares_are_floored_in_doubles_as_the_reference_does(total: int, ratio: float) -> None:
    expected = random.Random(42).sample(range(total), max(1, math.floor(total * ratio)))
    assert pick_rows(total, ratio).tolist() == expected


@pytest.mark.parametrize("ratio", [0.3, 1, 2, 2.7, 4.01])
def test_copies_count_earlier_picks_of_the_same_row(ratio: float) -> None:
    picks = pick_rows(11, ratio).tolist()
    counted = [picks[:place].count(row) for place, row in enumerate(picks)]
    assert copies(11, len(picks)).tolist() == counted
