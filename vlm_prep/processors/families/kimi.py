"""Kimi-K2.5: pictures at their own size, padded to whole patches; videos in chunks of frames under timestamps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from vlm_prep.core.records import MediaKind
from vlm_prep.processors import internals
from vlm_prep.processors.adapter import Adapter
from vlm_prep.processors.expansion import Level, Size, Tensor, Video
from vlm_prep.processors.families.qwen_vl import IMAGE_GRID, VIDEO_GRID


class KimiK25(Adapter):
    """Kimi-K2.5. A video has one row of `video_grid_thw` for each of its chunks."""

    family: ClassVar[str] = "kimi_k25"
    levels: Mapping[MediaKind, Level] = {"image": "formula", "video": "formula"}
    geometry: tuple[Tensor, ...] = (IMAGE_GRID, VIDEO_GRID)
    needs_time: ClassVar[bool] = True
    writes_times: ClassVar[bool] = True

    def image_inputs(self, sizes: tuple[Size, ...]) -> Mapping[str, Any]:
        """See `Adapter.image_inputs`."""
        return {"image_grid_thw": np.asarray([[1, *self._grid("image", size)] for size in sizes])}

    def video_inputs(self, video: Video) -> Mapping[str, Any]:
        """See `Adapter.video_inputs`."""
        temporal = int(self.hf.video_processor.temporal_patch_size)
        height, width = self._grid("video", (video.height, video.width))
        starts = range(0, video.frames, temporal)
        grids = [[min(temporal, video.frames - start), height, width] for start in starts]
        return {
            "video_grid_thw": np.asarray(grids),
            "num_chunks_per_video": [len(grids)],
            "video_metadata": [video.metadata],
        }

    def rows_of(self, tensor: Tensor, inputs: Mapping[str, Any], index: int) -> NDArray[Any]:
        """See `Adapter.rows_of`."""
        if tensor.kind == "video":
            return np.asarray(inputs[tensor.name], tensor.dtype)
        return super().rows_of(tensor, inputs, index)

    def _grid(self, kind: MediaKind, size: Size) -> tuple[int, int]:
        """Rows and columns of patches, by transformers' own arithmetic."""
        part = self.hf.image_processor if kind == "image" else self.hf.video_processor
        kwargs = self.part_record(kind).kwargs
        patch = int(kwargs.get("patch_size", part.patch_size))
        _, (height, width) = internals.kimi_resize.get()(
            height=size[0],
            width=size[1],
            patch_size=patch,
            merge_kernel_size=int(kwargs.get("merge_size", part.merge_size)),
            max_patches=int(kwargs.get("max_patches", part.max_patches)),
            max_size_per_side=int(kwargs.get("size", part.size)["max_height"]),
        )
        return height // patch, width // patch
