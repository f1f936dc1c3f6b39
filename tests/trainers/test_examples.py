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
from vlm_prep.core.errors import StoreError
from vlm_prep.core.pack_settings import PackConfig
from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.ingest.source import open_samples
from vlm_prep.pack.pack_run import pack
from vlm_prep.processors.load import load_processor
from vlm_prep.stream import ShardDataset
from vlm_prep.tokenize.tokenize_run import tokenize

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


def test_the_hugging_face_trainer_resumes_to_the_same_losses(
    example: Any, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("accelerate")
    module, seen = example("hf_trainer"), []

    class Recording(module.PadCollate):  # type: ignore[name-defined, misc]
        def __call__(self, items: Any) -> Any:
            seen.append([item["sample_id"] for item in items])
            return super().__call__(items)

    monkeypatch.setattr(module, "PadCollate", Recording)
    # four rows: two steps an epoch, of three rows and of one
    losses = module.train(store, tmp_path, steps=6, batch=3)
    batches = seen.copy()
    epochs = [batches[number] + batches[number + 1] for number in (0, 2, 4)]
    assert [len(batch) for batch in batches] == [3, 1] * 3
    assert all(sorted(epoch) == sorted(epochs[0]) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    for checkpoint, place in ((2, (1, 0)), (4, (2, 0))):
        seen.clear()
        folder = tmp_path / f"checkpoint-{checkpoint}"
        state = json.loads((folder / module.STATE).read_text())
        assert (state["epoch"], state["consumed"]) == place
        # those before the checkpoint are the checkpoint's
        assert module.train(store, tmp_path / "again", steps=6, batch=3, resume=folder) == losses
        assert seen == batches[checkpoint:]


def test_the_hugging_face_trainer_resumes_within_an_epoch_and_on_its_store_alone(
    example: Any, store: Path, packs: Path, tmp_path: Path
) -> None:
    pytest.importorskip("accelerate")
    module = example("hf_trainer")
    losses = module.train(store, tmp_path, steps=7, batch=1)
    folder = tmp_path / "checkpoint-6"
    state = json.loads((folder / module.STATE).read_text())
    assert (state["epoch"], state["consumed"]) == (1, 2)
    assert module.train(store, tmp_path / "again", steps=7, batch=1, resume=folder) == losses
    with pytest.raises(StoreError, match="another store"):
        module.train(packs, tmp_path / "other", steps=7, batch=1, resume=folder, packed=True)


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
