"""Batches without media, and the memory of batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from batches import DUMMY, IGNORE, TWO, with_media

from vlm_prep.core.errors import StoreError
from vlm_prep.stream import Buffers, DummyMedia, PackedCollate, PadCollate, ShardDataset


def test_a_batch_with_media_gets_no_stand_in() -> None:
    batch = PadCollate(9, dummy=DUMMY)(with_media()[:1])
    assert batch["image_grid_thw"].tolist() == [[1, 2, 2]]
    assert 7 not in batch["input_ids"]


def test_a_batch_without_rows_is_a_placeholder_that_trains_nothing() -> None:
    padded = PadCollate(9, columns=("input_ids", "labels", "loss_weights"))([])
    assert (padded["input_ids"].tolist(), padded["attention_mask"].tolist()) == ([[9]], [[1]])
    assert (padded["labels"].tolist(), padded["loss_weights"].tolist()) == ([[IGNORE]], [[0.0]])
    packed = PackedCollate(9, mask="varlen", mrope=True)([])
    assert packed["position_ids"].shape == (3, 1, 2)
    assert packed["labels"].tolist() == [[IGNORE, IGNORE]]
    assert packed["cu_seq_lens_q"].tolist() == [0, 2]


def test_buffers_are_used_in_turn() -> None:
    collate = PadCollate(9, buffers=Buffers(reuse=2))
    rows = [{**row, "crops": np.full((3, 5), index, np.uint8)} for index, row in enumerate(TWO)]
    batches = [collate(rows), collate(rows[::-1]), collate(rows[:1])]
    places = [batch["crops"].data_ptr() for batch in batches]
    assert places[0] == places[2] != places[1]
    assert batches[1]["crops"][:, 0].tolist() == [1, 1, 1, 0, 0, 0]
    assert batches[2]["crops"].tolist() == [[0] * 5] * 3


def test_fresh_batches_do_not_share_memory() -> None:
    rows = [{**row, "crops": np.ones((3, 5), np.uint8)} for row in TWO]
    collate = PadCollate(9)
    first, second = collate(rows)["crops"], collate(rows)["crops"]
    first.zero_()
    assert second.sum() == 30


class _Rows(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """Rows with a payload."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**TWO[index % 2], "crops": np.full((1000, 10), index, np.uint8)}


class _ToldShared(PadCollate):
    """Says in the batch whether the payload already lies in memory shared with the main process."""

    def __call__(self, items: Any) -> Any:
        batch = super().__call__(items)
        return {**batch, "was_shared": batch["crops"].is_shared()}


def test_workers_lay_payloads_into_shared_memory() -> None:
    collate = _ToldShared(9, buffers=Buffers(reuse=2))
    loader = torch.utils.data.DataLoader(_Rows(), batch_size=2, collate_fn=collate, num_workers=1)
    batches = list(loader)
    assert all(batch["was_shared"] for batch in batches)
    assert [batch["crops"][::1000, 0].tolist() for batch in batches] == [[0, 1], [2, 3]]


def test_the_stand_in_of_a_store_is_its_processors_smallest_picture(tokenized: Any) -> None:
    dataset = ShardDataset(tokenized)
    dummy = DummyMedia.of(dataset.manifest.processor)
    with_picture = next(item for item in dataset if item["n_images"])
    assert dummy.tensors["pixel_values"].shape[1] == with_picture["pixel_values"].shape[1]
    assert dummy.tensors["image_grid_thw"].prod() == len(dummy.tensors["pixel_values"])
    assert PadCollate.for_store(dataset, dummy=True).dummy is not None


def test_a_family_without_grids_has_no_known_stand_in(stores: Any) -> None:
    with pytest.raises(StoreError, match="smallest picture of none"):
        PadCollate.for_store(ShardDataset(stores.tokenized(2)), dummy=True)
