"""`vlm-prep check-trainer` finds what would stop or hang a training run, and nothing else."""

from __future__ import annotations

import importlib
import json
import multiprocessing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import _options
from typer.testing import CliRunner

from vlm_prep.cli import main
from vlm_prep.core.errors import StoreError
from vlm_prep.core.pack_settings import PackConfig
from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.ingest.source import open_samples
from vlm_prep.pack.pack_run import pack
from vlm_prep.stream import PackedCollate, ShardDataset
from vlm_prep.tokenize.tokenize_run import tokenize
from vlm_prep.trainers import ranks
from vlm_prep.trainers.ranks import TrainerOptions, check_trainer

PROCESSOR = "builtin:qwen2.5-vl-mini"
SCRIPTS = Path(__file__).resolve().parents[2] / "scripts" / "trainers"


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The config.json of the examples' model."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    config = importlib.import_module("tiny_model").tiny_model().config.to_dict()
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config, default=str))
    return path


@pytest.fixture
def options(model: Path) -> TrainerOptions:
    return TrainerOptions(model=json.loads(model.read_text()), workers=0)


def test_packs_are_sound_on_two_ranks(packed: Path, model: Path) -> None:
    words = ["check-trainer", str(packed), "--model", str(model), "--world-size", "2", "--json"]
    result = CliRunner().invoke(main.app, words)
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    assert found["sound"] and found["model"] == "qwen2_5_vl" and not found["notes"]
    assert [(each["rank"], each["step"]) for each in found["batches"]] == [(0, 1), (0, 2), (1, 1), (1, 2)]
    assert all(each["loss"] > 0 and each["trained"] for each in found["batches"])
    first = found["batches"][0]
    assert first["tensors"]["input_ids"].endswith("int64") and first["nbytes"] > 0
    assert {tuple(each["kinds"]) for each in found["batches"] if each["step"] == 1} == {tuple(first["kinds"])}


def test_ranks_that_would_wait_for_each_other_are_found(
    tokenized: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # torch and transformers are here; the test above has ranks that share nothing
    monkeypatch.setattr(ranks, "get_context", lambda method: multiprocessing.get_context("fork"))
    words = ["check-trainer", str(tokenized), "--world-size", "2", "--batches", "6", "--model", str(model)]
    result = CliRunner().invoke(main.app, words)
    assert result.exit_code == 1
    assert "ranks call other modules" in result.output and "stand-ins" in result.output


def test_a_step_that_no_rank_loads_here_is_looked_at_too(tokenized: Path) -> None:
    asked = TrainerOptions(world_size=2, batches=1, workers=0)
    (found,) = ranks._in_the_epoch(str(tokenized), asked)
    kinds = ShardDataset(tokenized).kinds() > 0
    steps = [
        [row for row, _ in zip(ShardDataset(tokenized, rank, 2).sampler(), range(20), strict=True)] for rank in (0, 1)
    ]
    torn = [step for step, (one, other) in enumerate(zip(*steps, strict=True), 1) if kinds[one.row] != kinds[other.row]]
    assert found.startswith(f"{len(torn)} of 20 steps of the epoch, the first is step {torn[0]}: ")
    assert not ranks._in_the_epoch(str(tokenized), replace(asked, batch_size=20))


def test_stand_ins_keep_ranks_of_text_and_pictures_together(
    tokenized: Path, options: Any, model: Path, tmp_path: Path
) -> None:
    # one rank here, so the steps of a run are compared instead: pictures in some, none in others
    bare = check_trainer(str(tokenized), replace(options, batches=6))
    with_stand_in = check_trainer(str(tokenized), replace(options, batches=6, dummy=True))

    def calls(found: Any) -> dict[bool, set[tuple[str, ...]]]:
        return {
            media: {tuple(each.modules) for each in found.batches if bool(each.kinds) == media and len(each.kinds) < 2}
            for media in (True, False)
        }

    assert not calls(bare)[True] & calls(bare)[False]
    assert calls(with_stand_in)[True] == calls(with_stand_in)[False]


def test_what_a_model_does_not_take_is_a_fault(
    packed: Path, options: TrainerOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = PackedCollate.__call__

    def broken(how: str) -> Any:
        def collate(self: Any, items: Any) -> Any:
            batch = made(self, items)
            if how == "labels":
                batch["labels"] = torch.roll(batch["labels"], 1, -1)
            if how == "positions":
                batch["position_ids"] = torch.arange(batch["input_ids"].shape[1]).expand_as(batch["position_ids"])
            if how == "placeholders":
                batch["input_ids"] = batch["input_ids"].masked_fill(batch["input_ids"] == 3723, 5)
            if how == "dtype":
                batch["input_ids"] = batch["input_ids"].int()
            return batch

        return collate

    told = {
        "labels": "not the ids of their own positions",
        "positions": "begin again",
        "placeholders": "does not take it",
        "dtype": "expected int64",
    }
    for how, words in told.items():
        monkeypatch.setattr(PackedCollate, "__call__", broken(how))
        found = check_trainer(str(packed), replace(options, batches=1))
        assert any(words in line for line in found.faults), (how, found.faults)


def test_without_a_model_kinds_of_media_are_compared(packed: Path, tokenized: Path) -> None:
    found = check_trainer(str(packed), TrainerOptions(workers=0))
    assert found.sound and found.model is None and "not known" in found.notes[0]


def test_padded_documents_are_no_fault(tokenized: Path, options: TrainerOptions, tmp_path: Path) -> None:
    pack(tokenized, PackConfig(pack_length=2048, document_multiple=16), _options(tmp_path / "packs"))
    assert check_trainer(str(tmp_path / "packs"), replace(options, batches=1)).sound


def test_a_store_without_rows_is_refused(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "<image>?"}, {"role": "assistant", "content": "A cup."}]
    (tmp_path / "rows.jsonl").write_text(json.dumps({"messages": turns, "images": ["none.png"]}))
    options = _options(tmp_path / "tok", max_reject_rate=1.0)
    tokenize(open_samples(tmp_path / "rows.jsonl"), PROCESSOR, TokenizeConfig(), options)
    with pytest.raises(StoreError, match="has no rows"):
        check_trainer(str(tmp_path / "tok"), TrainerOptions(workers=0))
