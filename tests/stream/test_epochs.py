"""Several epochs in one plan: each has its rows as often as it should, in packs of its own; a run goes on in any."""

from __future__ import annotations

import json
from argparse import Namespace
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from torch.utils.data import DataLoader

from vlm_prep.core.errors import InputError, StoreError
from vlm_prep.core.pack_settings import PackConfig
from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.ingest.source import open_samples
from vlm_prep.pack.epochs import in_epoch
from vlm_prep.pack.pack_plan import Plan, make_plan
from vlm_prep.pack.pack_run import pack
from vlm_prep.report.statistics import collect, render
from vlm_prep.shards.reader import Store
from vlm_prep.stream import MixedDataset, ShardDataset, State
from vlm_prep.tokenize.tokenize_run import tokenize
from vlm_prep.trainers import over_shards


def config(**more: Any) -> PackConfig:
    return PackConfig(pack_length=2048, **{"world_size": 2, "epochs": 3, **more})


def by_epoch(plan: Plan) -> list[list[tuple[int, ...]]]:
    """The rows of the packs of each epoch."""
    ends = np.cumsum(plan.numbers["epochs"]["packs"])
    packs = [tuple(sorted(plan.pack(number).tolist())) for number in range(plan.n_packs)]
    return [packs[end - count : end] for end, count in zip(ends, plan.numbers["epochs"]["packs"], strict=True)]


@pytest.fixture(scope="module")
def epochs(tokenized: Path, options: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same plan in both layouts."""
    folder = tmp_path_factory.mktemp("epochs")
    for layout in ("ranks", "index"):
        pack(tokenized, config(layout=layout), options(folder / layout))
    return {"ranks": folder / "ranks", "index": folder / "index"}


def test_each_epoch_is_another_deal_of_all_rows_into_as_many_packs(tokenized: Path) -> None:
    store = Store(tokenized)
    plan, again, alone = (make_plan(store, config(**more)) for more in ({}, {}, {"epochs": 1}))
    dealt = by_epoch(plan)
    assert [sorted(row for packed in each for row in packed) for each in dealt] == [list(range(len(store)))] * 3
    assert len({len(each) for each in dealt}) == 1
    assert dealt[0] == [tuple(sorted(alone.pack(number).tolist())) for number in range(alone.n_packs)]
    assert len({frozenset(each) for each in dealt}) == 3
    assert plan.numbers["epochs"]["mates_again"] < 0.75
    assert plan.numbers["steps"]["steps"] == 3 * alone.numbers["steps"]["steps"]
    assert plan.rows.tolist() == again.rows.tolist()
    assert by_epoch(make_plan(store, config(pack_seed=1)))[1] != dealt[1]


@pytest.mark.parametrize("layout", ["ranks", "index"])
def test_readers_go_through_the_epochs_and_start_anew_after_the_last(
    epochs: dict[str, Path], tokenized: Path, layout: str
) -> None:
    names = sorted(row["sample_id"] for row in Store(tokenized).rows())
    seen = []
    for epoch in range(4):
        ranks = [ShardDataset(epochs[layout], rank=rank, world_size=2, epoch=epoch, pixels=False) for rank in (0, 1)]
        packs = [tuple(item["sample_ids"]) for rows in ranks for item in rows]
        assert sorted(name for packed in packs for name in packed) == names
        seen.append(packs)
    assert set(seen[0]) == set(seen[3])
    assert seen[0] != seen[3]  # the same packs in another order
    assert set(seen[0]) != set(seen[1])


@pytest.mark.parametrize("world", [1, 3])
@pytest.mark.parametrize("epoch", [0, 2, 4])
def test_a_run_goes_on_inside_any_epoch_with_other_ranks(epochs: dict[str, Path], world: int, epoch: int) -> None:
    def names(rows: ShardDataset) -> list[tuple[str, ...]]:
        loader = DataLoader(rows, batch_size=1, sampler=rows.sampler(), collate_fn=lambda items: items)
        return [tuple(item["sample_ids"]) for items in loader for item in items]

    whole = ShardDataset(epochs["index"], epoch=epoch, pixels=False)
    expected = names(whole)
    saved = whole.state_at(epoch, 2).to_json()
    found: list[list[tuple[str, ...]]] = []
    for rank in range(world):
        rows = ShardDataset(epochs["index"], rank=rank, world_size=world, pixels=False)
        rows.resume(State.from_json(saved))
        found.append(names(rows))
    in_turn = [name for step in zip(*found, strict=True) for name in step]
    assert in_turn[: len(expected) - 2] == expected[2:]


def test_weights_give_each_row_its_times_and_a_stable_half_of_them_one_more(tokenized: Path) -> None:
    store = Store(tokenized)
    plan = make_plan(store, config(sample_weight="1.5", epochs=1))
    times = np.bincount(plan.rows, minlength=len(store))
    assert set(times.tolist()) == {1, 2}
    assert 0.25 < (times == 2).mean() < 0.75
    names = [row["sample_id"] for row in store.rows()]
    twice = {name for name, count in zip(names, times.tolist(), strict=True) if count == 2}
    two = make_plan(store, config(sample_weight="1.5", epochs=2))
    first, second = by_epoch(two)
    counted = Counter(row for packed in first for row in packed)
    assert {names[row] for row, count in counted.items() if count == 2} == twice
    both = counted + Counter(row for packed in second for row in packed)
    assert set(both.values()) == {3}
    assert two.numbers["epochs"]["times_taken"] == {"3": len(store)}
    assert two.documents == 3 * len(store)
    assert np.bincount(make_plan(store, config(sample_weight="0.25", epochs=4)).rows).tolist() == [1] * len(store)


def test_weights_come_from_a_column_and_the_accounts_say_them(options: Any, tmp_path: Path) -> None:
    rows = [
        {"messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": f"{n}."}], "worth": n % 3}
        for n in range(30)
    ]
    source = tmp_path / "rows.jsonl"
    source.write_text("\n".join(map(json.dumps, rows)))
    samples = open_samples(source, keep_columns=["worth"])
    tokenize(samples, "builtin:qwen2.5-vl-mini", TokenizeConfig(), options(tmp_path / "tok"))
    manifest = pack(
        tmp_path / "tok",
        PackConfig(pack_length=200, epochs=2, sample_weight="worth", layout="index"),
        options(tmp_path / "packed"),
    )
    assert manifest is not None
    assert manifest.extra["plan"]["epochs"]["times_taken"] == {"0": 10, "2": 10, "4": 10}
    assert manifest.totals["rows_written"] == manifest.totals["rows_in"] == 60
    said = render(collect(tmp_path / "packed"))
    assert "rows: 10 0 times, 10 2 times, 10 4 times" in said
    with pytest.raises(InputError, match="no column 'wroth'"):
        make_plan(Store(tmp_path / "tok"), PackConfig(pack_length=200, sample_weight="wroth"))


def test_the_plan_says_the_epoch_of_each_pack(epochs: dict[str, Path]) -> None:
    table = pq.read_table(epochs["ranks"] / "plan.parquet")
    packs = ShardDataset(epochs["ranks"]).manifest.extra["plan"]["epochs"]["packs"]
    assert np.bincount(table.column("epoch").to_numpy()).tolist() == packs


def test_mixes_read_planned_epochs_one_after_the_other(epochs: dict[str, Path], packed: Path) -> None:
    rows = MixedDataset([epochs["ranks"], packed], [1, 1], pixels=False)
    assert rows.n_rows == 2 * ShardDataset(packed).n_rows
    own = len(Store(epochs["ranks"], split="rank_00000")) + len(Store(epochs["ranks"], split="rank_00001"))
    taken = [number for epoch in range(3) for number in rows.rows_of(epoch, range(rows.n_rows))]
    assert sorted(number for number in taken if number < own) == list(range(own))
    assert max(taken) < own + ShardDataset(packed).n_rows


def test_what_fixes_packs_is_refused(tokenized: Path, options: Any, tmp_path: Path) -> None:
    store = Store(tokenized)
    for more, words in (
        ({"pack_order": "source"}, "every epoch would have the same packs"),
        ({"sample_weight": "2", "keep_together": "dataset"}, "other weights"),
        ({"sample_weight": "-1"}, "from 0 to"),
        ({"sample_weight": "nan"}, "from 0 to"),
    ):
        with pytest.raises(InputError, match=words):
            make_plan(store, config(**more))
    pack(tokenized, config(sample_weight="0.4", epochs=3, layout="index"), options(tmp_path / "uneven"))
    uneven = ShardDataset(tmp_path / "uneven")
    assert len({uneven.count(epoch) for epoch in range(3)}) > 1
    with pytest.raises(StoreError, match="unequal numbers"):
        MixedDataset([tmp_path / "uneven", tmp_path / "uneven"], [1, 1])
    with pytest.raises(InputError, match="takes all epochs for as long as the first"):
        over_shards(object, uneven, model=None, args=Namespace())


def test_rows_of_an_epoch_keep_their_order_in_the_first_alone() -> None:
    members, times = np.arange(6), np.array([[1, 2, 0, 1, 1, 1], [1] * 6])
    settings = PackConfig(pack_length=8, epochs=2)
    assert in_epoch(members, times, settings, 0).tolist() == [0, 1, 1, 3, 4, 5]
    assert sorted(in_epoch(members, times, settings, 1).tolist()) == list(range(6))
    assert in_epoch(members, None, settings, 1).tolist() != list(range(6))


def test_so_many_epochs_that_a_plan_would_have_no_end_are_refused() -> None:
    with pytest.raises(InputError, match=r"`epochs=1001`: expected a number"):
        config(epochs=1001)
