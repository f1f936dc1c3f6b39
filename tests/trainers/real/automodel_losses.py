"""Losses of NeMo Automodel's packs, of ours by its contracts, and of their documents alone, on a tiny random model.

python automodel_losses.py MODEL_FOLDER ROWS.json PACKED_STORE OUT.json

Each trains 20 steps of a pack, by Automodel's own masked cross entropy. The model says what packs it reads, as in
Automodel's recipe. OUT.json also has the loss of document ids, which stock attention takes for a mask of padding.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vlm_prep.processors.torchvision_cpu import ensure_torchvision

ensure_torchvision()

import torch  # noqa: E402
from automodel_packed import LENGTH, NAMES, documents  # noqa: E402
from model import model_of  # noqa: E402
from nemo_automodel.components.datasets.vlm.collate_fns import neat_packed_vlm_collater  # noqa: E402
from nemo_automodel.components.datasets.vlm.neat_packing_vlm import _build_packed_vlm_sample  # noqa: E402
from nemo_automodel.components.loss.masked_ce import MaskedCrossEntropy  # noqa: E402
from nemo_automodel.components.models.common.packing import configure_packing  # noqa: E402
from transformers import AutoProcessor  # noqa: E402

from vlm_prep.stream import ShardDataset  # noqa: E402
from vlm_prep.trainers import collate_fn, packed_collate_fn  # noqa: E402

STEPS = 20


def losses(folder: str, step: Callable[[int], list[dict[str, Any]]], steps: int = STEPS) -> list[float]:
    """Return those of a model that trains on one step's batches after the other."""
    model, loss_of, found = model_of(folder), MaskedCrossEntropy(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for number in range(steps):
        batches = [dict(batch) for batch in step(number)]
        trained = sum(int((batch["labels"] != -100).sum()) for batch in batches)
        total = 0.0
        for batch in batches:
            labels = batch.pop("labels")
            for name in ("_packed_seq_ids", "n_images_per_sample"):
                batch.pop(name, None)
            loss = loss_of(model(**{**batch, "pixel_values": batch["pixel_values"].float()}).logits, labels,
                           num_label_tokens=trained)  # fmt: skip
            loss.backward()
            total += loss.item()
        optimizer.step()
        optimizer.zero_grad()
        found.append(total)
    return found


def main() -> None:
    folder, rows, packed, out = sys.argv[1:]
    torch.set_num_threads(1)
    known, packs = documents(folder, rows), list(ShardDataset(packed, shuffle=False))
    alone = str(Path(rows).with_name("tok"))
    items = {item["sample_id"]: item for item in ShardDataset(alone, shuffle=False)}
    processor = AutoProcessor.from_pretrained(folder)
    pad = processor.tokenizer.pad_token_id
    contract = configure_packing("sdpa", model=model_of(folder))

    def theirs(number: int) -> list[dict[str, Any]]:
        names = packs[number % len(packs)]["sample_ids"]
        made = _build_packed_vlm_sample([known[name] for name in names], LENGTH, pad, has_mrope=True)
        return [neat_packed_vlm_collater([made], pad, LENGTH, packing=contract)]

    def ours(mask: Any) -> Callable[[int], list[dict[str, Any]]]:
        return lambda number: [packed_collate_fn([packs[number % len(packs)]], processor, LENGTH, mask, packed)]

    def documents_alone(number: int) -> list[dict[str, Any]]:
        names = packs[number % len(packs)]["sample_ids"]
        return [dict(collate_fn([items[name]], processor, store=alone)) for name in names]

    told = {
        "contract": contract.packed_mask_type,
        "documents": sum(len(pack["sample_ids"]) for pack in packs),
        "packs": len(packs),
        "theirs": losses(folder, theirs),
        "ours": losses(folder, ours(NAMES[contract.packed_mask_type])),
        "alone": losses(folder, documents_alone),
        "document_ids": losses(folder, ours("document_ids"), 1),
    }
    Path(out).write_text(json.dumps(told))


if __name__ == "__main__":
    main()
