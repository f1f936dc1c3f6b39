"""ms-swift's own template over what `vlm-prep export --to ms-swift` wrote, ids to losses.

python ms_swift_run.py MODEL_FOLDER ROWS.json EXPORT OUT.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from vlm_prep.processors.torchvision_cpu import ensure_torchvision

ensure_torchvision()

import torch  # noqa: E402
from datasets import load_from_disk  # noqa: E402
from model import model_of  # noqa: E402
from swift.model import get_processor  # noqa: E402
from swift.template import get_template  # noqa: E402

folder, rows, export, out = sys.argv[1:]
torch.set_num_threads(1)
template = get_template(get_processor(folder, model_type="qwen2_5_vl"), template_type="qwen2_5_vl")
template.set_mode("train")
model = template.model = model_of(folder)
encoded = [template.encode(dict(row)) for row in load_from_disk(export)]
optimizer, losses = torch.optim.SGD(model.parameters(), lr=0.05), []
for step in range(20):
    batch = template.data_collator([dict(encoded[(2 * step + place) % len(encoded)]) for place in (0, 1)])
    batch = {name: value for name, value in batch.items() if name in ("input_ids", "labels", "attention_mask",
             "position_ids", "pixel_values", "image_grid_thw", "mm_token_type_ids")}  # fmt: skip
    loss = model(**batch).loss
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
told = {
    "exported_ids": [list(map(int, row["input_ids"])) for row in encoded],
    "exported_labels": [list(map(int, row["labels"])) for row in encoded],
    "exported_losses": losses,
}
Path(out).write_text(json.dumps(told))
