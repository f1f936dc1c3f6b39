"""A media as a shard holds it, made of a probed media and made back into one.

It is a mapping with the keys of `shards.schema.MEDIA`, one element of a row's `media` column, from tokenizing on:
what is written is a dict, what is read a view of the shard.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vlm_prep.core.records import Media, MediaHeader, MediaKind

StoredMedia = Mapping[str, Any]


def stored_media(
    *,
    kind: MediaKind,
    uris: Sequence[str],
    digests: Sequence[str],
    data: Sequence[bytes] | None = None,
    height: int = 0,
    width: int = 0,
    frame_list: bool = False,
    frame_indices: Sequence[int] | None = None,
    fps: float | None = None,
    total_frames: int | None = None,
    samples: int | None = None,
    sampling_rate: int | None = None,
    segment: tuple[int, int] | None = None,
    times: Sequence[float] | None = None,
    decoder: str | None = None,
    tensors: Sequence[Mapping[str, Any]] | None = None,
    scaled: bool = False,
) -> dict[str, Any]:
    """Return a media as a shard holds it: what the runtime needs to make the processor's pixels again.

    Args:
        kind: as the others that are not named here, of `Media` and `MediaHeader`.
        uris: of its files.
        digests: of their contents.
        data: the files' own bytes (payload `encoded`), or None (payload `reference`).
        height: in pixels.
        width: in pixels.
        frame_list: whether `uris` are the frames of a video.
        frame_indices: the frames taken from a video, frozen, of the part that is meant; for a frame list 0..n-1.
        fps: the rate of its timestamps.
        total_frames: of a video.
        samples: of audio.
        sampling_rate: of audio.
        segment: the part of the file that is meant.
        times: seconds of the frames that were taken, where the processor is given them and not a rate.
        decoder: what a video file's frames are read with.
        tensors: what payload `pixels` stores of it, see `maker.PayloadMaker`; None in the other payloads.
        scaled: whether its pictures are scaled to height and width before the processor is given them.
    """
    contents = data if data is not None else (None,) * len(uris)
    return {
        "kind": kind,
        "files": [
            {"uri": uri, "digest": digest, "bytes": content}
            for uri, digest, content in zip(uris, digests, contents, strict=True)
        ],
        "height": height,
        "width": width,
        "frame_list": frame_list,
        "frame_indices": list(frame_indices) if frame_indices is not None else None,
        "fps": fps,
        "total_frames": total_frames,
        "samples": samples,
        "sampling_rate": sampling_rate,
        "tensors": tensors,
        "same_as": None,
        "segment": list(segment) if segment is not None else None,
        "times": list(times) if times is not None else None,
        "decoder": decoder,
        "scaled": scaled or None,
    }


def store_media(
    media: Media,
    data: Sequence[bytes] | None = None,
    *,
    frame_indices: Sequence[int] | None = None,
    fps: float | None = None,
    times: Sequence[float] | None = None,
) -> dict[str, Any]:
    """Return a probed media as a shard holds it, see `stored_media`.

    Raises:
        ValueError: it has no header.
    """
    header = media.header
    if header is None:
        raise ValueError("only probed media are stored")
    return stored_media(
        kind=media.kind,
        uris=media.uris,
        digests=header.digests,
        data=data,
        height=header.height,
        width=header.width,
        frame_list=media.frame_list,
        frame_indices=frame_indices,
        fps=fps,
        total_frames=header.total_frames,
        samples=header.samples,
        sampling_rate=header.sampling_rate,
        segment=header.segment,
        times=times,
        decoder=header.decoder,
        scaled=header.own_size is not None,
    )


def without_files(stored: StoredMedia, tensors: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return a stored media with tensors in the place of its files' bytes."""
    return {**stored, "files": [{**file, "bytes": None} for file in stored["files"]], "tensors": tensors}


def probed_media(stored: StoredMedia) -> Media:
    """Return the probed media that a stored one was made from, as far as a processor is told of it."""
    fps, indices = stored["fps"], stored["frame_indices"]
    header = MediaHeader(
        height=stored["height"],
        width=stored["width"],
        total_frames=stored["total_frames"],
        fps=fps,
        times=_all_times(stored),
        samples=stored["samples"],
        sampling_rate=stored["sampling_rate"],
    )
    return Media(
        kind=stored["kind"],
        uris=tuple(file["uri"] for file in stored["files"]),
        frame_list=stored["frame_list"],
        frame_indices=tuple(np.asarray(indices).tolist()) if indices is not None else None,
        fps=fps,
        header=header,
    )


def _all_times(stored: StoredMedia) -> tuple[float, ...] | None:
    """The times of a video's frames; of those that were not taken nothing is known, nor asked."""
    if stored.get("times") is None:
        return None
    found = dict(zip(stored["frame_indices"], stored["times"], strict=True))
    return tuple(float(found.get(number, 0.0)) for number in range(stored["total_frames"]))
