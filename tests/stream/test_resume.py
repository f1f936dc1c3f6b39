"""A run that stops anywhere goes on at the same row: any loader, workers, world size and batch size."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loaders import ROWS, ids, loader_for, whole_epoch
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

from vlm_prep.core.errors import StoreError
from vlm_prep.shards.schema import MEDIA
from vlm_prep.stream import PadCollate, ShardDataset, State
from vlm_prep.stream.order import EpochOrder, Places, steps_left

WORKERS = (0, 2)


def flat(batches: list[list[str]]) -> list[str]:
    """All names of some batches."""
    return [name for batch in batches for name in batch]


def test_the_order_is_frozen() -> None:
    # part of the format of a State: another order would resume a run at other rows
    small = EpochOrder(Places(rows=8), 0, shuffle=True)
    assert [small.row(0, position) for position in range(8)] == [5, 0, 2, 7, 3, 4, 1, 6]
    assert [small.row(1, position) for position in range(8)] == [5, 1, 3, 4, 6, 7, 0, 2]
    large = EpochOrder(Places(rows=10**6, group=2, block=100, shard=8), 3, shuffle=True)
    assert [large.row(5, position) for position in (0, 1, 1000, 500_000, 999_999)] == [
        859078,
        859079,
        360988,
        999806,
        356729,
    ]


@pytest.mark.parametrize("before", WORKERS)
@pytest.mark.parametrize("after", WORKERS)
def test_a_plain_loader_goes_on_after_the_last_batch_trained(stores: Any, before: int, after: int) -> None:
    path = stores.tokenized(ROWS)
    dataset = ShardDataset(path, epoch=1)
    batches = iter(loader_for(DataLoader, dataset, before))
    trained = [next(batches) for _ in range(3)]
    saved = dataset.state(consumed=3 * 2).to_json()
    again = ShardDataset(path)
    again.resume(State.from_json(saved))
    assert flat(trained) + flat(list(loader_for(DataLoader, again, after))) == whole_epoch(path, 1)


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("steps", [0, 1, 3, 7])
def test_a_stateful_loader_goes_on_in_its_epoch(stores: Any, workers: int, steps: int) -> None:
    path = stores.tokenized(ROWS)
    dataset = ShardDataset(path, epoch=2)
    loader = loader_for(StatefulDataLoader, dataset, workers)
    batches = iter(loader)
    trained = [next(batches) for _ in range(steps)]
    again = ShardDataset(path)
    resumed = loader_for(StatefulDataLoader, again, workers)
    resumed.load_state_dict(loader.state_dict())
    assert flat(trained) + flat(list(resumed)) == whole_epoch(path, 2)
    assert flat(list(resumed)) == whole_epoch(path, 3)


def test_a_stateful_loader_saved_after_an_epoch_begins_the_next(stores: Any) -> None:
    path = stores.tokenized(ROWS)
    loader = loader_for(StatefulDataLoader, ShardDataset(path), 0)
    list(loader)
    resumed = loader_for(StatefulDataLoader, ShardDataset(path), 0)
    resumed.load_state_dict(loader.state_dict())
    assert flat(list(resumed)) == whole_epoch(path, 1)


def test_a_stateful_loaders_state_goes_on_with_other_workers(stores: Any) -> None:
    path = stores.tokenized(ROWS)
    loader = loader_for(StatefulDataLoader, ShardDataset(path), 2)
    batches = iter(loader)
    trained = [next(batches) for _ in range(2)]
    again = ShardDataset(path)
    again.resume(State.from_loader(loader.state_dict()))
    assert flat(trained) + flat(list(loader_for(StatefulDataLoader, again, 0))) == whole_epoch(path)


def test_a_stateful_loader_without_the_sampler_gives_no_state(stores: Any) -> None:
    loader = StatefulDataLoader(ShardDataset(stores.tokenized(4)), batch_size=2, collate_fn=ids)
    with pytest.raises(StoreError, match="no position"):
        State.from_loader(loader.state_dict())


@pytest.mark.parametrize("old", [1, 2, 3, 4])
@pytest.mark.parametrize("new", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_no_row_is_lost_or_doubled_when_the_world_size_changes(stores: Any, old: int, new: int, steps: int) -> None:
    path = stores.tokenized(ROWS)
    order = whole_epoch(path)
    saved = ShardDataset(path, 0, old).state(consumed=steps * old)
    ranks = [ShardDataset(path, rank, new) for rank in range(new)]
    for rank in ranks:
        rank.resume(saved)
    rest = [ranks[rank][step]["sample_id"] for step in range(len(ranks[0])) for rank in range(new)]
    left = ROWS - steps * old
    assert rest[:left] == order[steps * old :]
    assert rest[left:] == order[: len(rest) - left]
    assert len(rest) - left < new


@pytest.mark.parametrize(("start", "pad", "drop"), [(0, 3, 2), (2, 2, 1), (8, 1, 0), (9, 0, 0), (12, 0, 0)])
def test_steps_left_count_the_rows_that_are_left(start: int, pad: int, drop: int) -> None:
    assert steps_left(9, start, 4, "pad") == pad
    assert steps_left(9, start, 4, "drop") == drop


def test_setting_the_epoch_of_a_resumed_state_keeps_its_position(stores: Any) -> None:
    dataset = ShardDataset(stores.tokenized(ROWS))
    dataset.resume(dataset.state_at(epoch=2, consumed=10))
    dataset.set_epoch(2)
    assert len(dataset) == 3
    dataset.set_epoch(3)
    assert len(dataset) == ROWS


def test_a_state_from_the_end_of_an_epoch_leaves_nothing_of_it(stores: Any) -> None:
    path = stores.tokenized(ROWS)
    dataset = ShardDataset(path)
    dataset.resume(dataset.state(consumed=ROWS))
    loader = loader_for(DataLoader, dataset, 0)
    dataset.set_epoch(0)
    assert list(loader) == []
    assert flat(list(loader)) == whole_epoch(path, 1)


def test_each_iteration_of_a_sampler_is_the_next_epoch(stores: Any) -> None:
    path = stores.tokenized(ROWS)
    loader = loader_for(DataLoader, ShardDataset(path), 0)
    assert [flat(list(loader)) for _ in range(3)] == [whole_epoch(path, epoch) for epoch in range(3)]


@pytest.mark.parametrize("sampler", [True, False])
def test_persistent_workers_follow_the_epoch(stores: Any, sampler: bool) -> None:
    path = stores.tokenized(ROWS)
    dataset = ShardDataset(path)
    chosen = dataset.sampler() if sampler else None
    loader = DataLoader(dataset, batch_size=2, sampler=chosen, num_workers=1, persistent_workers=True, collate_fn=ids)
    for epoch in range(3):
        dataset.set_epoch(epoch)
        assert flat(list(loader)) == whole_epoch(path, epoch)


def test_the_state_is_right_while_workers_have_drawn_the_epochs_last_rows(stores: Any) -> None:
    path = stores.tokenized(ROWS)
    dataset = ShardDataset(path)
    dataset.resume(dataset.state(consumed=6))
    batches = iter(loader_for(DataLoader, dataset, 2, prefetch_factor=8))
    next(batches)
    assert dataset.state(consumed=2) == dataset.state_at(epoch=0, consumed=8)


def test_states_of_another_store_seed_or_order_are_refused(stores: Any) -> None:
    path = stores.tokenized(4)
    state = ShardDataset(path).state(consumed=2)
    other = stores.tokenized(4, name="other", fingerprint="xxh3:other")
    for dataset in (
        ShardDataset(other),
        ShardDataset(path, seed=1),
        ShardDataset(path, shuffle=False),
        ShardDataset(path, max_rows=3),
    ):
        with pytest.raises(StoreError):
            dataset.resume(state)
    loader = loader_for(StatefulDataLoader, ShardDataset(path), 0)
    resumed = loader_for(StatefulDataLoader, ShardDataset(other), 0)
    resumed.load_state_dict(loader.state_dict())
    with pytest.raises(StoreError, match="another store"):
        iter(resumed)


def test_a_state_of_another_version_is_refused(stores: Any) -> None:
    data = ShardDataset(stores.tokenized(4)).state(0).to_json()
    with pytest.raises(StoreError, match="version 99"):
        State.from_json({**data, "version": 99})


def test_max_rows_takes_the_first_rows(stores: Any) -> None:
    dataset = ShardDataset(stores.tokenized(9), max_rows=4)
    assert sorted(item["sample_id"] for item in dataset) == [f"demo/{number}" for number in range(4)]


@pytest.mark.parametrize("workers", WORKERS)
def test_a_row_of_a_damaged_shard_raises_with_its_place(stores: Any, workers: int) -> None:
    path = stores.tokenized(4, shards=1)
    shard = next(path.glob("train/*.arrow"))
    data = bytearray(shard.read_bytes())
    start = ShardDataset(path).manifest.splits["train"][0].batches[0][0]
    data[start : start + 64] = bytes(np.full(64, 255, np.uint8))
    shard.write_bytes(data)
    loader = loader_for(DataLoader, ShardDataset(path, shuffle=False), workers)
    with pytest.raises(StoreError, match=re.escape(f"{shard}, row 0")):
        list(loader)


@pytest.fixture
def damaged(stores: Any, make_sample: Any) -> Path:
    """20 rows of which 3, 8 and 9 say that they have media of an unknown kind."""
    empty = dict.fromkeys(field.name for field in MEDIA.value_type)
    media: dict[str, Any] = {**empty, "kind": "smell", "files": [], "frame_list": False}
    rows = [make_sample(number, media=[media] if number in (3, 8, 9) else []) for number in range(20)]
    return Path(stores.tokenized(rows))


@pytest.mark.parametrize("workers", WORKERS)
def test_bad_rows_are_skipped_counted_and_not_replaced(
    damaged: Path, workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = ShardDataset(damaged, shuffle=False, on_bad="skip")
    batches = list(loader_for(DataLoader, dataset, workers))
    assert [len(batch) for batch in batches] == [2, 1, 2, 2, 0, 2, 2, 2, 2, 2]
    assert flat(batches) == [f"demo/{number}" for number in range(20) if number not in (3, 8, 9)]
    assert dataset.skipped == 3
    if not workers:
        assert re.search(r"skipped \(1 so far\): .*arrow, row 3 \(demo/3\)", caplog.text)


@pytest.mark.parametrize("workers", WORKERS)
def test_too_many_bad_rows_raise(damaged: Path, workers: int) -> None:
    dataset = ShardDataset(damaged, shuffle=False, on_bad="skip", max_bad=1)
    with pytest.raises(StoreError, match=r"[23] rows could not be read, more than max_bad 1; the last: .*demo"):
        list(loader_for(DataLoader, dataset, workers))


def test_a_bad_row_raises_by_default_and_when_asked_for_by_number(damaged: Path) -> None:
    with pytest.raises(StoreError, match="demo/3"):
        list(loader_for(DataLoader, ShardDataset(damaged, shuffle=False), 0))
    with pytest.raises(StoreError, match="demo/3"):
        ShardDataset(damaged, shuffle=False, on_bad="skip")[3]


def test_ranks_take_as_many_steps_though_one_skips(damaged: Path) -> None:
    ranks = [ShardDataset(damaged, rank, 2, shuffle=False, on_bad="skip") for rank in range(2)]
    steps = [[len(batch) for batch in loader_for(DataLoader, rank, 0)] for rank in ranks]
    assert steps == [[2, 2, 1, 2, 2], [1, 2, 1, 2, 2]]


def test_a_batch_that_lost_all_rows_is_a_placeholder(damaged: Path) -> None:
    dataset = ShardDataset(damaged, shuffle=False, on_bad="skip")
    collate = PadCollate.for_store(dataset, shift=False)
    loader = DataLoader(dataset, batch_size=2, sampler=dataset.sampler(), collate_fn=collate)
    batch = list(loader)[4]
    assert batch["labels"].unique().tolist() == [-100]
    assert batch["attention_mask"].tolist() == [[1, 1]]


def test_a_run_that_skipped_resumes_at_the_same_row(damaged: Path) -> None:
    dataset = ShardDataset(damaged, on_bad="skip")
    loader = loader_for(StatefulDataLoader, dataset, 0)
    whole = flat(list(loader_for(StatefulDataLoader, ShardDataset(damaged, on_bad="skip"), 0)))
    batches = iter(loader)
    trained = [next(batches) for _ in range(5)]
    again = loader_for(StatefulDataLoader, ShardDataset(damaged, on_bad="skip"), 0)
    again.load_state_dict(loader.state_dict())
    assert flat(trained) + flat(list(again)) == whole
