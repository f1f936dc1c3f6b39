"""Conversations with media of every kind, and the same with media decoded here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np

from vlm_prep.engine.stage import RunOptions
from vlm_prep.processors.load import LoadedProcessor

Load = Callable[[str], LoadedProcessor]
Options = Callable[..., RunOptions]
NAMES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "builtin")


def clip(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """All frames of a video, and what transformers wants to know of it."""
    with av.open(str(path)) as file:
        stream = file.streams.best("video")
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(stream)])
        return frames, {"total_num_frames": len(frames), "fps": float(stream.average_rate)}
