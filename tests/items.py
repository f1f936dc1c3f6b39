"""Items of ShardDataset as a batch holds them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vlm_prep.shards.manifest import read_manifest


def as_trained(item: dict[str, Any]) -> dict[str, Any]:
    """An item with its views of the shard as the tensors that a batch holds."""
    wide = {np.dtype(np.int32): np.dtype(np.int64)}
    return {
        name: torch.from_numpy(value.astype(wide.get(value.dtype, value.dtype)))
        if isinstance(value, np.ndarray)
        else value
        for name, value in item.items()
    }


def plain_media(media: Any) -> Any:
    """Return media of a row with arrays as what they were made of: bytes of uint8, lists of other numbers."""
    if isinstance(media, np.ndarray):
        return media.tobytes() if media.dtype == np.uint8 else media.tolist()
    if isinstance(media, Mapping):
        return {name: plain_media(value) for name, value in media.items()}
    return [plain_media(value) for value in media] if isinstance(media, list | tuple) else media


def mrope_of(store: Path) -> dict[str, Any]:
    """How a store's positions are counted."""
    found = read_manifest(store).processor["mrope"]
    assert found is not None
    return found
