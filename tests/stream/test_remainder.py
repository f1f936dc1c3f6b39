"""Rows that do not divide among the ranks, and loaders that are asked for more than there is."""

from __future__ import annotations

import pickle
import shutil
from typing import Any

import pytest
from loaders import ROWS, loader_for, whole_epoch
from torch.utils.data import DataLoader

from vlm_prep.core.errors import StoreError
from vlm_prep.stream import ShardDataset


@pytest.mark.parametrize(("remainder", "says"), [("pad", "repeats 3"), ("drop", "leaves out 1")])
def test_the_remainder_is_said_once(stores: Any, remainder: Any, says: str, caplog: pytest.LogCaptureFixture) -> None:
    path = stores.tokenized(ROWS)
    for rank in range(4):
        dataset = ShardDataset(path, rank, 4, remainder=remainder)
        for epoch in range(2):
            dataset.set_epoch(epoch)
            list(loader_for(DataLoader, dataset, 0))
    assert [says in record.getMessage() for record in caplog.records] == [True]


def test_nothing_is_said_where_rows_divide(stores: Any, caplog: pytest.LogCaptureFixture) -> None:
    ShardDataset(stores.tokenized(12), 0, 4)
    assert not caplog.records


def test_a_store_replaced_while_in_use_is_refused(stores: Any) -> None:
    path = stores.tokenized(4)
    sent = pickle.dumps(ShardDataset(path))
    shutil.rmtree(path)
    stores.tokenized(4, fingerprint="xxh3:new")
    with pytest.raises(StoreError, match="replaced"):
        pickle.loads(sent)


def test_changing_the_working_folder_does_no_harm(stores: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = stores.tokenized(4)
    monkeypatch.chdir(path.parent)
    dataset = ShardDataset(path.name)
    monkeypatch.chdir("/")
    assert len(pickle.loads(pickle.dumps(dataset))) == 4


@pytest.mark.parametrize("remainder", ["pad", "drop"])
@pytest.mark.parametrize("ahead", [1, 3, 5, 1024])
def test_rows_drawn_together_are_those_drawn_alone(
    stores: Any, monkeypatch: pytest.MonkeyPatch, ahead: int, remainder: Any
) -> None:
    monkeypatch.setattr("vlm_prep.stream.sampler._AHEAD", ahead)
    path = stores.tokenized(ROWS)
    for world, start in ((1, 0), (1, 4), (2, 0), (4, 8), (3, 9)):
        for rank in range(world):
            dataset = ShardDataset(path, rank, world, remainder=remainder)
            dataset.resume(dataset.state_at(1, start))
            picks = list(dataset.sampler())
            assert len(picks) == len(dataset)
            assert [pick.position for pick in picks] == [dataset.position(index) for index in range(len(picks))]
            assert [pick.row for pick in picks] == [dataset.row_at(1, pick.position) for pick in picks]


def test_a_loop_that_counts_its_batches_hears_that_the_epoch_begins_again(
    stores: Any, caplog: pytest.LogCaptureFixture
) -> None:
    path = stores.tokenized(4)
    dataset = ShardDataset(path)
    loader = loader_for(DataLoader, dataset, 0)
    for _ in range(2):
        batches = iter(loader)
        first = [next(batches), next(batches)]
    assert first == [whole_epoch(path)[:2], whole_epoch(path)[2:]]
    assert "epoch 0 begins again" in caplog.text
    caplog.clear()
    dataset.set_epoch(1)
    batches = iter(loader)
    assert [next(batches), next(batches)] == [whole_epoch(path, 1)[:2], whole_epoch(path, 1)[2:]]
    next(batches, None)
    assert len(list(loader)) == 2
    assert dataset.epoch == 2
    assert not caplog.text
