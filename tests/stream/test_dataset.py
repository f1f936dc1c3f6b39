"""Rows of all three layouts, shared among ranks: each once an epoch, the same global batches for any world size."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from vlm_prep.core.errors import StoreError
from vlm_prep.stream import PackedCollate, PadCollate, ShardDataset

WORLDS = (1, 2, 3, 4)


def names(item: dict[str, Any]) -> str:
    """The sample of a row, or the first one of a pack."""
    return str(item.get("sample_id") or item["sample_ids"][0])


def epoch_of(path: Path, world: int, **options: Any) -> list[str]:
    """The names at all positions of an epoch, put together from all ranks."""
    ranks = [ShardDataset(path, rank, world, **options) for rank in range(world)]
    return [names(ranks[rank][step]) for step in range(len(ranks[0])) for rank in range(world)]


@pytest.mark.parametrize("world", WORLDS)
def test_every_row_comes_once_before_padding(stores: Any, world: int) -> None:
    seen = epoch_of(stores.tokenized(10), world)
    assert sorted(seen[:10]) == sorted(f"demo/{number}" for number in range(10))
    assert seen[10:] == seen[: len(seen) - 10]
    assert len(seen) % world == 0


@pytest.mark.parametrize("world", WORLDS)
def test_dropping_leaves_out_less_than_a_step(stores: Any, world: int) -> None:
    path = stores.tokenized(10)
    assert epoch_of(path, world, remainder="drop") == epoch_of(path, 1)[: 10 // world * world]


@pytest.mark.parametrize("layout", ["samples", "ranks", "index"])
def test_a_position_holds_the_same_row_for_every_world_size(stores: Any, layout: str) -> None:
    source = stores.tokenized(24)
    path = {
        "samples": lambda: source,
        "ranks": lambda: stores.ranks(12, 4),
        "index": lambda: stores.index(12, 4, source),
    }[layout]()
    expected = epoch_of(path, 1, seed=3, epoch=2)
    for world in WORLDS:
        assert epoch_of(path, world, seed=3, epoch=2) == expected


def test_more_ranks_than_rows_still_make_a_step_each(stores: Any) -> None:
    assert epoch_of(stores.tokenized(2, shards=1), 5, shuffle=False) == [f"demo/{n}" for n in (0, 1, 0, 1, 0)]


def test_a_row_is_views_of_its_columns(stores: Any) -> None:
    row = ShardDataset(stores.tokenized(3), shuffle=False)[2]
    assert row["input_ids"].tolist() == [200, 201, 202, 203]
    assert row["labels"].tolist() == [-100, 201, 202, 203]
    assert row["input_ids"].dtype == row["labels"].dtype == np.int32
    assert (row["sample_id"], row["n_images"], row["n_videos"]) == ("demo/2", 0, 0)


def test_grids_and_seconds_keep_their_types(stores: Any, make_sample: Any) -> None:
    columns = {"image_grid_thw": [[1, 2, 2]], "video_grid_thw": [[2, 4, 4]]}
    grids = {name: np.array(grid, np.int32) for name, grid in columns.items()}
    row = make_sample(0, second_per_grid_ts=np.array([0.5], np.float32), **grids)
    item = ShardDataset(stores.tokenized([row], shards=1), pixels=False)[0]
    assert item["image_grid_thw"].dtype == item["video_grid_thw"].dtype == np.int32
    assert item["second_per_grid_ts"].dtype == np.float32
    assert (item["image_grid_thw"].tolist(), item["second_per_grid_ts"].tolist()) == ([[1, 2, 2]], [0.5])


def test_views_cannot_be_written_to_and_batches_can(stores: Any) -> None:
    dataset = ShardDataset(stores.tokenized(3), shuffle=False)
    with pytest.raises(ValueError, match="read-only"):
        dataset[0]["input_ids"][0] = 9
    PadCollate(shift=False)([dataset[0]])["input_ids"].zero_()
    assert dataset[0]["input_ids"].tolist() == [0, 1]


def test_a_batch_is_int64(stores: Any) -> None:
    source = stores.tokenized(12)
    grids = {"image_grid_thw": np.full((1, 3), 2, np.int32), "n_images": 1}
    samples = PadCollate()([{**ShardDataset(source)[index], **grids} for index in range(3)])
    index = ShardDataset(stores.index(6, 2, source))
    packs = PackedCollate(mask="thd")([index[number] for number in range(3)])
    for batch in (samples, packs):
        assert {value.dtype for value in batch.values() if isinstance(value, torch.Tensor)} == {torch.int64}


def test_a_rank_of_the_planned_world_size_reads_its_own_folder(stores: Any) -> None:
    path = stores.ranks(9, 4)
    for rank in range(4):
        dataset = ShardDataset(path, rank, 4, seed=1, remainder="drop")
        packs = [int(dataset[i]["input_ids"][0]) // 200 for i in range(len(dataset))]
        assert [pack % 4 for pack in packs] == [rank] * 2


def test_packs_of_one_step_stay_together(stores: Any) -> None:
    seen = epoch_of(stores.ranks(8, 4), 1, seed=1)
    steps = [set(seen[i : i + 4]) for i in (0, 4)]
    assert {f"demo/{number}" for number in (0, 2, 4, 6)} in steps


def test_a_rank_without_packs_is_no_fault(stores: Any) -> None:
    assert epoch_of(stores.ranks(2, 4), 1, shuffle=False) == ["demo/0", "demo/2"]


def test_an_index_gives_the_packs_that_ranks_give(stores: Any) -> None:
    source = stores.tokenized(12)
    ranked, indexed = ShardDataset(stores.ranks(6, 2)), ShardDataset(stores.index(6, 2, source))
    assert len(ranked) == len(indexed) == 6
    for i in range(6):
        one, other = ranked[i], indexed[i]
        assert one["sample_ids"] == other["sample_ids"]
        for name in ("input_ids", "labels", "position_ids", "seq_lens"):
            assert np.array_equal(one[name], other[name])


def test_a_pack_goes_through_its_collater(stores: Any) -> None:
    dataset = ShardDataset(stores.ranks(4, 2))
    batch = PackedCollate.for_store(dataset, mask="varlen")([dataset[0], dataset[1]])
    assert int(batch["cu_seq_lens_q"][-1]) == batch["input_ids"].numel()


def test_an_index_over_another_store_is_refused(stores: Any) -> None:
    path = stores.index(2, 1, stores.tokenized(4), source_fingerprint="xxh3:other")
    with pytest.raises(StoreError, match="another store"):
        ShardDataset(path)


def test_an_index_without_its_store_is_refused(stores: Any) -> None:
    source = stores.tokenized(4)
    path = stores.index(2, 1, source)
    source.rename(source.with_name("moved"))
    with pytest.raises(StoreError, match="tok"):
        ShardDataset(path)


def test_an_unfinished_folder_is_refused(stores: Any) -> None:
    path = stores.tokenized(4)
    (path / "manifest.json").unlink()
    (path / "_work").mkdir()
    with pytest.raises(StoreError, match="unfinished"):
        ShardDataset(path)


def test_an_ingested_store_is_refused(stores: Any) -> None:
    (stores.folder / "ing").mkdir()
    path = stores.finish("ing", "ingest", "xxh3:i", {})
    with pytest.raises(StoreError, match="ingest"):
        ShardDataset(path)


def test_a_missing_shard_is_refused(stores: Any) -> None:
    path = stores.tokenized(4)
    next(path.glob("train/*.arrow")).unlink()
    with pytest.raises(StoreError, match="missing"):
        ShardDataset(path)


def test_a_shard_cut_short_is_refused(stores: Any) -> None:
    path = stores.tokenized(4)
    shard = next(path.glob("train/*.arrow"))
    shard.write_bytes(shard.read_bytes()[:-8])
    with pytest.raises(StoreError, match="damaged"):
        ShardDataset(path)


def test_a_flipped_bit_is_found_by_verify(stores: Any) -> None:
    path = stores.tokenized(4)
    shard = next(path.glob("train/*.arrow"))
    data = bytearray(shard.read_bytes())
    data[-100] ^= 1
    shard.write_bytes(data)
    with pytest.raises(StoreError, match="checksum"):
        ShardDataset(path, verify=True)


def test_a_dataset_travels_to_spawned_workers(stores: Any) -> None:
    dataset = ShardDataset(stores.tokenized(5), seed=4, epoch=1)
    names_before = [names(dataset[i]) for i in range(5)]
    again = pickle.loads(pickle.dumps(dataset))
    assert [names(again[i]) for i in range(5)] == names_before


def test_spawned_workers_read_the_same_rows(stores: Any) -> None:
    dataset = ShardDataset(stores.tokenized(6), seed=4)
    loader = DataLoader(dataset, batch_size=None, num_workers=1, multiprocessing_context="spawn")
    assert [names(item) for item in loader] == [names(dataset[i]) for i in range(6)]


@pytest.mark.parametrize(("rank", "world"), [(-1, 2), (2, 2), (0, 0)])
def test_a_rank_outside_the_world_is_refused(stores: Any, rank: int, world: int) -> None:
    with pytest.raises(ValueError, match="rank"):
        ShardDataset(stores.tokenized(4), rank, world)


def test_an_index_out_of_range_ends_iteration(stores: Any) -> None:
    dataset = ShardDataset(stores.tokenized(3))
    with pytest.raises(IndexError):
        dataset[3]
    assert len(list(dataset)) == 3
