"""Which frames of a video a processor is given, and what transformers' VideoMetadata says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any

from vlm_prep.core.errors import Reject, RejectReason
from vlm_prep.core.records import Media, MediaHeader
from vlm_prep.core.settings import ProcessorConfig
from vlm_prep.core.stored_media import StoredMedia, store_media
from vlm_prep.media.decode import load_media
from vlm_prep.processors.blank_media import Place
from vlm_prep.processors.fault_words import said
from vlm_prep.processors.video_sampling import frames_by_rule, keyframes_of


def choose_frames(
    video_processor: Any,
    media: Media,
    header: MediaHeader,
    kwargs: Mapping[str, Any],
    config: ProcessorConfig | None = None,
) -> tuple[int, ...]:
    """Return the indices of the frames that the processor will be given.

    Those that the source asks for; else those that the processor's own sampling takes; else all.

    Args:
        video_processor: the transformers video processor.
        media: the video.
        header: its header.
        kwargs: what the processor around it passes on to the video processor.
        config: its `video_sampling` may name another rule than the processor's own.

    Raises:
        Reject: bad_frame_indices; processor_error when it cannot sample this video.
    """
    total = header.total_frames or 0
    if media.frame_indices is not None:
        wrong = [index for index in media.frame_indices if not 0 <= index < total]
        if wrong or not media.frame_indices:
            raise Reject(
                RejectReason.BAD_FRAME_INDICES, f"{media.uris[0]}: frame indices {wrong[:5]} of {total} frames"
            )
        return media.frame_indices
    if config is not None and config.video_sampling != "transformers" and not media.frame_list:
        if config.video_sampling == "keyframes":
            return keyframes_of(media, header)
        return frames_by_rule(config.video_sampling, header, config, media.fps)
    # an entry's own fps on a video file is the rate to sample at, as in Qwen's data format
    rate = {"fps": media.fps, "num_frames": None} if media.fps is not None else {}
    if media.frame_list or not (video_processor.do_sample_frames or rate):
        return tuple(range(total))
    if rate:  # a number of its own would come before any rate (Gemma 4)
        video_processor = copy(video_processor)
        video_processor.num_frames = None
    try:
        picked = video_processor.sample_frames(
            metadata=video_metadata(header, header.fps, None), **{**_settings(video_processor), **kwargs, **rate}
        )
    except (ValueError, TypeError, ZeroDivisionError) as error:
        # ZeroDivisionError: Qwen2-VL's sampling of a video shorter than temporal_patch_size; TypeError: max_frames
        # without fps
        raise Reject(
            RejectReason.PROCESSOR_ERROR,
            f"{media.uris[0]}: the processor cannot sample {total} frames: {_in_words(error)}",
        ) from error
    return tuple(int(index) for index in picked)


def _in_words(error: Exception) -> str:
    if isinstance(error, ZeroDivisionError):
        return "at this rate it would take none of so few"
    return f"{said(error)} (`fps`, or num_frames in `processor_args`)"


def _settings(video_processor: Any) -> dict[str, Any]:
    """The arguments that transformers' video processors give to their sample_frames: all their settings but these."""
    taken_out = {"input_data_format", "do_convert_rgb", "do_sample_frames", "device", "video_metadata"}
    names = getattr(getattr(video_processor, "valid_kwargs", None), "__annotations__", {})
    return {name: getattr(video_processor, name, None) for name in names if name not in taken_out}


def video_metadata(
    header: MediaHeader,
    fps: float | None,
    indices: tuple[int, ...] | None,
    times: tuple[float, ...] | None = None,
) -> Any:
    """Return transformers' VideoMetadata of a video.

    Args:
        header: of the video.
        fps: its rate.
        indices: the frames that were taken.
        times: of these frames, where their rate varies: a time is an index divided by the rate, so the index that
            stands for one may be a fraction.
    """
    from transformers.video_utils import VideoMetadata

    return VideoMetadata(
        total_num_frames=header.total_frames or 0,
        fps=fps,
        height=header.height,
        width=header.width,
        duration=(header.total_frames or 0) / fps if fps else None,
        frames_indices=[time * (fps or 1.0) for time in times]
        if times is not None
        else list(indices)
        if indices is not None
        else None,
    )


def load_row(
    media: Sequence[Media],
    places: Sequence[Place],
    stored: Sequence[StoredMedia] = (),
    rate: int | None = None,
    wanted: Sequence[bool] | None = None,
) -> list[Any]:
    """Return the probed media of a row decoded, as a processor is given them; None for those that are not wanted.

    Args:
        media: with their headers.
        places: what is known of each, with the frames of videos.
        stored: structs of a shard that they were made from, where there are any.
        rate: samples a second of waveforms.
        wanted: which to decode; None for all.
    """
    found: list[Any] = []
    for number, (item, (_, _, indices, fps)) in enumerate(zip(media, places, strict=True)):
        if wanted is not None and not wanted[number]:
            found.append(None)
        else:
            struct = stored[number] if stored else store_media(item, frame_indices=indices, fps=fps)
            found.append(load_media(struct, rate=rate))
    return found
