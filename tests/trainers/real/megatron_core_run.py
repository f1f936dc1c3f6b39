"""Megatron's own reader of an export to megatron-indexed: python megatron_core_run.py EXPORT OUT.json"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from megatron.core.datasets.indexed_dataset import IndexedDataset

export, out = sys.argv[1:]
read = {name: IndexedDataset(f"{export}/{name}") for name in ("tokens", "labels")}
told = {name: [rows[number].tolist() for number in range(len(rows))] for name, rows in read.items()}
Path(out).write_text(json.dumps({**told, "documents": read["tokens"].document_indices.tolist()}))
