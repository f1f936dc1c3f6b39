"""TRL's SFTTrainer reading raw chats by itself, and reading our store and our packs: one loss, step by step."""

from __future__ import annotations

import copy
import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from vlm_prep.builtin import builtin_data
from vlm_prep.core.pack_settings import PackConfig
from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.ingest.source import open_samples
from vlm_prep.media.image import load_rgb
from vlm_prep.pack.pack_run import pack
from vlm_prep.processors.load import load_processor
from vlm_prep.shards.reader import Store
from vlm_prep.stream import PadCollate, ShardDataset
from vlm_prep.tokenize.tokenize_run import tokenize
from vlm_prep.trainers import over_shards

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts" / "trainers"
PROCESSOR = "builtin:qwen2.5-vl-mini"
ROWS, STEPS = 3, 20


@pytest.fixture
def sft(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """`sft(**settings)`: the model, the processor with TRL's own template of marks, and an SFTConfig."""
    trl = pytest.importorskip("trl")
    monkeypatch.syspath_prepend(str(SCRIPTS))
    processor = copy.deepcopy(load_processor(PROCESSOR).hf)
    processor.chat_template = (Path(trl.__file__).parent / "chat_templates" / "qwen2_5_vl_training.jinja").read_text()

    def make(**settings: Any) -> tuple[Any, Any, Any]:
        arguments = trl.SFTConfig(
            output_dir=str(tmp_path / "sft"),
            max_steps=STEPS,
            learning_rate=1e-3,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            dataloader_pin_memory=False,
            disable_tqdm=True,
            **settings,
        )
        return importlib.import_module("tiny_model").tiny_model(), processor, arguments

    return make


def in_parts(message: dict[str, Any]) -> dict[str, Any]:
    content = message["content"]
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    return {"role": message["role"], "content": parts}


def losses(trainer: Any) -> list[float]:
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_sfttrainer_trains_our_rows_and_packs_as_its_own(sft: Any, options: Any, tmp_path: Path) -> None:
    from trl import SFTTrainer

    samples = open_samples(builtin_data().parent / "photo_talk.jsonl", limit=ROWS)
    tokenize(samples, PROCESSOR, TokenizeConfig(label_convention="trl"), options(tmp_path / "tok"))
    pack(tmp_path / "tok", PackConfig(pack_length=4096), options(tmp_path / "packed"))
    rows = [
        {
            "messages": [in_parts(message) for message in json.loads(row["conversation"])["messages"]],
            "images": [load_rgb(bytes(file["bytes"])) for media in row["media"] for file in media["files"]],
        }
        for row in Store(tmp_path / "tok").rows()
    ]
    # every step is the whole data, so the order that each draws does not matter
    model, processor, arguments = sft(per_device_train_batch_size=ROWS, assistant_only_loss=True, max_length=None)
    own = SFTTrainer(model=model, args=arguments, train_dataset=Dataset.from_list(rows), processing_class=processor)
    batch = own.data_collator(rows)
    ours = PadCollate.for_store(ShardDataset(tmp_path / "tok"), shift=False, counts=False)
    made = ours(list(ShardDataset(tmp_path / "tok", shuffle=False)))
    for name in ("input_ids", "labels", "attention_mask", "pixel_values", "image_grid_thw"):
        assert torch.equal(batch[name], made[name]), name
    expected = losses(own)
    assert len(expected) == STEPS and expected[-1] < expected[0]
    for store, size in (("tok", ROWS), ("packed", 1)):
        model, processor, arguments = sft(per_device_train_batch_size=size)
        trainer = over_shards(SFTTrainer, tmp_path / store, model=model, args=arguments, processing_class=processor)
        assert len(trainer.get_train_dataloader()) == 1
        assert losses(trainer) == pytest.approx(expected, rel=1e-3)
