"""NeMo Automodel's own collater over raw chats: ids, labels (shifted), pixels, losses.

python automodel_run.py MODEL_FOLDER ROWS.json EXPORT OUT.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from vlm_prep.processors.torchvision_cpu import ensure_torchvision

ensure_torchvision()

import torch  # noqa: E402
from model import model_of  # noqa: E402
from nemo_automodel.components.datasets.vlm.collate_fns import default_collate_fn  # noqa: E402
from PIL import Image, ImageOps  # noqa: E402
from transformers import AutoProcessor  # noqa: E402

folder, rows, _, out = sys.argv[1:]
torch.set_num_threads(1)
processor = AutoProcessor.from_pretrained(folder)
examples = []
for row in json.loads(Path(rows).read_text()):
    pictures = iter(row["images"])
    turns = []
    for turn in row["messages"]:
        before, *texts = turn["content"].split("<image>")
        parts = [{"type": "text", "text": before}] if before else []
        for text in texts:
            picture = ImageOps.exif_transpose(Image.open(next(pictures))).convert("RGB")
            parts += [{"type": "image", "image": picture}, {"type": "text", "text": text}]
        turns.append({"role": turn["role"], "content": [part for part in parts if part.get("text", " ")]})
    examples.append({"conversation": turns})
model, losses = model_of(folder), []
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
told: dict[str, list[list[int]]] = {"ids": [], "shifted": []}
for step in range(20):
    batch = default_collate_fn([examples[(2 * step + place) % len(examples)] for place in (0, 1)], processor)
    if 2 * step < len(examples):
        told["ids"] += batch["input_ids"].tolist()
        told["shifted"] += batch["labels"].tolist()
    labels = batch.pop("labels")
    names = ("input_ids", "attention_mask", "pixel_values", "image_grid_thw", "mm_token_type_ids")
    kept = {name: batch[name] for name in names if name in batch}
    kept["pixel_values"] = kept["pixel_values"].float()
    logits = model(**kept).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    losses.append(loss.item())
Path(out).write_text(json.dumps({**told, "raw_losses": losses}))
