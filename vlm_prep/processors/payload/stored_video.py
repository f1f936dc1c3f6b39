"""What stored videos are told to transformers of."""

from __future__ import annotations

from typing import Any

import numpy as np

from vlm_prep.core.stored_media import StoredMedia


def has_sound(struct: StoredMedia) -> bool:
    """Whether a stored media is a video with an audio track that was asked for."""
    return struct["kind"] == "video" and struct["samples"] is not None


def video_metadata(struct: StoredMedia) -> dict[str, Any]:
    """Return what transformers' VideoMetadata holds for a stored video."""
    fps, times = struct["fps"], struct.get("times")
    return {
        "total_num_frames": struct["total_frames"],
        "fps": fps,
        "height": struct["height"],
        "width": struct["width"],
        "duration": struct["total_frames"] / fps if fps else None,
        "frames_indices": [int(index) for index in np.asarray(struct["frame_indices"])]
        if times is None
        else [float(time) * (fps or 1.0) for time in times],
    }
