"""A shard's media struct → pixels: what training decodes, and what the comparison with the real processor decodes.

The struct is one element of the `media` column (`shards.schema.MEDIA`). Files behind references are checked against
their digest, so that training never reads other pixels than preparation saw.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlm_prep.core.errors import Reject, RejectReason
from vlm_prep.media.audio import Waveform, read_waveform, resampled_length
from vlm_prep.media.files import digest_ends, digest_matches, is_of_ends, local_path, read_bytes, read_ends
from vlm_prep.media.image import four_bytes, load_rgb, load_rgbx
from vlm_prep.media.track import read_track, sound_offset
from vlm_prep.media.video import read_frames

Frames = NDArray[np.uint8]


def load_media(struct: Mapping[str, Any], *, rate: int | None = None) -> Image.Image | Frames | Waveform:
    """Decode one media.

    Args:
        struct: an element of the `media` column.
        rate: samples per second of the waveform, needed for audio.

    Returns:
        An RGB picture; uint8 frames (n, height, width, 3) for a video: those of `frame_indices`; float32 (samples,)
        for audio.

    Raises:
        Reject: the file is gone, was changed since preparation, or does not decode.
    """
    must_be_media(struct)
    files = struct["files"]
    if struct["kind"] == "image":
        return _scaled(load_rgb(file_bytes(files[0]), files[0]["uri"]), struct)
    if struct["kind"] == "audio":
        if rate is None:
            raise ValueError("audio needs the rate of the model")
        wave = read_waveform(file_bytes(files[0]), rate, files[0]["uri"], _segment(struct))
        _require_length(wave, struct, rate)
        return wave
    if struct["frame_list"]:
        pictures = [np.asarray(_scaled(load_rgb(file_bytes(file), file["uri"]), struct)) for file in files]
        return np.stack([pictures[index] for index in struct["frame_indices"]])
    start, _ = _segment(struct) or (0, 0)
    indices = [start + int(index) for index in struct["frame_indices"]]
    frames = read_frames(_video_source(files[0]), indices, files[0]["uri"], struct.get("decoder"))
    if not struct.get("scaled"):
        return frames
    return np.stack([np.asarray(_scaled(Image.fromarray(frame), struct)) for frame in frames])


def must_be_media(struct: Mapping[str, Any]) -> None:
    """Make sure that a media of a store, whoever wrote it, is one that can be decoded.

    Raises:
        Reject: bad_row.
    """
    kind, files, indices = struct["kind"], struct["files"], struct.get("frame_indices")
    known = kind in ("image", "audio") or (kind == "video" and indices is not None)
    if known and indices is not None and kind == "video" and struct["frame_list"]:
        known = all(0 <= int(index) < len(files) for index in indices)
    if not known or not files:
        raise Reject(RejectReason.BAD_ROW, f"the store says of a media what none has: {kind!r}, {len(files)} files")


def _scaled(picture: Image.Image, struct: Mapping[str, Any]) -> Image.Image:
    """A picture in the size that the processor is given it in, scaled as qwen_vl_utils scales pictures."""
    if not struct.get("scaled"):
        return picture
    return picture.resize((int(struct["width"]), int(struct["height"])), Image.Resampling.BICUBIC)


def _require_length(wave: Waveform, struct: Mapping[str, Any], rate: int) -> None:
    """Reject a clip that gives another number of samples than when its tokens were counted."""
    samples, found = struct["samples"], struct["sampling_rate"]
    if samples and found and len(wave) != resampled_length(int(samples), int(found), rate):
        uri = struct["files"][0]["uri"]
        raise Reject(RejectReason.UNREADABLE_AUDIO, f"{uri}: decodes to other than its {samples} samples")


def _segment(struct: Mapping[str, Any]) -> tuple[int, int] | None:
    segment = struct.get("segment")
    return None if segment is None else (int(segment[0]), int(segment[1]))


def load_rgbx_media(struct: Mapping[str, Any], buffer: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
    """Decode a picture to uint8 (height, width, 4), see `image.load_rgbx`.

    Raises:
        Reject: the file is gone, was changed since preparation, or does not decode.
    """
    file = struct["files"][0]
    if struct.get("scaled"):
        return four_bytes(_scaled(load_rgb(file_bytes(file), file["uri"]), struct))
    return load_rgbx(file_bytes(file), file["uri"], buffer=buffer)


def load_track(struct: Mapping[str, Any], *, rate: int, shifted: bool = False) -> Waveform:
    """Decode the audio track of a video: float32 (samples,) at `rate` samples a second.

    Args:
        struct: an element of the `media` column.
        rate: the model's.
        shifted: begin where it is heard and not with its first sample, see `sound_offset` of the settings.

    Raises:
        Reject: the file is gone, was changed since preparation, or its track does not decode.
    """
    source, uri = _video_source(struct["files"][0]), struct["files"][0]["uri"]
    return read_track(source, rate, uri, offset=sound_offset(source, uri) if shifted else 0.0)


def file_bytes(file: Mapping[str, Any]) -> bytes:
    """Return the bytes of a stored media file, from the shard or, by reference, from where it lies.

    Raises:
        Reject: the file is gone or was changed since preparation.
    """
    stored = file["bytes"]
    if stored is not None:
        return bytes(stored)
    data = read_bytes(file["uri"])
    if not digest_matches(data, file["digest"]):
        raise Reject(RejectReason.MEDIA_CHANGED, f"{file['uri']} was changed after it was tokenized")
    return data


def _video_source(file: Mapping[str, Any]) -> str | bytes:
    """The path where that is enough (decord then reads only what it needs), else the bytes."""
    if file["bytes"] is not None or local_path(file["uri"]) is None:
        return file_bytes(file)
    uri, digest = str(file["uri"]), file["digest"]
    same = digest_ends(read_ends(uri)) == digest if is_of_ends(digest) else digest_matches(read_bytes(uri), digest)
    if not same:
        raise Reject(RejectReason.MEDIA_CHANGED, f"{uri} was changed after it was tokenized")
    return uri
