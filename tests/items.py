"""Items of ShardDataset as a batch holds them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


def as_trained(item: dict[str, Any]) -> dict[str, Any]:
    """An item with its views of the shard as the tensors that a batch holds."""
    wide = {np.dtype(np.int32): np.dtype(np.int64)}
    return {
        name: torch.from_numpy(value.astype(wide.get(value.dtype, value.dtype)))
        if isinstance(value, np.ndarray)
        else value
        for name, value in item.items()
    }
