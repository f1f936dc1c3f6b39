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

from vlm_prep import trainers
from vlm_prep.builtin import builtin_data
from vlm_prep.core.errors import InputError, StoreError
from vlm_prep.core.pack_settings import PackConfig
from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.ingest.source import open_samples
from vlm_prep.pack.pack_run import pack
from vlm_prep.processors.load import load_processor
from vlm_prep.stream import PadCollate, ShardDataset
from vlm_prep.tokenize.tokenize_run import tokenize
from vlm_prep.trainers import hf_trainer

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts" / "trainers"
PROCESSOR = "builtin:qwen2.5-vl-mini"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """`example("torch_loop")`: an example as a module."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    yield importlib.import_module
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
    collated = PadCollate.__call__

    def recorded(self: Any, items: Any) -> Any:
        seen.append([item["sample_id"] for item in items])
        return collated(self, items)

    monkeypatch.setattr(PadCollate, "__call__", recorded)
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
        state = json.loads((folder / hf_trainer.STATE).read_text())
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
    state = json.loads((folder / hf_trainer.STATE).read_text())
    assert (state["epoch"], state["consumed"]) == (1, 2)
    assert module.train(store, tmp_path / "again", steps=7, batch=1, resume=folder) == losses
    with pytest.raises(StoreError, match="another store"):
        module.train(packs, tmp_path / "other", steps=7, batch=1, resume=folder)
    with pytest.raises(InputError, match=r"row 2 of epoch 1.*would be row 0 of epoch 3"):
        module.train(store, tmp_path / "other", steps=7, batch=2, resume=folder)


def test_trl_trains_also_on_packs(example: Any, store: Path, packs: Path, tmp_path: Path) -> None:
    pytest.importorskip("trl")
    train = example("trl_sft").train
    assert [len(train(each, tmp_path, steps=1, processor=PROCESSOR)) for each in (store, packs)] == [1, 1]


def test_a_trainer_evaluates_on_a_store(store: Path, tmp_path: Path, example: Any) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    arguments = transformers.TrainingArguments(
        str(tmp_path), use_cpu=True, report_to=[], dataloader_pin_memory=False, disable_tqdm=True
    )
    model = example("tiny_model").tiny_model()
    trainer = trainers.over_shards(transformers.Trainer, store, model=model, args=arguments, eval_store=store)
    found = trainer.evaluate()["eval_loss"]
    collate = PadCollate.for_store(ShardDataset(store), shift=False, counts=False)
    rows = ShardDataset(store, shuffle=False)
    with torch.no_grad():
        alone = [model(**collate([row])).loss.item() for row in rows]
    assert min(alone) < found < max(alone)


MASKS: tuple[Any, ...] = ("sdpa", "document_ids", "varlen")


def test_automodels_signature_collates(tokenized: Path, packs: Path, packed: Path) -> None:
    processor = load_processor(PROCESSOR).hf
    rows = ShardDataset(tokenized)
    batch = trainers.collate_fn([rows[0], rows[1]], processor)
    assert batch["input_ids"].shape == batch["labels"].shape
    assert batch["pixel_values"].dtype == torch.bfloat16
    assert trainers.packed_collate_fn([ShardDataset(packs)[0]], processor, mask="thd")["qkv_format"] == "thd"
    # which document a token is of, where Automodel's MTP and context parallelism look
    several = next(item for item in ShardDataset(packed) if len(item["seq_lens"]) > 1)
    of = {mask: trainers.packed_collate_fn([several], processor, mask=mask) for mask in MASKS}
    assert all("seq_lens" not in batch for batch in of.values())
    for batch in of.values():
        assert torch.equal(batch["_packed_seq_ids"], of["document_ids"]["attention_mask"])
    # a model that says what it runs is given no mask that it would take for padding
    with pytest.raises(InputError, match="documents see each other"):
        trainers.packed_collate_fn([several], processor, mask="document_ids", attention="sdpa")
    # of a store, what its own collater makes
    told = trainers.collate_fn([rows[0], rows[1]], processor, store=str(tokenized))
    own = PadCollate.for_store(rows, pixel_dtype=torch.bfloat16)([rows[0], rows[1]])
    assert told.keys() == own.keys() and all(torch.equal(told[name], own[name]) for name in own)
