"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: token counts by formula.

A picture is resized to multiples of patch x merge by the processor's `smart_resize` and becomes
grid_t x grid_h x grid_w / merge^2 tokens. The arithmetic is transformers' own function, called with the processor's
settings; what is skipped is decoding, resizing and normalizing. A video's expansion string (with Qwen3-VL's
timestamps) is written by the processor's `replace_video_token` from the grid and the frame indices.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from vlm_prep.core.errors import Reject, RejectReason
from vlm_prep.core.types import Media, MediaHeader, MediaKind
from vlm_prep.processors.adapter import Adapter, EncodeText, Expansion, Level
from vlm_prep.processors.load import LoadedProcessor

Grid = tuple[int, int, int]


class Qwen2VL(Adapter):
    """Qwen2-VL; the base of the other two."""

    family: ClassVar[str] = "qwen2_vl"
    level: ClassVar[Level] = "formula"
    geometry: ClassVar[tuple[str, ...]] = ("image_grid_thw", "video_grid_thw")
    kinds: ClassVar[tuple[MediaKind, ...]] = ("image", "video")
    needs_time: ClassVar[bool] = False

    def __init__(self, loaded: LoadedProcessor) -> None:
        super().__init__(loaded)
        self._image_grid = lru_cache(maxsize=65536)(self._compute_image_grid)
        self._image_merge = int(self.hf.image_processor.merge_size) ** 2

    @property
    def placeholder_ids(self) -> dict[int, MediaKind]:
        """The ids of <|image_pad|> and <|video_pad|>."""
        return {int(self.hf.image_token_id): "image", int(self.hf.video_token_id): "video"}

    def expand(self, media: Media, encode: EncodeText) -> Expansion:
        """See `Adapter.expand`."""
        header = media.header
        if header is None:
            raise ValueError("expand needs a probed media")
        if media.kind == "image":
            grid = self._image_grid(header.height, header.width)
            count = grid[0] * grid[1] * grid[2] // self._image_merge
            ids = np.full(count, self.hf.image_token_id, np.int32)
            return Expansion(ids=ids, geometry={"image_grid_thw": grid})
        return self._expand_video(media, header, encode)

    def mrope(self) -> dict[str, Any] | None:
        """See `Adapter.mrope`."""
        return {
            "scheme": self.family,
            "image_token_id": int(self.hf.image_token_id),
            "video_token_id": int(self.hf.video_token_id),
            "spatial_merge_size": int(self.hf.image_processor.merge_size),
            "tokens_per_second": None,
        }

    def _compute_image_grid(self, height: int, width: int) -> Grid:
        from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

        settings = self.hf.image_processor
        patch = int(settings.patch_size)
        if settings.do_resize:
            try:
                height, width = smart_resize(
                    height,
                    width,
                    factor=patch * int(settings.merge_size),
                    min_pixels=settings.size["shortest_edge"],
                    max_pixels=settings.size["longest_edge"],
                )
            except ValueError as error:
                raise Reject(RejectReason.ASPECT_RATIO, f"{width}x{height}: {error}") from error
        return 1, height // patch, width // patch

    def _expand_video(self, media: Media, header: MediaHeader, encode: EncodeText) -> Expansion:
        indices = self._frame_indices(media, header)
        fps = self._fps(media, header)
        grid = self._video_grid(media, len(indices), header)
        metadata = _metadata(header, fps, indices)
        # the processor's own writer; it may lengthen the index list it is given, so it gets its own
        text = self.hf.replace_video_token(
            {"video_grid_thw": np.asarray([grid]), "video_metadata": [metadata]}, video_idx=0
        )
        geometry: dict[str, Any] = {"video_grid_thw": grid}
        if "second_per_grid_ts" in self.geometry:
            sampled = _metadata(header, fps, indices).sampled_fps
            geometry["second_per_grid_ts"] = self.hf.video_processor.temporal_patch_size / sampled
        return Expansion(ids=encode(text), geometry=geometry, frame_indices=indices, fps=fps)

    def _frame_indices(self, media: Media, header: MediaHeader) -> tuple[int, ...]:
        total = header.total_frames or 0
        if media.frame_indices is not None:
            wrong = [index for index in media.frame_indices if not 0 <= index < total]
            if wrong or not media.frame_indices:
                raise Reject(
                    RejectReason.BAD_FRAME_INDICES, f"{media.uris[0]}: frame indices {wrong[:5]} of {total} frames"
                )
            return media.frame_indices
        video = self.hf.video_processor
        # an entry's own fps on a video file is the rate to sample at, as in Qwen's data format
        rate = {"fps": media.fps} if media.fps is not None else {}
        if media.frame_list or not (video.do_sample_frames or rate):
            return tuple(range(total))
        try:
            picked = video.sample_frames(metadata=_metadata(header, header.fps, None), **rate)
        except (ValueError, TypeError, ZeroDivisionError) as error:
            # ZeroDivisionError: Qwen2-VL's sampling of a video shorter than temporal_patch_size; TypeError: max_frames
            # without fps
            raise Reject(
                RejectReason.PROCESSOR_ERROR,
                f"{media.uris[0]}: the processor cannot sample {total} frames: {type(error).__name__}: {error}",
            ) from error
        return tuple(int(index) for index in picked)

    def _fps(self, media: Media, header: MediaHeader) -> float | None:
        stated = media.fps if media.frame_list else header.fps
        if stated is None and self.needs_time:
            stated = getattr(self.hf.video_processor, "fps", None)
            if stated is None:
                raise Reject(
                    RejectReason.MISSING_FPS,
                    f"{media.uris[0]}: a list of frames needs its frame rate for {self.family}: "
                    'write the entry as {"path": [...], "fps": 2} or give --fps',
                )
        return stated

    def _video_grid(self, media: Media, frames: int, header: MediaHeader) -> Grid:
        settings = self.hf.video_processor
        patch, temporal = int(settings.patch_size), int(settings.temporal_patch_size)
        height, width = header.height, header.width
        if settings.do_resize:
            try:
                height, width = self._resize_video(frames, height, width)
            except ValueError as error:
                reason = RejectReason.ASPECT_RATIO if "aspect" in str(error) else RejectReason.PROCESSOR_ERROR
                raise Reject(reason, f"{media.uris[0]}: {frames} frames of {width}x{height}: {error}") from error
        return -(-frames // temporal), height // patch, width // patch

    def _resize_video(self, frames: int, height: int, width: int) -> tuple[int, int]:
        from transformers.models.qwen2_vl.video_processing_qwen2_vl import smart_resize

        settings = self.hf.video_processor
        factor = int(settings.patch_size) * int(settings.merge_size)
        least, most = settings.size["shortest_edge"], settings.size["longest_edge"]
        if getattr(settings, "cap_pixels_per_frame", None):
            # an even share of 90 % of max_video_tokens, as Qwen2VLVideoProcessor.resize states it
            total = int(settings.max_video_tokens * factor * factor * 0.9)
            most = max(min(most, total * int(settings.temporal_patch_size) // frames), int(least * 1.05))
        resized: tuple[int, int] = smart_resize(height, width, factor=factor, min_pixels=least, max_pixels=most)
        return resized


class Qwen2_5VL(Qwen2VL):  # noqa: N801 - the model's name
    """Qwen2.5-VL: as Qwen2-VL, with seconds per temporal patch for its time-aware positions."""

    family: ClassVar[str] = "qwen2_5_vl"
    geometry: ClassVar[tuple[str, ...]] = ("image_grid_thw", "video_grid_thw", "second_per_grid_ts")
    needs_time: ClassVar[bool] = True

    def mrope(self) -> dict[str, Any] | None:
        """See `Adapter.mrope`. tokens_per_second is a model setting (vision_config), not the processor's: 2 in all
        published Qwen2.5-VL checkpoints (their config.json); `vlm-prep pack --tokens-per-second` overrides it."""
        return {**(super().mrope() or {}), "tokens_per_second": 2.0}


class Qwen3VL(Qwen2VL):
    """Qwen3-VL: frames between written timestamps, and a resize that bounds the whole video."""

    family: ClassVar[str] = "qwen3_vl"
    needs_time: ClassVar[bool] = True

    def _resize_video(self, frames: int, height: int, width: int) -> tuple[int, int]:
        from transformers.models.qwen3_vl.video_processing_qwen3_vl import smart_resize

        settings = self.hf.video_processor
        factor = int(settings.patch_size) * int(settings.merge_size)
        least, most = settings.size["shortest_edge"], settings.size["longest_edge"]
        if getattr(settings, "cap_pixels_per_frame", None):
            # the per-frame ceiling of Qwen3VLVideoProcessor.resize
            share = min(settings.max_video_tokens * factor * factor, most // frames)
            most = max(share, int(least * 1.05)) * frames
        resized: tuple[int, int] = smart_resize(
            num_frames=frames,
            height=height,
            width=width,
            temporal_factor=int(settings.temporal_patch_size),
            factor=factor,
            min_pixels=least,
            max_pixels=most,
        )
        return resized


def _metadata(header: MediaHeader, fps: float | None, indices: tuple[int, ...] | None) -> Any:
    from transformers.video_utils import VideoMetadata

    return VideoMetadata(
        total_num_frames=header.total_frames or 0,
        fps=fps,
        height=header.height,
        width=header.width,
        duration=(header.total_frames or 0) / fps if fps else None,
        frames_indices=list(indices) if indices is not None else None,
    )
