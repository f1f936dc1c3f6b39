"""Nemotron-Omni: pictures, one video, audio. Nemotron-Parse is in `prompt_answer`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from vlm_prep.core.errors import Reject, RejectReason
from vlm_prep.core.records import MediaKind
from vlm_prep.processors import internals
from vlm_prep.processors.adapter import Adapter
from vlm_prep.processors.expansion import Expansion, Level, Size, Tensor, Video


class NemotronOmni(Adapter):
    """Nemotron-Omni. Its tokenizer has no video token: frames are written with the picture's."""

    family: ClassVar[str] = "nemotron_omni"
    levels: Mapping[MediaKind, Level] = {"image": "formula", "video": "formula", "audio": "formula"}
    geometry: tuple[Tensor, ...] = (Tensor(name="image_grid_hw", kind="image", dtype="int64", shape=(2,)),)
    look_at_each_other: bool = True

    def find_run_tokens(self) -> tuple[str, ...]:
        """See `Adapter.find_run_tokens`."""
        return (str(self.hf.image_token), str(self.hf.audio_token))

    def image_inputs(self, sizes: tuple[Size, ...]) -> Mapping[str, Any]:
        """See `Adapter.image_inputs`: the budget that pictures share is that of NemotronH_Omni's image processor."""
        import numpy as np

        part = self.hf.image_processor
        merge, least, most = round(1 / part.downsample_ratio), part.min_num_patches, part.max_num_patches
        budget = max((part.max_model_len - 4) * merge**2, least * len(sizes))
        budget = max(min(budget, most) if most else budget, least)
        grid = internals.nemotron_grid.get()
        grids = [grid(height, width, part.patch_size, merge, least, budget) for height, width in sizes]
        return {"image_grid_hw": np.asarray(grids)}

    def video_inputs(self, video: Video) -> Mapping[str, Any]:
        """See `Adapter.video_inputs`."""
        part = self.hf.video_processor
        columns, rows = internals.nemotron_patches.of(part)(video.height, video.width)
        return {"num_tokens": [columns * rows // internals.nemotron_downsampling.of(part) ** 2], "video": video}

    def audio_inputs(self, samples: tuple[int, ...]) -> Mapping[str, Any]:
        """See `Adapter.audio_inputs`. Features are divided by their deviation, which one frame alone does not have."""
        hop = int(self.hf.feature_extractor.hop_length)
        if min(samples) < 2 * hop:
            raise ValueError(f"less than two frames of the spectrogram, {2 * hop} samples: its features are not finite")
        return {"num_tokens": [max(1, internals.nemotron_audio_tokens.of(self.hf)(count)) for count in samples]}

    def replacement(self, kind: MediaKind, inputs: Mapping[str, Any], index: int) -> str:
        """See `Adapter.replacement`."""
        if kind != "video":
            return super().replacement(kind, inputs, index)
        video: Video = inputs["video"]
        text: str = self.hf.replace_video_token(inputs, 0, num_frames=video.frames, video_metadata=video.metadata)
        return text

    def call_options(self, metadata: Sequence[Any]) -> dict[str, Any]:
        """See `Adapter.call_options`: it takes one VideoMetadata, not a list."""
        from transformers.video_utils import VideoMetadata

        if not metadata:
            return {}
        one = metadata[0]
        one = VideoMetadata(**one) if isinstance(one, dict) else one
        return {"videos_kwargs": {"do_sample_frames": False, "video_metadata": one}}

    def check_together(self, kind: MediaKind, media: Sequence[Expansion]) -> None:
        """See `Adapter.check_together`."""
        if kind == "video" and len(media) > 1:
            raise Reject(RejectReason.PROCESSOR_ERROR, f"{len(media)} videos: Nemotron-Omni's processor takes one")
