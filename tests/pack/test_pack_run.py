"""A packed store holds every document once, whole, with its own positions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from items import mrope_of, plain_media

from vlm_prep.core.errors import InputError
from vlm_prep.core.pack_settings import PackConfig
from vlm_prep.engine.stage import RunOptions
from vlm_prep.pack.bins import best_fit_decreasing
from vlm_prep.pack.demands import visual_tokens
from vlm_prep.pack.pack_run import pack
from vlm_prep.pack.positions import Mrope, mrope_positions
from vlm_prep.shards.layout import read_rejects
from vlm_prep.shards.manifest import read_manifest
from vlm_prep.shards.reader import Store

GEOMETRY = ("image_grid_thw", "video_grid_thw", "second_per_grid_ts")

Options = Callable[..., RunOptions]


@pytest.fixture(scope="module")
def documents(tokenized: Path) -> dict[str, dict[str, Any]]:
    """The documents of the tokenized store, by sample_id."""
    return {row["sample_id"]: row for row in Store(tokenized).rows()}


@pytest.fixture(scope="module")
def packs(packed: Path) -> list[dict[str, Any]]:
    """All packs of both ranks."""
    return list(Store(packed).rows())


def test_every_document_is_in_exactly_one_pack(
    packs: list[dict[str, Any]], documents: dict[str, dict[str, Any]]
) -> None:
    assert sorted(name for each in packs for name in each["sample_ids"]) == sorted(documents)


def test_a_pack_is_no_longer_than_asked(packs: list[dict[str, Any]]) -> None:
    assert all(0 < len(each["input_ids"]) <= 2048 for each in packs)


def test_sequence_lengths_are_those_of_the_documents(
    packs: list[dict[str, Any]], documents: dict[str, dict[str, Any]]
) -> None:
    for each in packs:
        assert each["seq_lens"].tolist() == [len(documents[name]["input_ids"]) for name in each["sample_ids"]]
        assert each["seq_lens"].sum() == len(each["input_ids"]) == len(each["labels"])


@pytest.mark.parametrize("column", ["input_ids", "labels", *GEOMETRY, "media"])
def test_a_pack_is_its_documents_one_after_the_other(
    packs: list[dict[str, Any]], documents: dict[str, dict[str, Any]], column: str
) -> None:
    for each in packs:
        parts = [documents[name][column] for name in each["sample_ids"]]
        if column == "media":
            assert plain_media(each[column]) == plain_media([item for part in parts for item in part])
        else:
            np.testing.assert_array_equal(each[column], np.concatenate(parts))


def test_positions_restart_in_each_document(packs: list[dict[str, Any]]) -> None:
    for each in packs:
        starts = np.cumsum([0, *each["seq_lens"]])[:-1]
        assert not each["position_ids"][:, starts].any()


def test_positions_are_those_of_each_document_alone(
    packed: Path, packs: list[dict[str, Any]], documents: dict[str, dict[str, Any]]
) -> None:
    rule = Mrope(**mrope_of(packed))
    for each in packs:
        cuts = np.cumsum(each["seq_lens"])[:-1]
        for name, found in zip(each["sample_ids"], np.split(each["position_ids"], cuts, axis=1), strict=True):
            document = documents[name]
            image, video, seconds = (document[tensor] for tensor in GEOMETRY)
            wanted = mrope_positions(document["input_ids"], image, video, seconds, rule)
            np.testing.assert_array_equal(found, wanted)


def test_the_fill_is_that_of_the_bins(tokenized: Path, packed: Path) -> None:
    bins = best_fit_decreasing(Store(tokenized).lengths(), 2048)
    manifest = read_manifest(packed)
    assert manifest.totals["packs"] == bins.n_bins + manifest.extra["plan"]["steps"]["split"]
    assert manifest.totals["fill"] == round(bins.tokens / manifest.totals["packs"] / 2048, 6)


def test_the_packs_of_a_step_have_the_same_kinds_of_media(tokenized: Path, packed: Path) -> None:
    store, plan = Store(tokenized), pq.read_table(packed / "plan.parquet").to_pylist()
    kinds = [{item["kind"] for row in each["rows"] for item in store.row(row)["media"]} for each in plan]
    assert all(kinds[step] == kinds[step + 1] for step in range(0, len(kinds), 2))


def test_visual_tokens_are_those_of_the_grids(tokenized: Path) -> None:
    store = Store(tokenized)
    wanted = [
        int(row["image_grid_thw"].prod(axis=1).sum() + row["video_grid_thw"].prod(axis=1).sum()) for row in store.rows()
    ]
    assert visual_tokens(store).tolist() == wanted


@pytest.mark.parametrize("world_size", [1, 2, 3, 50])
def test_ranks_share_the_packs_in_turn(tokenized: Path, tmp_path: Path, options: Options, world_size: int) -> None:
    config = PackConfig(pack_length=2048, world_size=world_size)
    manifest = pack(tokenized, config, options(tmp_path / "out"))
    assert manifest
    store = Store(tmp_path / "out")
    assert sum(manifest.totals["packs_by_rank"]) == len(store) == manifest.totals["packs"]
    assert max(manifest.totals["packs_by_rank"]) - min(manifest.totals["packs_by_rank"]) <= 1
    for rank, count in enumerate(manifest.totals["packs_by_rank"]):
        shards = manifest.splits.get(f"rank_{rank:05d}", [])
        assert sum(shard.rows for shard in shards) == count
    assert sorted(each["pack_id"] for each in store.rows()) == list(range(len(store)))
    for split in manifest.splits:
        rank = int(split.removeprefix("rank_"))
        assert all(each["pack_id"] % world_size == rank for each in Store(tmp_path / "out", split=split).rows())


def test_the_index_names_the_documents_that_the_ranks_hold(
    tokenized: Path, packed: Path, packed_index: Path, packs: list[dict[str, Any]]
) -> None:
    names = [row["sample_id"] for row in Store(tokenized).rows()]
    ranks = read_manifest(packed).splits
    held = {
        each["pack_id"]: (int(split.removeprefix("rank_")), each["sample_ids"])
        for split in ranks
        for each in Store(packed, split=split).rows()
    }
    planned = {
        each["pack_id"]: (each["rank"], [names[row] for row in each["rows"]]) for each in Store(packed_index).rows()
    }
    assert planned == held


def test_the_plan_beside_the_ranks_is_the_index(packed: Path, packed_index: Path) -> None:
    plan = pq.read_table(packed / "plan.parquet").to_pylist()
    assert plan == [{**row, "rows": row["rows"].tolist()} for row in Store(packed_index).rows()]


@pytest.mark.parametrize("layout", ["ranks", "index"])
def test_documents_longer_than_a_pack_are_rejected(
    tokenized: Path, tmp_path: Path, options: Options, documents: dict[str, dict[str, Any]], layout: Any
) -> None:
    config = PackConfig(pack_length=500, layout=layout)
    pack(tokenized, config, options(tmp_path / "out", max_reject_rate=1.0))
    totals = read_manifest(tmp_path / "out").totals
    rejects = read_rejects(tmp_path / "out")
    longer = {name for name, row in documents.items() if len(row["input_ids"]) > 500}
    assert longer
    assert {reject["sample_id"] for reject in rejects} == longer
    assert {reject["reason"] for reject in rejects} == {"longer_than_pack"}
    assert totals["rows_in"] == len(documents)
    assert totals["rows_rejected"] == len(rejects) == len(longer)


def test_a_document_of_exactly_the_pack_length_is_packed(
    tokenized: Path, tmp_path: Path, options: Options, documents: dict[str, dict[str, Any]]
) -> None:
    longest = max(len(row["input_ids"]) for row in documents.values())
    pack(tokenized, PackConfig(pack_length=longest), options(tmp_path / "out"))
    totals = read_manifest(tmp_path / "out").totals
    assert totals["rows_rejected"] == 0


def test_nothing_fits_is_an_error(tokenized: Path, tmp_path: Path, options: Options) -> None:
    with pytest.raises(InputError, match="no document fits `pack_length=3`"):
        pack(tokenized, PackConfig(pack_length=3), options(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
