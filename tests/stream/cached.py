"""Stores read through a cache, in this process and in others."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from s3 import Server
from torch.utils.data import DataLoader

from vlm_prep.stream import ShardDataset

GIB = 1 << 30
Sent = Callable[..., tuple[Path, str]]


def requests(server: Server, url: str, kind: str = "GET", end: str = "") -> Counter[str]:
    """How often each object of a store was asked for."""
    path = re.escape(url.removeprefix("s3:/"))
    return Counter(re.findall(rf'"{kind} {path}/([^ ?]+{end}) ', server.log.read_text()))


def firsts(dataset: ShardDataset, **settings: Any) -> list[int]:
    """The first token of each row of an epoch."""
    loader = DataLoader(dataset, sampler=dataset.sampler(), batch_size=2, collate_fn=list, **settings)
    return [int(item["input_ids"][0]) for batch in loader for item in batch]


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def open_at(path: str, folder: Path, **settings: Any) -> ShardDataset:
    return ShardDataset(path, **{"pixels": False, "cache_dir": folder, "cache_bytes": GIB, **settings})
