"""Several stores mixed by weight: exact shares in every stretch, every row in turn, resumable like one store."""

from __future__ import annotations

import pickle
from collections import Counter
from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

from vlm_prep.core.errors import StoreError
from vlm_prep.stream import MixedDataset, ShardDataset, State
from vlm_prep.stream.mix import MixedOrder, shares
from vlm_prep.stream.order import EpochOrder, Places


@pytest.fixture
def paths(stores: Any, make_sample: Any) -> list[Any]:
    """Stores of 30, 12 and 6 rows; their ids tell them apart."""
    sizes = {"a": 30, "b": 12, "c": 6}
    return [
        stores.tokenized(
            [make_sample(number, sample_id=f"{name}/{number}") for number in range(size)],
            name=name,
            fingerprint=f"xxh3:{name}",
        )
        for name, size in sizes.items()
    ]


def ids(items: list[dict[str, Any]]) -> list[str]:
    return [item["sample_id"] for item in items]


def epoch_of(dataset: ShardDataset) -> list[str]:
    return [dataset[index]["sample_id"] for index in range(len(dataset))]


def mixed_order(sizes: list[int], weights: list[float], positions: int, group: int = 1) -> MixedOrder:
    orders = [EpochOrder(Places(rows=size, group=group), 0, shuffle=False) for size in sizes]
    return MixedOrder(orders, weights, positions)


def test_the_worked_example() -> None:
    order = mixed_order([4, 2], [2, 1], 6)
    assert [order.row(0, position) for position in range(6)] == [0, 4, 1, 2, 5, 3]


@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [5, 3, 1], [0.7, 0.2999, 0.0001], [1e-3, 1e3, 1]])
@pytest.mark.parametrize("positions", [1, 10, 4096, 10_000, 50_001])
def test_each_stretch_has_its_shares(weights: list[float], positions: int) -> None:
    order = mixed_order([7, 50, 1000], weights, positions)
    stores = np.searchsorted([7, 57], order.rows(0, 0, order.positions), side="right")
    assert np.bincount(stores, minlength=3).tolist() == order.counts
    taken = np.cumsum(stores[:, None] == np.arange(3), axis=0)
    wanted = np.arange(1, len(stores) + 1)[:, None] * np.array(order.counts) / len(stores)
    assert np.abs(taken - wanted).max() < 2


def test_shares_are_the_largest_remainders_and_none_is_empty() -> None:
    assert shares([1, 1, 1], 10) == [4, 3, 3]
    assert shares([100, 1], 10) == [9, 1]
    assert shares([1e9, 1], 10) == [9, 1]


def test_a_store_is_read_to_its_end_before_it_begins_again(paths: list[Any]) -> None:
    dataset = MixedDataset(paths, [1, 1, 2], epoch_rows=48)
    seen = []
    for epoch in range(5):
        dataset.set_epoch(epoch)
        seen += epoch_of(dataset)
    for name, size in (("a", 30), ("b", 12), ("c", 6)):
        own = [each for each in seen if each.startswith(name)]
        rounds = [own[start : start + size] for start in range(0, len(own) - size + 1, size)]
        assert len(rounds) >= 2
        assert all(len(set(each)) == size for each in rounds)


def test_each_store_comes_in_its_own_order(paths: list[Any]) -> None:
    mixed = epoch_of(MixedDataset(paths, [30, 12, 6], seed=3))
    for name, path in zip("abc", paths, strict=True):
        assert [each for each in mixed if each.startswith(name)] == epoch_of(ShardDataset(path, seed=3))


def test_the_default_epoch_has_as_many_rows_as_the_stores(paths: list[Any]) -> None:
    dataset = MixedDataset(paths, [1, 1, 1])
    assert Counter(name[0] for name in epoch_of(dataset)) == {"a": 16, "b": 16, "c": 16}


@pytest.mark.parametrize("world", [1, 2, 4])
def test_a_position_holds_the_same_row_for_every_world_size(paths: list[Any], world: int) -> None:
    alone = epoch_of(MixedDataset(paths, [3, 2, 1]))
    ranks = [epoch_of(MixedDataset(paths, [3, 2, 1], rank, world)) for rank in range(world)]
    assert [name for step in zip(*ranks, strict=True) for name in step] == alone


@pytest.mark.parametrize("workers", [0, 2])
def test_it_goes_on_where_it_stopped(paths: list[Any], workers: int) -> None:
    def loader(kind: Any, dataset: ShardDataset) -> Any:
        return kind(dataset, batch_size=4, sampler=dataset.sampler(), num_workers=workers, collate_fn=ids)

    whole = epoch_of(MixedDataset(paths, [3, 2, 1], epoch=1))
    first = loader(StatefulDataLoader, MixedDataset(paths, [3, 2, 1], epoch=1))
    batches = iter(first)
    trained = [name for _ in range(3) for name in next(batches)]
    again = MixedDataset(paths, [3, 2, 1])
    again.resume(State.from_loader(first.state_dict()))
    assert trained + [name for batch in loader(DataLoader, again) for name in batch] == whole


def test_states_of_another_mix_are_refused(paths: list[Any]) -> None:
    state = MixedDataset(paths, [3, 2, 1]).state(consumed=4)
    for other in (
        MixedDataset(paths, [3, 2, 2]),
        MixedDataset(paths, [3, 2, 1], epoch_rows=20),
        MixedDataset(paths[:2], [3, 2]),
        ShardDataset(paths[0]),
    ):
        with pytest.raises(StoreError, match="another store"):
            other.resume(state)


def test_it_travels_to_spawned_workers(paths: list[Any]) -> None:
    dataset = MixedDataset(paths, [3, 2, 1], seed=1)
    assert epoch_of(pickle.loads(pickle.dumps(dataset))) == epoch_of(dataset)


def test_planned_steps_stay_together(stores: Any) -> None:
    order = mixed_order([8, 8], [1, 1], 16, group=4)
    rows = order.rows(0, 0, 16).reshape(-1, 4)
    assert (rows % 4).tolist() == [[0, 1, 2, 3]] * 4
    assert (rows // 4 == rows[:, :1] // 4).all()


def test_stores_of_another_processor_or_kind_are_refused(stores: Any, paths: list[Any]) -> None:
    runtime = {**ShardDataset(paths[0]).manifest.processor, "image_token_id": 5}
    other = stores.tokenized(4, name="other", runtime=runtime)
    with pytest.raises(StoreError, match=r"different processors: image_token_id: 91 then, 5 now"):
        MixedDataset([paths[0], other], [1, 1])
    with pytest.raises(StoreError, match="different kinds"):
        MixedDataset([paths[0], stores.ranks(4, 2)], [1, 1])


@pytest.mark.parametrize("weights", [[1, 1], [1, 1, 0], [1, 1, -1], []])
def test_weights_must_fit_the_stores(paths: list[Any], weights: list[float]) -> None:
    with pytest.raises(ValueError, match="above 0"):
        MixedDataset(paths, weights)
