"""Loaders over small stores, and what they give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vlm_prep.stream import ShardDataset

ROWS = 13


def ids(items: list[dict[str, Any]]) -> list[str]:
    """A collater that keeps the names alone."""
    return [item["sample_id"] for item in items]


def loader_for(kind: type[Any], dataset: ShardDataset, workers: int, **options: Any) -> Any:
    """A loader of batches of 2."""
    return kind(dataset, batch_size=2, sampler=dataset.sampler(), num_workers=workers, collate_fn=ids, **options)


def whole_epoch(path: Path, epoch: int = 0) -> list[str]:
    """The names of an epoch in order."""
    dataset = ShardDataset(path, epoch=epoch)
    return [dataset[i]["sample_id"] for i in range(len(dataset))]
