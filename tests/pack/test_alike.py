"""Many documents with several capacities are planned as groups of like ones: as full as one by one, nothing lost."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from vlm_prep.pack.alike import group_alike
from vlm_prep.pack.capacities import pack_within
from vlm_prep.pack.lower_bounds import lower_bounds
from vlm_prep.pack.order_by import order_by

COUNT = 600_001


@pytest.fixture(scope="module")
def many() -> NDArray[np.int64]:
    """(n, 4) tokens, patches, media and documents: text, pictures, and sounds without patches."""
    draw = np.random.default_rng(0)
    kinds = draw.choice(3, COUNT, p=(0.3, 0.6, 0.1))
    tokens = np.clip(draw.lognormal(5.5, 1.0, COUNT), 20, 2048).astype(np.int64)
    sizes = np.where(kinds == 1, draw.integers(8, 40, COUNT) * draw.integers(8, 40, COUNT), 0)
    return np.stack([tokens + sizes, 4 * sizes, kinds > 0, np.ones(COUNT, np.int64)], axis=1)


@pytest.mark.parametrize(
    "capacities",
    [(8192, 12_000), (8192, 20_000, 7), (8192, 20_000, 9, 40), (8192, 20_000, 9, 24), (8192, 20_000, 9, 16)],
)
@pytest.mark.parametrize("in_order", [False, True])
def test_packs_of_many_documents_are_full_and_keep_all_capacities(
    many: NDArray[np.int64], capacities: tuple[int, ...], in_order: bool
) -> None:
    demands = many[:, : len(capacities)]
    if in_order:
        demands = demands[np.lexsort(demands.T)]
    bins = pack_within(demands, capacities)
    assert np.array_equal(np.sort(bins.rows), np.arange(COUNT))
    assert (np.add.reduceat(demands[bins.rows], bins.offsets[:-1], axis=0) <= capacities).all()
    assert max(lower_bounds(demands, capacities)) / bins.n_bins > 0.999
    tokens = demands[bins.rows, 0]
    starts = np.zeros(COUNT, np.bool_)
    starts[bins.offsets[:-1]] = True
    assert ((np.diff(tokens) <= 0) | starts[1:]).all()  # in each the longest first


def test_groups_take_what_their_largest_take_and_no_more_bins_than_allowed(many: NDArray[np.int64]) -> None:
    capacities, bounds = (8192, 20_000, 9, 40), lower_bounds(many, (8192, 20_000, 9, 40))
    alike = group_alike(list(many.T), capacities, bounds)
    assert alike.size > 1
    members = np.append(alike.order, np.repeat(alike.order[-1], -COUNT % alike.size)).reshape(-1, alike.size)
    assert np.array_equal(many[members].max(axis=1), alike.most)
    most = np.array(lower_bounds(alike.most, capacities)) * alike.size
    assert most.max() <= max(bounds) * 1.0003
    bins = alike.bins(np.arange(len(members)))
    assert np.array_equal(np.sort(bins)[: COUNT - 1], np.arange(COUNT - 1))


def test_documents_that_are_not_alike_are_planned_one_by_one() -> None:
    draw = np.random.default_rng(0)
    columns = [draw.integers(1, 1 << 20, COUNT) for _ in range(4)]  # all as tight
    capacities = (1 << 21,) * 4
    alike = group_alike(columns, capacities, lower_bounds(np.stack(columns, 1), capacities))
    assert alike.size == 1
    assert np.array_equal(alike.most[np.argsort(alike.order)], np.stack(columns, 1)[np.sort(alike.order)])


@pytest.mark.parametrize("highest", [3, 1 << 16, 1 << 40])
def test_rows_are_ordered_by_the_first_key_and_then_the_next(highest: int) -> None:
    keys = list(np.random.default_rng(1).integers(0, highest, (3, 2000)))
    assert np.array_equal(order_by(keys), np.lexsort(keys[::-1]))
    lossy = order_by(keys, lossy=True)
    assert np.array_equal(np.sort(lossy), np.arange(2000))
    assert (np.diff(keys[0][lossy] >> 24) >= 0).all()
    assert order_by([keys[0][:0]]).tolist() == []
