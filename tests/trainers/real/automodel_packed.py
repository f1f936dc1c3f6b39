"""NeMo Automodel's own packs of our documents, pictures processed anew, through its collaters, beside ours.

python automodel_packed.py MODEL_FOLDER ROWS.json PACKED_STORE OUT.json

Its packing cuts the last token of each document, whose label is in none; ours keeps it, untrained. So its packer gets
documents that are shifted already. OUT.json says of each contract which names only one side has, and the largest
difference under each other name.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm_prep.processors.torchvision_cpu import ensure_torchvision

ensure_torchvision()

import torch  # noqa: E402
from model import model_of  # noqa: E402
from nemo_automodel.components.datasets.vlm.collate_fns import (  # noqa: E402
    neat_packed_vlm_collater,
    packed_sequence_thd_vlm_collater,
)
from nemo_automodel.components.datasets.vlm.neat_packing_vlm import _build_packed_vlm_sample  # noqa: E402
from PIL import Image  # noqa: E402
from transformers import AutoProcessor  # noqa: E402

from vlm_prep.shards.reader import Store  # noqa: E402
from vlm_prep.stream import ShardDataset  # noqa: E402
from vlm_prep.stream.forms import Mask  # noqa: E402
from vlm_prep.trainers import packed_collate_fn  # noqa: E402

LENGTH = 1536  # longer than the packs
NAMES: dict[str, Mask] = {"block_causal": "sdpa", "document_ids": "document_ids", "flash_varlen": "varlen"}


@dataclass(frozen=True)
class Contract:
    packed_mask_type: str
    requires_packed_sequence_metadata: bool = False


def documents(folder: str, rows: str) -> dict[str, dict[str, Any]]:
    """Documents as its packer takes them, by sample_id."""
    processor, model = AutoProcessor.from_pretrained(folder), model_of(folder)
    found = {}
    raw = json.loads(Path(rows).read_text())
    for chat, row in zip(raw, Store(Path(rows).with_name("tok")).rows(), strict=True):
        ids = torch.tensor(row["input_ids"]).long()
        made = processor.image_processor([Image.open(path) for path in chat["images"]], return_tensors="pt")
        types = (ids == model.config.image_token_id).long()
        positions, _ = model.model.get_rope_index(
            input_ids=ids[None], mm_token_type_ids=types[None], image_grid_thw=made["image_grid_thw"]
        )
        found[row["sample_id"]] = {
            "input_ids": ids,
            "labels": torch.cat([torch.tensor(row["labels"]).long()[1:], torch.tensor([-100])]),
            "mm_token_type_ids": types,
            "position_ids": positions[:, 0],
            **made,
        }
    return found


def differences(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """What only one has, and the largest difference of the others where documents are."""
    told: dict[str, Any] = {"ours": sorted(ours.keys() - theirs.keys()), "theirs": sorted(theirs.keys() - ours.keys())}
    for name in sorted(ours.keys() & theirs.keys()):
        own, other = ours[name], theirs[name]
        if not torch.is_tensor(own):
            told[name] = 0 if own == other else [own, other]
        elif own.shape != other.shape:
            told[name] = [list(own.shape), list(other.shape)]
        else:
            told[name] = (own.float() - other.float()).abs().max().item()
    return told


def main() -> None:
    folder, rows, packed, out = sys.argv[1:]
    torch.set_num_threads(1)
    known, packs, told = documents(folder, rows), list(ShardDataset(packed, shuffle=False))[:2], dict[str, Any]()
    processor = AutoProcessor.from_pretrained(folder)
    pad = processor.tokenizer.pad_token_id
    theirs = [
        _build_packed_vlm_sample([known[name] for name in item["sample_ids"]], LENGTH, pad, has_mrope=True)
        for item in packs
    ]
    for kind, mask in NAMES.items():
        made = neat_packed_vlm_collater(theirs, pad, LENGTH, packing=Contract(kind))
        told[mask] = differences(packed_collate_fn(packs, processor, LENGTH, mask, packed), made)
    made = packed_sequence_thd_vlm_collater(theirs, pad, LENGTH)
    told["thd"] = differences(packed_collate_fn(packs, processor, LENGTH, "thd", packed), made)
    Path(out).write_text(json.dumps(told))


if __name__ == "__main__":
    main()
