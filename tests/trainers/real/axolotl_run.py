"""axolotl: its own multimodal collator over raw chats, and its command over a store by our plugin; ids to losses.

python axolotl_run.py MODEL_FOLDER ROWS.json STORE OUT.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from vlm_prep.processors.torchvision_cpu import ensure_torchvision

ensure_torchvision()

import torch  # noqa: E402
from axolotl.cli.train import do_cli  # noqa: E402
from axolotl.processing_strategies import get_processing_strategy  # noqa: E402
from axolotl.utils.collators.mm_chat import MultiModalChatDataCollator  # noqa: E402
from model import model_of  # noqa: E402
from PIL import Image  # noqa: E402
from transformers import AutoProcessor  # noqa: E402

folder, rows, store, out = sys.argv[1:]
torch.set_num_threads(1)
model_of(folder).save_pretrained(folder)
processor = AutoProcessor.from_pretrained(folder)
raw: list[dict[str, Any]] = []
for row in json.loads(Path(rows).read_text()):
    pictures, turns = iter(row["images"]), []
    for turn in row["messages"]:
        before, *texts = turn["content"].split("<image>")
        parts = [{"type": "text", "text": before}] if before else []
        for text in texts:
            parts += [{"type": "image", "image": Image.open(next(pictures))}, {"type": "text", "text": text}]
        turns.append({"role": turn["role"], "content": [part for part in parts if part.get("text", " ")]})
    raw.append({"messages": turns})
strategy = get_processing_strategy(processor, None, "qwen2_vl", roles_to_train=["assistant"], train_on_eos="turn")
collate = MultiModalChatDataCollator(processor.tokenizer, strategy)
told: dict[str, Any] = {"ids": [], "labels": [], "raw_losses": []}
for example in raw:
    batch = collate([example])
    told["ids"].append(batch["input_ids"][0].tolist())
    told["labels"].append(batch["labels"][0].tolist())
model = model_of(folder)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
for step in range(20):
    loss = model(**collate([raw[(2 * step + place) % len(raw)] for place in (0, 1)])).loss
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    told["raw_losses"].append(loss.item())

trained = Path(out).with_name("axolotl")
config = {
    "base_model": folder,
    "plugins": ["vlm_prep.trainers.axolotl_plugin.StorePlugin"],
    "datasets": [{"path": store, "type": "vlm-prep"}],
    "output_dir": str(trained),
    "micro_batch_size": 2,
    "gradient_accumulation_steps": 1,
    "num_epochs": 20,
    "max_steps": 20,
    "save_steps": 20,
    "logging_steps": 1,
    "learning_rate": 0.05,
    "lr_scheduler": "constant",
    "warmup_steps": 0,
    "optimizer": "sgd",
    "max_grad_norm": 1e9,
    "bf16": False,
    "sdp_attention": True,
    "seed": 3,
}
recipe = Path(out).with_name("axolotl.yaml")
recipe.write_text(json.dumps(config))  # which is YAML, too
do_cli(str(recipe))
saved = trained / "checkpoint-20"
history = json.loads((saved / "trainer_state.json").read_text())["log_history"]
told["store_losses"] = [entry["loss"] for entry in history if "loss" in entry]
told["state"] = json.loads((saved / "vlm_prep_state.json").read_text())
Path(out).write_text(json.dumps(told))
