"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL (and what is built on their processors): token counts by formula.

A picture is resized to multiples of patch x merge by the processor's `smart_resize` and becomes
grid_t x grid_h x grid_w / merge^2 tokens. The arithmetic is transformers' own function, called with the processor's
settings; what is skipped is decoding, resizing and normalizing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from vlm_prep.core.records import MediaKind
from vlm_prep.processors import internals
from vlm_prep.processors.adapter import Adapter
from vlm_prep.processors.expansion import Level, Size, Tensor, Video
from vlm_prep.processors.model_positions import Positions

Grid = tuple[int, int, int]
IMAGE_GRID = Tensor(name="image_grid_thw", kind="image", dtype="int64", shape=(3,))
VIDEO_GRID = Tensor(name="video_grid_thw", kind="video", dtype="int64", shape=(3,))


class Qwen2VL(Adapter):
    """Qwen2-VL; the base of the others."""

    family: ClassVar[str] = "qwen2_vl"
    levels: Mapping[MediaKind, Level] = {"image": "formula", "video": "formula"}
    geometry: tuple[Tensor, ...] = (IMAGE_GRID, VIDEO_GRID)
    unresized: ClassVar[bool] = True

    @property
    def side_multiple(self) -> int:
        """See `Adapter.side_multiple`."""
        return int(self._setting("image", "patch_size")) * int(self._setting("image", "merge_size"))

    def image_inputs(self, sizes: tuple[Size, ...]) -> Mapping[str, Any]:
        """See `Adapter.image_inputs`."""
        return {"image_grid_thw": np.asarray([self._image_grid(*size) for size in sizes])}

    def video_inputs(self, video: Video) -> Mapping[str, Any]:
        """See `Adapter.video_inputs`."""
        # a copy: Qwen3-VL's writer lengthens the index list that it is given
        return {"video_grid_thw": np.asarray([self._video_grid(video)]), "video_metadata": [video.metadata]}

    def mrope(self) -> dict[str, Any] | None:
        """See `Adapter.mrope`: none where a processor borrows this one's way with pictures alone (dots.ocr)."""
        if getattr(self.hf, "video_token_id", None) is None:
            return None
        return {
            "scheme": self.family,
            "image_token_id": int(self.hf.image_token_id),
            "video_token_id": int(self.hf.video_token_id),
            "spatial_merge_size": int(self.hf.image_processor.merge_size),
            "tokens_per_second": None,
        }

    @property
    def positions(self) -> Positions:
        """See `Adapter.positions`."""
        return "unknown" if self.mrope() is None else "mrope"

    def _setting(self, kind: MediaKind, name: str) -> Any:
        """A setting of a part: what the processor gives it with each call, else its own."""
        part = self.hf.image_processor if kind == "image" else self.hf.video_processor
        return self.part_record(kind).kwargs.get(name, getattr(part, name, None))

    def _image_grid(self, height: int, width: int) -> Grid:
        patch = int(self._setting("image", "patch_size"))
        if self._setting("image", "do_resize"):
            size = self._setting("image", "size")
            height, width = internals.qwen_image_resize.get()(
                height,
                width,
                factor=patch * int(self._setting("image", "merge_size")),
                min_pixels=size["shortest_edge"],
                max_pixels=size["longest_edge"],
            )
        self._require_patches("image", height, width)
        return 1, height // patch, width // patch

    def _video_grid(self, video: Video) -> Grid:
        patch = int(self._setting("video", "patch_size"))
        height, width = video.height, video.width
        if self._setting("video", "do_resize"):
            height, width = self._resize_video(video.frames, height, width)
        self._require_patches("video", height, width)
        return -(-video.frames // int(self._setting("video", "temporal_patch_size"))), height // patch, width // patch

    def _require_patches(self, kind: MediaKind, height: int, width: int) -> None:
        """What is not resized must be whole patches."""
        side = int(self._setting(kind, "patch_size")) * int(self._setting(kind, "merge_size"))
        if height % side or width % side:
            raise ValueError(f"without `do_resize`, sides must be multiples of {side}")

    def _resize_video(self, frames: int, height: int, width: int) -> Size:
        factor = int(self._setting("video", "patch_size")) * int(self._setting("video", "merge_size"))
        size = self._setting("video", "size")
        least, most = size["shortest_edge"], size["longest_edge"]
        if self._setting("video", "cap_pixels_per_frame"):
            # an even share of 90 % of max_video_tokens, as Qwen2VLVideoProcessor.resize states it
            total = int(self._setting("video", "max_video_tokens") * factor * factor * 0.9)
            share = total * int(self._setting("video", "temporal_patch_size")) // frames
            most = max(min(most, share), int(least * 1.05))
        resized: Size = internals.qwen_video_resize.get()(
            height, width, factor=factor, min_pixels=least, max_pixels=most
        )
        return resized


class Qwen2_5VL(Qwen2VL):  # noqa: N801 - the model's name
    """Qwen2.5-VL: as Qwen2-VL, with seconds per temporal patch for its time-aware positions."""

    family: ClassVar[str] = "qwen2_5_vl"
    geometry: tuple[Tensor, ...] = (
        IMAGE_GRID,
        VIDEO_GRID,
        Tensor(name="second_per_grid_ts", kind="video", dtype="float32"),
    )
    needs_time: ClassVar[bool] = True

    def video_inputs(self, video: Video) -> Mapping[str, Any]:
        """See `Adapter.video_inputs`."""
        seconds = self._setting("video", "temporal_patch_size") / video.metadata.sampled_fps
        return {**super().video_inputs(video), "second_per_grid_ts": [seconds]}

    def mrope(self) -> dict[str, Any] | None:
        """See `Adapter.mrope`. tokens_per_second is a model setting (vision_config), not the processor's: 2 in all
        published Qwen2.5-VL checkpoints (their config.json); `vlm-prep pack --tokens-per-second` overrides it."""
        settings = super().mrope()
        return None if settings is None else {**settings, "tokens_per_second": 2.0}


class Qwen3VL(Qwen2VL):
    """Qwen3-VL: frames between written timestamps, and a resize that bounds the whole video."""

    family: ClassVar[str] = "qwen3_vl"
    needs_time: ClassVar[bool] = True
    writes_times: ClassVar[bool] = True

    def _resize_video(self, frames: int, height: int, width: int) -> Size:
        factor = int(self._setting("video", "patch_size")) * int(self._setting("video", "merge_size"))
        size = self._setting("video", "size")
        least, most = size["shortest_edge"], size["longest_edge"]
        if self._setting("video", "cap_pixels_per_frame"):
            # the per-frame ceiling of Qwen3VLVideoProcessor.resize
            share = min(self._setting("video", "max_video_tokens") * factor * factor, most // frames)
            most = max(share, int(least * 1.05)) * frames
        resized: Size = internals.qwen3_video_resize.get()(
            num_frames=frames,
            height=height,
            width=width,
            temporal_factor=int(self._setting("video", "temporal_patch_size")),
            factor=factor,
            min_pixels=least,
            max_pixels=most,
        )
        return resized
