"""InternVL3: tiles between <img> and </img>, and every frame of a video as a tile with its number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from vlm_prep.core.records import MediaKind
from vlm_prep.processors.adapter import Adapter
from vlm_prep.processors.expansion import Level, Size, Video


class InternVL(Adapter):
    """InternVL3 and its relatives in transformers."""

    family: ClassVar[str] = "internvl"
    levels: Mapping[MediaKind, Level] = {"image": "formula", "video": "formula"}
    interleaved: ClassVar[bool] = True
    stacks_videos: ClassVar[bool] = True

    def find_run_tokens(self) -> tuple[str, ...]:
        """See `Adapter.find_run_tokens`: frames are written with the picture's token."""
        return (str(self.hf.image_token),)

    def image_inputs(self, sizes: tuple[Size, ...]) -> Mapping[str, Any]:
        """See `Adapter.image_inputs`."""
        count, kwargs = self.hf.image_processor.get_number_of_image_patches, self.part_record("image").kwargs
        return {"num_patches": [int(count(height, width, kwargs)) for height, width in sizes]}

    def video_inputs(self, video: Video) -> Mapping[str, Any]:
        """See `Adapter.video_inputs`: the processor reads the number of frames."""
        return {"pixel_values_videos": np.empty((1, video.frames, 0))}
