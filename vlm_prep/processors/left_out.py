"""What of a picture or a video a processor leaves out and says nothing of: cropped edges, frames beyond its most.

Both are the processor's own doing, and the tensors are equal to its own; but who prepares the data should know, and may
have such rows rejected (`left_out`). Sound that it cuts is a reject, see `audio_limit`: there, words are trained that
the model never hears.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vlm_prep.core.errors import Reject, RejectReason
from vlm_prep.core.records import Media, MediaHeader
from vlm_prep.processors.processor_parts import part_of

if TYPE_CHECKING:
    from vlm_prep.processors.adapter import Adapter

CROPPED = "pictures_cropped"
"""Note of a picture of which the processor crops the edges."""
FRAMES_CAPPED = "frames_capped"
"""Note of a video of which fewer frames are taken than its rate asks for, since there are too many."""


def noted(adapter: Adapter, media: Media, taken: tuple[int, ...] | None) -> Media:
    """Return a probed media with a note of what is left out; `taken` are the frames of a video that are given.

    Raises:
        Reject: unsupported_media, something is, and the run asks for none of it.
    """
    header, note = media.header, None
    if header is None:
        return media
    if media.kind == "image" and (crop := center_crop(adapter)) and _is_cropped(adapter, header, crop):
        note = CROPPED
    if media.kind == "video" and taken is not None and _is_capped(adapter, media, header, len(taken)):
        note = FRAMES_CAPPED
    if note is not None and adapter.loaded.config.left_out == "reject":
        raise Reject(RejectReason.UNSUPPORTED_MEDIA, f"{media.uris[0]}: {_told(adapter, header, taken)} (left_out)")
    return media if note is None else replace(media, notes=(*media.notes, note))


def _told(adapter: Adapter, header: MediaHeader, taken: tuple[int, ...] | None) -> str:
    size = f"{header.width}x{header.height}"
    if taken is None:
        height, width = center_crop(adapter) or (0, 0)
        return f"the processor crops the edges of a picture of {size} to {width}x{height}"
    seconds = (header.total_frames or 0) / (header.fps or 1.0)
    return f"the processor takes {len(taken)} frames of {seconds:g} s, fewer than its rate asks for; raise max_frames"


def center_crop(adapter: Adapter) -> tuple[int, int] | None:
    """Return (height, width) that the processor crops pictures to; None where it does not."""
    if not _setting(adapter, "do_center_crop"):
        return None
    size = _as_dict(_setting(adapter, "crop_size"))
    height, width = size.get("height"), size.get("width")
    return (int(height), int(width)) if height and width else None


def most_frames(adapter: Adapter) -> int | None:
    """Return the most frames that the processor's own sampling takes of a video; None for no such limit."""
    video = getattr(adapter.hf, "video_processor", None)
    most = getattr(video, "max_frames", None)
    samples = video is not None and video.do_sample_frames and getattr(video, "fps", None)
    return int(most) if samples and most else None


def _is_cropped(adapter: Adapter, header: MediaHeader, crop: tuple[int, int]) -> bool:
    height, width = float(header.height), float(header.width)
    size = _as_dict(_setting(adapter, "size"))
    if _setting(adapter, "do_resize") and size.get("shortest_edge"):
        scale = size["shortest_edge"] / min(height, width)
        height, width = height * scale, width * scale
    elif _setting(adapter, "do_resize") and size.get("height"):
        height, width = size["height"], size["width"]
    return height >= crop[0] + 1 or width >= crop[1] + 1


def _is_capped(adapter: Adapter, media: Media, header: MediaHeader, taken: int) -> bool:
    most, config = most_frames(adapter), adapter.loaded.config
    asks = media.frame_list or media.frame_indices is not None or config.video_sampling != "transformers"
    if most is None or asks or taken < most:
        return False
    rate = media.fps or adapter.hf.video_processor.fps
    return bool((header.total_frames or 0) / (header.fps or 1.0) * rate >= most + 1)


def _setting(adapter: Adapter, name: str) -> Any:
    found = part_of(adapter.hf, "image")
    return None if found is None else adapter.part_record("image").kwargs.get(name, getattr(found[1], name, None))


def _as_dict(size: Any) -> dict[str, Any]:
    return {} if size is None else {name: value for name, value in dict(size).items() if value is not None}
