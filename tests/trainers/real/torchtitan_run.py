"""torchtitan's own packer and collator over documents, pictures processed by it, beside our loader's batches.

python torchtitan_run.py MODEL_FOLDER ROWS.json PACKED_STORE OUT.json

torchtitan renders no chats: a document's ids and labels are those of the tokenized store, which lies beside the packs.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from vlm_prep.processors.torchvision_cpu import ensure_torchvision

ensure_torchvision()

import torch  # noqa: E402
from PIL import Image  # noqa: E402
from torchtitan.components.tokenizer import MultiModalTokenizer  # noqa: E402
from torchtitan.hf_datasets.multimodal.mm_collator import MultiModalCollator  # noqa: E402
from torchtitan.hf_datasets.multimodal.utils.image import process_image  # noqa: E402
from torchtitan.hf_datasets.multimodal.utils.packing import MMSamplePacker  # noqa: E402
from transformers import AutoProcessor  # noqa: E402

from vlm_prep.shards.reader import Store  # noqa: E402
from vlm_prep.stream import ShardDataset  # noqa: E402
from vlm_prep.trainers.torchtitan_loader import PackDataLoader  # noqa: E402

folder, rows, packed, out = sys.argv[1:]
torch.set_num_threads(1)
SIZE, LENGTH = 2, 1536  # longer than the packs
tokenizer = MultiModalTokenizer.Config(
    image_token="<|image_pad|>",
    video_token="<|video_pad|>",
    vision_start_token="<|vision_start|>",
    vision_end_token="<|vision_end|>",
    pad_token="<|endoftext|>",
).build(tokenizer_path=folder)
settings = AutoProcessor.from_pretrained(folder).image_processor
raw = json.loads(Path(rows).read_text())
documents: dict[str, dict[str, Any]] = {}
for chat, row in zip(raw, Store(Path(rows).with_name("tok")).rows(), strict=True):
    documents[row["sample_id"]] = {
        "input_ids": torch.tensor(row["input_ids"]).long(),
        "labels": torch.tensor(row["labels"]).long(),
        "positions": torch.arange(len(row["input_ids"])),
        "pixel_values": [
            process_image(
                Image.open(path),
                patch_size=14,
                merge_size=2,
                max_pixels=settings.size["longest_edge"],
                min_pixels=settings.size["shortest_edge"],
                image_mean=tuple(settings.image_mean),
                image_std=tuple(settings.image_std),
            )
            for path in chat["images"]
        ],
    }
collate = MultiModalCollator(
    batch_size=SIZE,
    seq_len=LENGTH,
    max_images_per_batch=100,
    patch_size=14,
    temporal_patch_size=2,
    spatial_merge_size=2,
    tokenizer=tokenizer,
    build_mrope_positions=True,
)
packs = [
    MMSamplePacker._merge_samples([documents[name] for name in item["sample_ids"]])
    for item in ShardDataset(packed, shuffle=False, pixels=False)
]


def loader(**more: Any) -> Any:
    config = PackDataLoader.Config(dataset_path=packed, **more)
    told = {"dp_world_size": 1, "dp_rank": 0, "tokenizer": tokenizer, "seq_len": LENGTH, "local_batch_size": SIZE}
    return config.build(**told, snapshot_every_n_steps=1)


def differences(ours: Any, theirs: Any) -> dict[str, float]:
    """The largest difference under each name, of tokens that belong to documents."""
    (inputs, labels), (their_inputs, their_labels) = ours, theirs
    assert inputs.keys() == their_inputs.keys(), (sorted(inputs), sorted(their_inputs))
    assert inputs["special_tokens"] == their_inputs["special_tokens"]
    inside = torch.zeros_like(labels, dtype=torch.bool)
    for row, pack in enumerate(their_packs):
        inside[row, : len(pack["input_ids"])] = True
    found = {"labels": (labels - their_labels).abs().max().item()}
    for name, value in inputs.items():
        if torch.is_tensor(value):
            assert value.shape == their_inputs[name].shape, name
            apart = (value - their_inputs[name]).abs()
            found[name] = (apart[inside] if value.shape[:2] == inside.shape else apart).max().item()
        else:
            assert value == their_inputs[name], name
    return found


told: dict[str, Any] = {"differences": [], "packs": len(packs)}
batches = iter(loader(shuffle=False, infinite=False))
for first in range(0, len(packs) - SIZE + 1, SIZE):
    their_packs = packs[first : first + SIZE]
    told["differences"].append(differences(next(batches), collate(list(their_packs))))
assert next(batches, None) is None
# a checkpoint in the middle of the second epoch
through, later = loader(seed=5), loader(seed=5)
walk = iter(through)
steps = len(packs) // SIZE + 1
for _ in range(steps):
    next(walk)
later.load_state_dict(json.loads(json.dumps(through.state_dict())))
expected, resumed = next(walk), next(iter(later))
told["resumed"] = torch.equal(expected[0]["input"], resumed[0]["input"]) and torch.equal(expected[1], resumed[1])
Path(out).write_text(json.dumps(told))
