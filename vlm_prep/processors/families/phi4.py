"""Phi-4-multimodal: a global view and up to 36 tiles of a picture, with a mask of what is padding; audio by frames."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from vlm_prep.core.records import MediaKind
from vlm_prep.processors.adapter import Adapter
from vlm_prep.processors.expansion import Level, Tensor


class Phi4Multimodal(Adapter):
    """Phi-4-multimodal. Its picture's tokens depend on a mask over tiles: found by running it on a blank picture."""

    family: ClassVar[str] = "phi4_multimodal"
    levels: Mapping[MediaKind, Level] = {"image": "by size", "audio": "formula"}
    geometry: tuple[Tensor, ...] = (
        Tensor(name="image_sizes", kind="image", dtype="int64", shape=(2,)),
        Tensor(name="audio_embed_sizes", kind="audio", dtype="int64"),
    )

    def audio_inputs(self, samples: tuple[int, ...]) -> Mapping[str, Any]:
        """See `Adapter.audio_inputs`."""
        part = self.hf.audio_processor
        if min(samples) < part.win_length:
            raise ValueError(f"shorter than one window of the spectrogram, {part.win_length} samples")
        frames = ((np.asarray(samples) - part.win_length) // part.hop_length + 1) * part.audio_feat_stride
        compressed = -(-frames // part.audio_compression_rate)
        return {"audio_embed_sizes": -(-compressed // part.audio_downsample_rate)}
