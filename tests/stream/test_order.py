"""Which row stands at which position: a permutation by seed and epoch that keeps planned steps together."""

from __future__ import annotations

import numpy as np
import pytest

from vlm_prep.stream.order import epoch_order


@pytest.mark.parametrize("rows", [0, 1, 7, 1000])
@pytest.mark.parametrize("group", [1, 3, 8])
def test_every_row_stands_at_one_position(rows: int, group: int) -> None:
    order = epoch_order(rows, seed=5, epoch=2, shuffle=True, group=group)
    assert sorted(order.tolist()) == list(range(rows))


def test_order_depends_on_seed_and_epoch_alone() -> None:
    order = epoch_order(100, seed=1, epoch=0, shuffle=True)
    assert np.array_equal(order, epoch_order(100, seed=1, epoch=0, shuffle=True))
    assert not np.array_equal(order, epoch_order(100, seed=1, epoch=1, shuffle=True))
    assert not np.array_equal(order, epoch_order(100, seed=2, epoch=0, shuffle=True))


def test_seed_and_epoch_do_not_stand_in_for_each_other() -> None:
    one, other = epoch_order(100, seed=1, epoch=2, shuffle=True), epoch_order(100, seed=2, epoch=1, shuffle=True)
    assert not np.array_equal(one, other)


def test_without_shuffle_every_epoch_is_the_stores_order() -> None:
    for epoch in (0, 3):
        assert epoch_order(5, seed=1, epoch=epoch, shuffle=False).tolist() == [0, 1, 2, 3, 4]


def test_steps_stay_together_and_a_short_one_stays_last() -> None:
    order = epoch_order(11, seed=3, epoch=0, shuffle=True, group=4).tolist()
    steps = [order[i : i + 4] for i in (0, 4)]
    assert sorted(steps) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert order[8:] == [8, 9, 10]


def test_position_modulo_group_is_the_planned_rank() -> None:
    order = epoch_order(50, seed=3, epoch=1, shuffle=True, group=4)
    assert np.array_equal(order % 4, np.arange(50) % 4)
