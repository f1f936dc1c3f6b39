"""Media as the page shows them: small JPEGs, strips of frames with their times, waveforms with a player."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlm_prep.core.errors import Reject
from vlm_prep.media.decode import load_media, must_be_media

PICTURE_SIDE = 384
FRAME_SIDE = 176
MOST_FRAMES = 12
"""Of a strip; evenly chosen among those that were taken."""
AUDIO_RATE = 16_000
MOST_SECONDS = 30
POINTS = 240
"""Of a waveform."""


def shown_media(struct: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the page shows of an element of the `media` column.

    What cannot be shown (a file that is gone, a payload of tensors) says so in `note`.
    """
    name = str(struct["files"][0]["uri"]) if struct["files"] else ""
    found: dict[str, Any] = {"kind": struct["kind"], "name": name, "note": ""}
    if struct["height"]:
        found["size"] = [struct["width"], struct["height"]]
    if struct["tensors"] and struct["files"] and struct["files"][0]["bytes"] is None:
        found["note"] = "stored as the processor's tensors: " + ", ".join(
            f"{tensor['name']} {list(tensor['shape'])}" for tensor in struct["tensors"]
        )
        return found
    try:
        found.update(_decoded(struct))
    except Reject as reject:
        found["note"] = f"{reject.reason}: {reject.message}"
    return found


def _decoded(struct: Mapping[str, Any]) -> dict[str, Any]:
    must_be_media(struct)
    if struct["kind"] == "image":
        return {"picture": _jpeg(cast("Image.Image", load_media(struct)), PICTURE_SIDE)}
    if struct["kind"] == "audio":
        return _sound(cast("NDArray[np.float32]", load_media(struct, rate=AUDIO_RATE)))
    indices = [int(index) for index in struct["frame_indices"]]
    chosen = sorted({round(at) for at in np.linspace(0, len(indices) - 1, min(MOST_FRAMES, len(indices)))})
    shown = [indices[at] for at in chosen]
    frames = cast("NDArray[np.uint8]", load_media({**struct, "frame_indices": shown}))
    return {
        "frames": [_jpeg(Image.fromarray(frame), FRAME_SIDE) for frame in frames],
        "times": _times(shown, struct["fps"]),
        "taken": len(indices),
        "of": struct["total_frames"],
    }


def _times(indices: Sequence[int], fps: float | None) -> list[str]:
    """When each frame is shown, in seconds; its number where the rate is not known."""
    return [f"{index / fps:.2f} s" if fps else f"frame {index}" for index in indices]


def thumbnail(picture: Image.Image) -> str:
    """Return a small picture as a data URL."""
    return _jpeg(picture, FRAME_SIDE)


def _jpeg(picture: Image.Image, side: int) -> str:
    small = picture.convert("RGB")
    small.thumbnail((side, side))
    out = io.BytesIO()
    small.save(out, "JPEG", quality=80)
    return _data("image/jpeg", out.getvalue())


def _sound(wave: NDArray[np.float32]) -> dict[str, Any]:
    import soundfile

    out = io.BytesIO()
    soundfile.write(out, wave[: MOST_SECONDS * AUDIO_RATE], AUDIO_RATE, format="FLAC", subtype="PCM_16")
    edges = np.linspace(0, len(wave), POINTS + 1).astype(np.int64)
    peaks = [float(np.abs(wave[a:b]).max()) if b > a else 0.0 for a, b in pairwise(edges)]
    most = max(peaks) or 1.0
    return {
        "audio": _data("audio/flac", out.getvalue()),
        "peaks": [round(peak / most, 3) for peak in peaks],
        "seconds": round(len(wave) / AUDIO_RATE, 2),
        "played": min(MOST_SECONDS, round(len(wave) / AUDIO_RATE, 2)),
    }


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
