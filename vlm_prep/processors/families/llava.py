"""LLaVA-OneVision: tiles of the best fitting resolution, and a picture alone is more tokens than one of several.

LLaVA-OneVision-1.5 uses Qwen2.5-VL's processor and belongs to that family.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from vlm_prep.core.records import MediaKind
from vlm_prep.processors.adapter import Adapter
from vlm_prep.processors.expansion import Level, Size, Tensor, Video


class LlavaOnevision(Adapter):
    """LLaVA-OneVision."""

    family: ClassVar[str] = "llava_onevision"
    levels: Mapping[MediaKind, Level] = {"image": "formula", "video": "formula"}
    geometry: tuple[Tensor, ...] = (Tensor(name="image_sizes", kind="image", dtype="int64", shape=(2,)),)
    look_at_each_other: bool = True
    stacks_videos: ClassVar[bool] = True

    def image_inputs(self, sizes: tuple[Size, ...]) -> Mapping[str, Any]:
        """See `Adapter.image_inputs`: the processor reads the tile's height and width, and the pictures' own sizes."""
        tile = self.hf.image_processor.size
        height, width = tile.get("height", tile.get("shortest_edge")), tile.get("width", tile.get("shortest_edge"))
        pixels = np.broadcast_to(np.zeros(1, np.float32), (1, 1, 3, height, width))
        return {"batch_num_images": [len(sizes)], "image_sizes": [list(size) for size in sizes], "pixel_values": pixels}

    def video_inputs(self, video: Video) -> Mapping[str, Any]:
        """See `Adapter.video_inputs`: the processor reads the number of frames."""
        return {"pixel_values_videos": np.empty((1, video.frames, 0))}
