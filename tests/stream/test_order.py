"""Which row stands at which position: a permutation by seed and epoch that keeps planned steps and places together."""

from __future__ import annotations

import numpy as np
import pytest

from vlm_prep.stream.order import BLOCKS, SHARDS, EpochOrder, Places


def epoch_of(places: Places, seed: int = 0, epoch: int = 0, *, shuffle: bool = True) -> list[int]:
    """The rows at all positions."""
    order = EpochOrder(places, seed, shuffle=shuffle)
    return [order.row(epoch, position) for position in range(places.rows)]


PLACES = [
    Places(rows=rows, group=group, block=block, shard=shard)
    for rows in (0, 1, 7, 1000, 2500)
    for group in (1, 3, 8)
    for block, shard in ((1, 1), (1, 16), (7, 3), (4000, 1))
]


@pytest.mark.parametrize("places", PLACES, ids=str)
def test_every_row_stands_at_one_position(places: Places) -> None:
    assert sorted(epoch_of(places, seed=5, epoch=2)) == list(range(places.rows))


def test_order_depends_on_seed_and_epoch_alone() -> None:
    places = Places(rows=3000, block=10, shard=4)
    order = epoch_of(places, seed=1)
    assert order == epoch_of(places, seed=1)
    assert order != epoch_of(places, seed=1, epoch=1)
    assert order != epoch_of(places, seed=2)


def test_positions_may_be_asked_in_any_order() -> None:
    places = Places(rows=3000, block=10, shard=4)
    order = EpochOrder(places, 0, shuffle=True)
    backwards = [order.row(epoch, position) for epoch in (1, 0) for position in reversed(range(3000))]
    assert backwards == epoch_of(places, epoch=1)[::-1] + epoch_of(places)[::-1]


def test_seed_and_epoch_do_not_stand_in_for_each_other() -> None:
    assert epoch_of(Places(rows=100), seed=1, epoch=2) != epoch_of(Places(rows=100), seed=2, epoch=1)


def test_without_shuffle_every_epoch_is_the_stores_order() -> None:
    for epoch in (0, 3):
        assert epoch_of(Places(rows=5), seed=1, epoch=epoch, shuffle=False) == [0, 1, 2, 3, 4]


def test_steps_stay_together_and_a_short_one_stays_last() -> None:
    order = epoch_of(Places(rows=11, group=4), seed=3)
    steps = [order[i : i + 4] for i in (0, 4)]
    assert sorted(steps) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert order[8:] == [8, 9, 10]


def test_position_modulo_group_is_the_planned_rank() -> None:
    order = np.array(epoch_of(Places(rows=50, group=4, block=3), seed=3, epoch=1))
    assert np.array_equal(order % 4, np.arange(50) % 4)


LARGE = Places(rows=100_000, block=10, shard=20)
"""10,000 blocks in 500 shards of 200 rows."""


@pytest.fixture(scope="module")
def large() -> np.ndarray:
    """An epoch of LARGE."""
    return np.array(epoch_of(LARGE, seed=7))


def test_a_window_reads_from_few_places(large: np.ndarray) -> None:
    for start in range(0, LARGE.rows, BLOCKS * LARGE.block):
        window = large[start : start + BLOCKS * LARGE.block]
        assert len(np.unique(window // LARGE.block)) <= BLOCKS
        assert len(np.unique(window // (LARGE.block * LARGE.shard))) <= 2 * SHARDS


def test_each_shard_is_read_in_one_stretch(large: np.ndarray) -> None:
    per_round = SHARDS * LARGE.shard * LARGE.block
    shards = large // (LARGE.block * LARGE.shard)
    for shard in range(0, 500, 17):
        positions = np.flatnonzero(shards == shard)
        assert positions[-1] - positions[0] < per_round + BLOCKS * LARGE.block


def test_a_batch_comes_from_all_over_the_store(large: np.ndarray) -> None:
    batches = large[: LARGE.rows // 64 * 64].reshape(-1, 64)
    blocks = [len(np.unique(batch // LARGE.block)) for batch in batches]
    # 64 draws without replacement from the 640 rows of 64 blocks hit 41 blocks on average
    assert 38 < np.mean(blocks) < 45
    spread = np.array([np.ptp(batch) for batch in batches])
    assert np.median(spread) > 0.85 * LARGE.rows


def test_position_and_row_are_not_correlated(large: np.ndarray) -> None:
    assert abs(np.corrcoef(np.arange(LARGE.rows), large)[0, 1]) < 0.1
    assert abs(np.corrcoef(large[:-1], large[1:])[0, 1]) < 0.1
    assert np.mean(np.abs(np.diff(large)) == 1) < 0.01


def test_a_sorted_store_is_mixed_in_every_stretch(large: np.ndarray) -> None:
    # ten datasets one after the other: each 2,000 positions hold most of them
    datasets = large // (LARGE.rows // 10)
    stretches = datasets.reshape(-1, 2000)
    assert min(len(np.unique(stretch)) for stretch in stretches) >= 8


def test_every_row_may_come_first() -> None:
    # 64 rows, 3,200 seeds: 50 each expected; a fair draw passes 63 degrees of freedom at 130 but once in 10^6
    firsts = [EpochOrder(Places(rows=64, block=4, shard=2), seed, shuffle=True).row(0, 0) for seed in range(3200)]
    counts = np.bincount(firsts, minlength=64)
    assert ((counts - 50) ** 2 / 50).sum() < 130


def test_the_memory_of_an_epoch_is_its_windows() -> None:
    order = EpochOrder(Places(rows=10**9, block=1000, shard=16), 0, shuffle=True)
    rows = {order.row(0, position) for position in (0, 1, 10**8, 10**9 - 1)}
    assert len(rows) == 4
    assert sum(window.size for window in order._windows.values()) <= 2 * BLOCKS * 1000


def test_places_follow_the_stores_batches_and_shards() -> None:
    assert Places.of(1000, group=1, batches=10, shards=2) == Places(rows=1000, group=1, block=100, shard=5)
    assert Places.of(1000, group=4, batches=40, shards=8) == Places(rows=1000, group=4, block=25, shard=5)
    assert Places.of(0, group=1, batches=0, shards=0) == Places(rows=0)
