"""Gemma 3 and Gemma 4.

Gemma 3's placeholder is the token that opens a picture; blank lines are written around the picture, which merge with
the text beside it. With pan-and-scan on, crops follow the picture. Gemma 4 writes as many soft tokens as a picture's
patches need, minutes and seconds before each frame, and audio by its spectrogram's frames.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from vlm_prep.core.records import MediaKind
from vlm_prep.processors import internals
from vlm_prep.processors.adapter import Adapter
from vlm_prep.processors.expansion import Level, Size, Video


class Gemma3(Adapter):
    """Gemma 3."""

    family: ClassVar[str] = "gemma3"

    def find_run_tokens(self) -> tuple[str, ...]:
        """See `Adapter.find_run_tokens`: not the placeholder but the soft token."""
        return (str(self.hf.tokenizer.image_token),)

    def image_inputs(self, sizes: tuple[Size, ...]) -> Mapping[str, Any]:
        """See `Adapter.image_inputs`: crops by running the part on blank pictures, and none where they are off."""
        if self.part_record("image").kwargs.get("do_pan_and_scan", self.hf.image_processor.do_pan_and_scan):
            return super().image_inputs(sizes)
        return {"num_crops": [0] * len(sizes)}


class Gemma4(Adapter):
    """Gemma 4."""

    family: ClassVar[str] = "gemma4"
    levels: Mapping[MediaKind, Level] = {"image": "formula", "video": "formula"}
    needs_time: ClassVar[bool] = True
    writes_times: ClassVar[bool] = True
    thinking_prefix: ClassVar[tuple[str, str] | None] = ("<|turn>model\n", "<|channel>thought\n<channel|>")

    def image_inputs(self, sizes: tuple[Size, ...]) -> Mapping[str, Any]:
        """See `Adapter.image_inputs`."""
        counts = internals.count_multimodal_tokens.of(self.hf)(
            image_sizes=[list(size) for size in sizes]
        ).num_image_tokens
        return {"num_soft_tokens_per_image": counts}

    def video_inputs(self, video: Video) -> Mapping[str, Any]:
        """See `Adapter.video_inputs`."""
        size = [1, video.height, video.width]
        counts = internals.count_multimodal_tokens.of(self.hf)(video_sizes=[size]).num_video_tokens
        return {"num_soft_tokens_per_video": counts, "video_metadata": [video.metadata]}
