"""Rules by which other libraries choose a video's frames, so that a recipe moves over with the frames it had.

    transformers     the processor's own sampling (`frames.choose_frames`)
    qwen_vl_utils    its smart_nframes and linspace: 2 frames/s (fps), at least 4, at most 768, an even number
    llava            LLaVA-NeXT's training: every round(rate / fps)-th frame, fps 1; above max_frames evenly spread
    keyframes        those that the file's codec stores whole
    uniform:N        N frames evenly spread over the video, its first and last among them

The indices are frozen in the store, so whoever reads it needs none of these libraries.
"""

from __future__ import annotations

import numpy as np

from vlm_prep.core.errors import Reject, RejectReason
from vlm_prep.core.records import Media, MediaHeader
from vlm_prep.core.settings import ProcessorConfig
from vlm_prep.media.files import local_path, read_bytes
from vlm_prep.media.frames_pyav import keyframes

_FACTOR = 2
_LEAST, _MOST, _FPS = 4, 768, 2.0
"""qwen_vl_utils' FPS_MIN_FRAMES, FPS_MAX_FRAMES and FPS."""


def frames_by_rule(rule: str, header: MediaHeader, config: ProcessorConfig, fps: float | None) -> tuple[int, ...]:
    """Return the frames that a rule takes.

    Args:
        rule: `qwen_vl_utils`, `llava` or `uniform:N`.
        header: of the video.
        config: its fps, min_frames and max_frames bound the rule as they bound the library's.
        fps: rate of the entry itself, in place of the run's.

    Raises:
        Reject: processor_error, the rule takes no frames of so short a video.
    """
    total, rate = header.total_frames or 0, header.fps or 1.0
    wanted = fps or config.fps
    if rule == "llava":
        found = range(0, total, max(1, round(rate / (wanted or 1.0))))
        if config.max_frames is not None and len(found) > config.max_frames:
            return tuple(np.linspace(0, total - 1, config.max_frames, dtype=int).tolist())
        return tuple(found)
    if rule == "qwen_vl_utils":
        import torch  # its linspace, whose last bits decide where a place lies between two frames

        number = _qwen_frames(total, rate, config, wanted or _FPS)
        return tuple(torch.linspace(0, total - 1, number).round().long().tolist())
    number = min(int(rule.rpartition(":")[2]), total)
    return tuple(np.linspace(0, total - 1, number).round().astype(int).tolist())


def keyframes_of(media: Media, header: MediaHeader) -> tuple[int, ...]:
    """Return the key frames of a video file, or of the part of it that is meant.

    Raises:
        Reject: processor_error, the video is not read by PyAV, or the part has no key frame; or the file does not tell.
    """
    (uri,) = media.uris
    if header.decoder != "pyav":
        raise Reject(RejectReason.PROCESSOR_ERROR, f"{uri}: key frames are told of video files read by PyAV")
    path = local_path(uri)
    start, stop = header.segment or (0, header.total_frames or 0)
    found = [number - start for number in keyframes(path or read_bytes(uri), uri) if start <= number < stop]
    if not found:
        raise Reject(RejectReason.PROCESSOR_ERROR, f"{uri}: no key frame in the part from frame {start} to {stop}")
    return tuple(found)


def _qwen_frames(total: int, rate: float, config: ProcessorConfig, fps: float) -> int:
    least = -(-(config.min_frames or _LEAST) // _FACTOR) * _FACTOR
    most = (config.max_frames or min(_MOST, total)) // _FACTOR * _FACTOR
    number = int(min(min(max(total / rate * fps, least), most), total) // _FACTOR) * _FACTOR
    if not _FACTOR <= number <= total:
        raise Reject(RejectReason.PROCESSOR_ERROR, f"qwen_vl_utils takes no fewer than {_FACTOR} frames of a video")
    return number
