"""A model trained on shards has the losses of one trained on the processor's own output, padded and packed."""

from __future__ import annotations

import functools
import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageOps

from vlm_prep.builtin import builtin_data
from vlm_prep.core.pack_settings import PackConfig
from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.ingest.source import open_samples
from vlm_prep.pack.pack_run import pack
from vlm_prep.processors.load import load_processor
from vlm_prep.shards.reader import Store
from vlm_prep.stream import DummyMedia, PackedCollate, PadCollate, ShardDataset
from vlm_prep.tokenize.tokenize_run import tokenize
from vlm_prep.trainers import over_shards

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts" / "trainers"
PROCESSOR = "builtin:qwen2.5-vl-mini"
STEPS = 3
ROWS = 6


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A tiny Qwen2.5-VL with random weights, the same ones each time: `model()`."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("tiny_model").tiny_model


@pytest.fixture(scope="module")
def store(options: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Chats with one photograph each."""
    out: Path = tmp_path_factory.mktemp("losses") / "tok"
    samples = open_samples(builtin_data().parent / "photo_talk.jsonl", limit=ROWS)
    tokenize(samples, PROCESSOR, TokenizeConfig(), options(out))
    return out


@pytest.fixture(scope="module")
def conversations(store: Path) -> dict[str, tuple[list[Any], list[str]]]:
    """Messages and picture files by sample."""
    return {
        row["sample_id"]: (
            json.loads(row["conversation"])["messages"],
            [file["uri"] for item in row["media"] for file in item["files"]],
        )
        for row in Store(store).rows()
    }


@functools.cache
def real_processor() -> Any:
    """Loaded once, and changed: no other test has it."""
    return load_processor(PROCESSOR).hf


def processors_batch(conversations: dict[str, Any], names: list[str]) -> dict[str, torch.Tensor]:
    """What the processor makes of some conversations, with labels between its own markers of the assistant's turns."""
    processor = real_processor()
    chosen = [conversations[name] for name in names]
    texts = [processor.apply_chat_template(messages, tokenize=False) for messages, _ in chosen]
    pictures = [ImageOps.exif_transpose(Image.open(path)).convert("RGB") for _, paths in chosen for path in paths]
    processor.tokenizer.padding_side = "right"
    batch = dict(
        processor(text=texts, images=pictures, padding=True, return_tensors="pt", return_mm_token_type_ids=True)
    )
    start = processor.tokenizer.encode("<|im_start|>assistant\n")
    end = processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
    batch["labels"] = torch.full_like(batch["input_ids"], -100)
    for row, ids in enumerate(batch["input_ids"].tolist()):
        for at in range(len(ids)):
            if ids[at : at + len(start)] == start:
                stop = ids.index(end, at + len(start)) + 1
                batch["labels"][row, at + len(start) : stop] = batch["input_ids"][row, at + len(start) : stop]
    return batch


def train(model: Any, batches: list[dict[str, Any]]) -> list[float]:
    """Train a step on each batch and return the losses."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    losses = []
    for batch in batches:
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_padded_batches_train_as_the_processors_output(model: Any, store: Path, conversations: Any) -> None:
    dataset = ShardDataset(store, seed=1)
    collate = PadCollate.for_store(dataset, shift=False, counts=False)
    items = [[dataset[2 * step], dataset[2 * step + 1]] for step in range(STEPS)]
    ours = train(model(), [collate(pair) for pair in items])
    theirs = train(model(), [processors_batch(conversations, [item["sample_id"] for item in pair]) for pair in items])
    assert ours == pytest.approx(theirs, rel=1e-5)
    assert ours[0] != ours[1]


def test_packs_train_as_their_documents_do_alone(
    model: Any, store: Path, conversations: Any, options: Any, tmp_path: Path
) -> None:
    pack(store, PackConfig(pack_length=1024), options(tmp_path / "packed"))
    dataset = ShardDataset(tmp_path / "packed", seed=1)
    collate = PackedCollate.for_store(dataset, mask="sdpa", counts=False)
    items = [dataset[step] for step in range(min(STEPS, len(dataset)))]
    assert max(len(item["sample_ids"]) for item in items) > 1
    batches = [{name: value for name, value in collate([item]).items() if name != "seq_lens"} for item in items]
    theirs = [processors_batch(conversations, item["sample_ids"]) for item in items]
    assert train(model(), batches) == pytest.approx(train(model(), theirs), rel=1e-5)


def test_the_trainer_trains_our_store_as_it_does_raw_chats(
    model: Any, store: Path, conversations: Any, options: Any, tmp_path: Path
) -> None:
    """The way that is usual without us: the trainer's collator calls the processor on raw chats, in each step."""
    from transformers import Trainer, TrainingArguments

    names = list(conversations)[:3]
    tokenize(
        open_samples(builtin_data().parent / "photo_talk.jsonl", limit=3), PROCESSOR, TokenizeConfig(),
        options(tmp_path / "tok"),
    )  # fmt: skip
    pack(tmp_path / "tok", PackConfig(pack_length=4096), options(tmp_path / "packed"))

    def arguments(size: int) -> Any:
        return TrainingArguments(
            output_dir=str(tmp_path / "out"),
            per_device_train_batch_size=size,
            max_steps=20,
            learning_rate=1e-3,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            dataloader_pin_memory=False,
            disable_tqdm=True,
            remove_unused_columns=False,
        )

    def losses(trainer: Any) -> list[float]:
        trainer.train()
        return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]

    # every step is the whole data, so the order that each draws does not matter
    def collator(rows: list[str]) -> dict[str, Any]:
        return processors_batch(conversations, sorted(rows))

    raw = collator(names)
    made = PadCollate.for_store(ShardDataset(tmp_path / "tok"), shift=False, counts=False)(
        list(ShardDataset(tmp_path / "tok", shuffle=False))
    )
    for name in ("input_ids", "labels", "attention_mask", "pixel_values", "image_grid_thw"):
        assert torch.equal(raw[name], made[name]), name
    expected = losses(Trainer(model=model(), args=arguments(3), train_dataset=names, data_collator=collator))
    assert len(expected) == 20 and expected[-1] < expected[0]
    for folder, size in (("tok", 3), ("packed", 1)):
        found = losses(over_shards(Trainer, tmp_path / folder, model=model(), args=arguments(size)))
        assert found[0] == pytest.approx(expected[0], rel=1e-5)
        assert found == pytest.approx(expected, rel=1e-3)


def test_a_stand_in_picture_changes_no_loss_and_runs_the_vision_tower(model: Any, tokenized: Path) -> None:
    dataset = ShardDataset(tokenized, shuffle=False)
    rows = [item for item in dataset if not item["n_images"] and not item["n_videos"]][:2]
    plain = PadCollate.for_store(dataset, shift=False, counts=False)
    with_stand_in = PadCollate.for_store(dataset, shift=False, counts=False, dummy=True)
    assert isinstance(with_stand_in.dummy, DummyMedia)
    found = []
    for collate in (plain, with_stand_in):
        made = model()
        loss = made(**collate(rows)).loss
        loss.backward()
        found.append((loss.item(), made.model.visual.patch_embed.proj.weight.grad))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-5)
    assert found[0][1] is None
    assert found[1][1] is not None and not found[1][1].any()
