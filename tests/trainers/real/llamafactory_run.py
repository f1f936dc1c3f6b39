"""LLaMA-Factory's own pipeline: raw chats, and what `vlm-prep export --to llamafactory` wrote, ids to losses.

python llamafactory_run.py MODEL_FOLDER ROWS.json EXPORT OUT.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from vlm_prep.processors.torchvision_cpu import ensure_torchvision

ensure_torchvision()

import torch  # noqa: E402
from llamafactory.data.collator import SFTDataCollatorWith4DAttentionMask  # noqa: E402
from llamafactory.data.loader import get_dataset  # noqa: E402
from llamafactory.data.processor.supervised import SupervisedDatasetProcessor  # noqa: E402
from llamafactory.data.template import get_template_and_fix_tokenizer  # noqa: E402
from llamafactory.hparams import DataArguments  # noqa: E402
from model import model_of  # noqa: E402
from transformers import AutoProcessor, TrainingArguments  # noqa: E402

folder, rows, export, out = sys.argv[1:]
torch.set_num_threads(1)
processor = AutoProcessor.from_pretrained(folder)
# what model_args.image_max_pixels and its like become: pictures stay as they are until the processor has them
for name, value in {
    "image_max_pixels": 10**9,
    "image_min_pixels": 1,
    "video_max_pixels": 10**9,
    "video_min_pixels": 1,
    "video_fps": 2.0,
    "video_maxlen": 128,
}.items():
    setattr(processor, name, value)
data_args = DataArguments(template="qwen2_vl", cutoff_len=100_000, tokenized_path=export)
template = get_template_and_fix_tokenizer(processor.tokenizer, data_args)
maker = SupervisedDatasetProcessor(template, processor.tokenizer, processor, data_args)
raw = []
for row in json.loads(Path(rows).read_text()):
    turns = row["messages"]
    ids, labels = maker._encode_data_example(turns[:-1], turns[-1:], None, None, row["images"], [], [])
    raw.append({"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels, "images": row["images"]})
arguments = TrainingArguments(out + ".d", use_cpu=True, report_to=[])
loaded = get_dataset(template, None, data_args, arguments, "sft", processor.tokenizer, processor)["train_dataset"]


def losses(examples: list[dict[str, Any]]) -> list[float]:
    model = model_of(folder)
    collate = SFTDataCollatorWith4DAttentionMask(
        template=template, model=model, processor=processor, tokenizer=processor.tokenizer, label_pad_token_id=-100
    )
    optimizer, found = torch.optim.SGD(model.parameters(), lr=0.05), []
    for step in range(20):
        batch = collate([dict(examples[(2 * step + place) % len(examples)]) for place in (0, 1)])
        batch.pop("rope_deltas", None)
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


exported = [dict(row) for row in loaded]
told = {
    "ids": [row["input_ids"] for row in raw],
    "labels": [row["labels"] for row in raw],
    "exported_ids": [row["input_ids"] for row in exported],
    "exported_labels": [row["labels"] for row in exported],
    "raw_losses": losses(raw),
    "exported_losses": losses(exported),
}
Path(out).write_text(json.dumps(told))
