"""Settings and files of tests of sound."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import av
import numpy as np
from PIL import Image
from scipy.signal import resample_poly

from vlm_prep.core.records import Media
from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.engine.stage import RunOptions

FAMILIES = ("qwen2_5_omni", "qwen3_omni_moe")
Options = Callable[..., RunOptions]
CONFIG = TokenizeConfig(media="reference", audio_in_video=True)


def decoded(media: Media, rate: int) -> Any:
    """A media of a row, read in another way than vlm_prep does."""
    if media.kind == "image":
        return Image.open(media.uris[0]).convert("RGB")
    if media.kind == "audio":
        with av.open(media.uris[0]) as container:
            return sound_of(container, rate)
    with av.open(media.uris[0]) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return np.stack([pictures[index] for index in media.frame_indices or ()])


def sound_of(container: Any, rate: int) -> Any:
    """The sound of a file, its channels averaged, at `rate`."""
    frames = list(container.decode(audio=0))
    wave = np.concatenate([samples_of(frame) for frame in frames], axis=1).mean(axis=0, dtype=np.float32)
    found = frames[0].sample_rate
    return wave if found == rate else resample_poly(wave, rate, found).astype(np.float32)


def samples_of(frame: Any) -> Any:
    """float32 (channels, samples)"""
    values = frame.to_ndarray()
    if not frame.format.is_planar:
        values = values.reshape(-1, len(frame.layout.channels)).T
    return values.astype(np.float32) / (32_768 if values.dtype == np.int16 else 1)
