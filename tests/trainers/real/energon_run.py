"""Megatron-Energon's own loader of a store exported for it: python energon_run.py STORE EXPORT OUT.json"""

from __future__ import annotations

import hashlib
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from megatron.energon import (
    Cooker,
    CrudeSample,
    DefaultTaskEncoder,
    WorkerConfig,
    get_loader,
    get_train_dataset,
    stateless,
)

from vlm_prep.trainers.exporting import export

store, folder, out = sys.argv[1:]
exported = export(store, "energon", Path(folder))


def cook(sample: CrudeSample) -> dict[str, Any]:
    """What of a row is compared: arrays as lists, the digest of each media file, and who it is."""
    arrays = {
        name.removesuffix(".npy"): np.load(io.BytesIO(value)).tolist()
        for name, value in sample.items()
        if name.endswith(".npy")
    }
    files = sorted(name for name in sample if name.startswith("media.") and not name.endswith((".npy", ".json")))
    digests = [hashlib.sha256(sample[name]).hexdigest() for name in files]
    return {
        "__key__": sample["__key__"],
        "arrays": arrays,
        "files": digests,
        "names": files,
        "about": json.loads(sample["json"]),
    }


BASE: Any = DefaultTaskEncoder


class Encoder(BASE):  # type: ignore[misc]
    """Hands on what is cooked, of the bytes as they are."""

    cookers = [Cooker(stateless(cook))]
    decoder = None

    def encode_sample(self, sample: Any) -> Any:
        return sample

    def batch(self, samples: list[Any]) -> Any:
        return samples

    def encode_batch(self, batch: Any) -> Any:
        return batch


found = {}
for ranks in (1, 2):
    rows: list[Any] = []
    for rank in range(ranks):
        config = WorkerConfig(rank=rank, world_size=ranks, num_workers=0)
        data = get_train_dataset(
            folder,
            worker_config=config,
            batch_size=1,
            shuffle_buffer_size=None,
            max_samples_per_sequence=None,
            repeat=False,
            task_encoder=Encoder(),
        )
        rows += [row for batch in get_loader(data) for row in batch]
    found[ranks] = rows
Path(out).write_text(json.dumps({"rows": found[1], "of_two": found[2], "exported": exported.rows}, default=str))
