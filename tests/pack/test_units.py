"""Rows that belong together share a pack; packs in the source's order, of several lengths, of padded documents."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from vlm_prep.core.errors import InputError
from vlm_prep.core.pack_settings import PackConfig
from vlm_prep.engine.stage import RunOptions
from vlm_prep.pack.pack_plan import Plan, make_plan
from vlm_prep.pack.pack_run import pack
from vlm_prep.pack.units import _by_value, in_order, single_rows
from vlm_prep.shards.reader import Store
from vlm_prep.stream import PackedCollate, ShardDataset

Options = Callable[..., RunOptions]


def lengths_of(plan: Plan, lengths: np.ndarray[Any, Any]) -> list[int]:
    return [int(lengths[plan.pack(number)].sum()) for number in range(plan.n_packs)]


def test_units_are_numbered_by_their_first_row_and_rows_without_a_value_stand_alone() -> None:
    units = _by_value(pa.chunked_array([["b", "a"], [None, "b", None, "a", "c"]], pa.string()))
    assert units.of.tolist() == [0, 1, 2, 0, 3, 1, 4]
    assert [units.rows_of(np.array([unit])).tolist() for unit in range(5)] == [[0, 3], [1, 5], [2], [4], [6]]
    assert units.summed(np.array([1, 2, 4, 8, 16, 32, 64])).tolist() == [9, 34, 4, 16, 64]
    assert units.joined(np.array([1, 0, 0, 2, 0, 1, 0], np.uint8)).tolist() == [3, 1, 0, 0, 0]
    assert not units.single
    assert single_rows(3).single


def test_packs_in_the_order_of_the_source() -> None:
    demands = np.array([[5, 1], [4, 0], [2, 1], [8, 0], [1, 1], [1, 1], [9, 2]])
    packs = in_order(demands, [10, 2])
    assert [each.tolist() for each in packs] == [[0, 1], [2, 3], [4, 5], [6]]


def test_rows_of_a_data_set_share_a_pack_in_their_order(tokenized: Path) -> None:
    store = Store(tokenized)
    rows = list(store.rows())
    groups: dict[str, list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        groups[row["dataset"]].append(number)
    sizes = {name: sum(len(rows[number]["input_ids"]) for number in group) for name, group in groups.items()}
    length = sorted(sizes.values())[-2]  # the largest group exceeds a pack
    plan = make_plan(store, PackConfig(pack_length=length, keep_together="dataset", world_size=2))
    pack_of = {int(row): number for number in range(plan.n_packs) for row in plan.pack(number)}
    for name, group in groups.items():
        if sizes[name] > length:
            assert set(group) <= set(plan.too_long.tolist())
        else:
            assert len({pack_of[row] for row in group}) == 1
            in_pack = [row for row in plan.pack(pack_of[group[0]]).tolist() if row in group]
            assert in_pack == group
    assert sorted([*pack_of, *plan.too_long.tolist()]) == list(range(len(rows)))


def test_a_column_that_is_not_there_is_refused_with_those_that_are(tokenized: Path) -> None:
    with pytest.raises(InputError, match="keep_together=talk") as caught:
        make_plan(Store(tokenized), PackConfig(pack_length=2048, keep_together="talk"))
    assert "dataset" in (caught.value.hint or "")
    with pytest.raises(InputError, match="keep_together=labels"):
        make_plan(Store(tokenized), PackConfig(pack_length=2048, keep_together="labels"))


def test_order_source_lays_rows_one_after_the_other(tokenized: Path) -> None:
    store = Store(tokenized)
    plan = make_plan(store, PackConfig(pack_length=2048, pack_order="source", world_size=3))
    assert plan.rows.tolist() == list(range(len(store)))
    lengths = store.lengths()
    filled = lengths_of(plan, lengths)
    assert max(filled) <= 2048
    for number in range(plan.n_packs - 1):  # the next row would not have fitted
        assert filled[number] + lengths[plan.pack(number + 1)[0]] > 2048


def test_rows_go_to_the_shortest_packs_that_hold_them_and_a_step_has_one_length(tokenized: Path) -> None:
    store = Store(tokenized)
    lengths = store.lengths()
    short = int(np.median(lengths))
    config = PackConfig(pack_length=2048, shorter_packs=[short], world_size=2)
    plan = make_plan(store, config)
    assert sorted(plan.rows.tolist()) == list(range(len(store)))
    longest = [int(lengths[plan.pack(number)].max()) for number in range(plan.n_packs)]
    for number, filled in enumerate(lengths_of(plan, lengths)):
        assert filled <= (2048 if longest[number] > short else short)
        assert longest[number] <= short or lengths[plan.pack(number)].min() > short
    whole = plan.n_packs // 2 * 2
    mixed = sum((longest[step] > short) != (longest[step + 1] > short) for step in range(0, whole, 2))
    assert mixed <= 1  # what is left of both lengths
    assert plan.room == sum(2048 if each > short else short for each in longest)


@pytest.mark.parametrize("layout", ["ranks", "index"])
def test_documents_are_planned_and_laid_with_their_padding(
    tokenized: Path, tmp_path: Path, options: Options, layout: Any
) -> None:
    config = PackConfig(pack_length=2048, document_multiple=64, layout=layout)
    manifest = pack(str(tokenized), config, options(tmp_path / "packed"))
    assert manifest is not None
    packs = ShardDataset(tmp_path / "packed")
    collate = PackedCollate.for_store(packs, mask="sdpa", cu_seqlens=True)
    assert collate.document_multiple == 64
    tokens = 0
    for number in range(len(packs)):
        item = packs[number]
        batch = collate([item])
        padded = batch["cu_seqlens_padded"].diff()
        assert (padded % 64 == 0).all()
        assert padded.sum() == batch["input_ids"].shape[1] <= 2048
        assert batch["cu_seqlens"].diff().tolist() == batch["seq_lens"][0].tolist() == list(item["seq_lens"])
        tokens += int(batch["cu_seqlens"][-1])
    assert tokens == manifest.totals["tokens"] == int(Store(tokenized).lengths().sum())
