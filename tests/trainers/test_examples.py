"""The examples for trainers run as they are."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from vlm_prep.builtin import builtin_data
from vlm_prep.core.config import PackConfig, TokenizeConfig
from vlm_prep.ingest.source import open_samples
from vlm_prep.pack.run import pack
from vlm_prep.processors.load import load_processor
from vlm_prep.stream import ShardDataset
from vlm_prep.tokenize.run import tokenize

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts" / "trainers"
PROCESSOR = "builtin:qwen2.5-vl-mini"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """`example("torch_loop")`: an example as a module."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield importlib.import_module
    torch.set_num_threads(threads)
    for path in SCRIPTS.glob("*.py"):
        sys.modules.pop(path.stem, None)


@pytest.fixture(scope="module")
def store(options: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in chats about tools, without media, so that a step takes no time."""
    out: Path = tmp_path_factory.mktemp("trainers") / "tok"
    tokenize(open_samples(builtin_data(), datasets=["tool_talk"]), PROCESSOR, TokenizeConfig(), options(out))
    return out


@pytest.fixture(scope="module")
def packs(store: Path, options: Any) -> Path:
    """`store` in packs of about one document."""
    out = store.with_name("packed")
    pack(store, PackConfig(pack_length=512), options(out))
    return out


def test_the_plain_loop_trains_and_resumes(example: Any, packs: Path, tmp_path: Path) -> None:
    train = example("torch_loop").train
    losses = train(packs, steps=3, save=tmp_path / "state.json")
    state = json.loads((tmp_path / "state.json").read_text())
    assert state["consumed"] + state["epoch"] * ShardDataset(packs).n_rows == 3
    assert losses[-1] != losses[0]
    resumed = train(packs, steps=1, resume=tmp_path / "state.json")
    assert len(resumed) == 1


def test_the_hugging_face_trainer_trains_and_its_checkpoint_knows_the_place(
    example: Any, store: Path, tmp_path: Path
) -> None:
    pytest.importorskip("accelerate")
    module = example("hf_trainer")
    losses = module.train(store, tmp_path, steps=2)
    assert len(losses) == 2
    state = json.loads((tmp_path / "checkpoint-2" / module.STATE).read_text())
    rows = ShardDataset(store).n_rows
    assert (state["epoch"], state["consumed"]) == divmod(8, rows)


def test_trl_trains(example: Any, store: Path, tmp_path: Path) -> None:
    pytest.importorskip("trl")
    assert len(example("trl_sft").train(store, tmp_path, steps=1, processor=PROCESSOR)) == 1


def test_automodels_signature_collates(example: Any, tokenized: Path, packs: Path) -> None:
    module, processor = example("automodel"), load_processor(PROCESSOR).hf
    rows = ShardDataset(tokenized)
    batch = module.collate_fn([rows[0], rows[1]], processor)
    assert batch["input_ids"].shape == batch["labels"].shape
    assert batch["pixel_values"].dtype == torch.bfloat16
    assert module.packed_collate_fn([ShardDataset(packs)[0]], processor, mask="thd")["qkv_format"] == "thd"
