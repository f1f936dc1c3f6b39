"""Targets of `fuzz.py`: pictures, sound and videos that crawlers brought."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
import soundfile
from fuzz_target import target
from PIL import Image

from vlm_prep.core.errors import Reject
from vlm_prep.core.records import Media
from vlm_prep.media.audio import read_waveform
from vlm_prep.media.probe import probe
from vlm_prep.media.video import read_frames

_WAVE = (np.sin(np.arange(800) / 8) / 2).astype(np.float32)


def _twice(look: Callable[[], object]) -> None:
    """A reject is part of a store: its words must be the same each time."""
    said = []
    for _ in range(2):
        try:
            look()
            said.append("")
        except Reject as reject:
            said.append(f"{reject.reason}: {reject.message}")
    if said[0] != said[1]:
        raise AssertionError(f"two different rejects: {said}")


def pictures() -> list[bytes]:
    found = []
    for kind in ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"):
        buffer = io.BytesIO()
        Image.fromarray(np.arange(768, dtype=np.uint8).reshape(16, 16, 3)).save(buffer, kind)
        found.append(buffer.getvalue())
    return found


@target("picture", pictures)
def picture(data: bytes, folder: Path) -> None:
    """Probe and decode a picture."""
    path = folder / "picture"
    path.write_bytes(data)
    for decode in (False, True):
        _twice(lambda decode=decode: probe(Media(kind="image", uris=(str(path),)), decode=decode))  # type: ignore[misc]


def _streams(kinds: Sequence[tuple[str, str, str]], make: Callable[[Any, str, str], None]) -> Iterator[bytes]:
    """Yield a file for each (container, codec, pixel or sample format) that this FFmpeg writes."""
    for container, codec, form in kinds:
        buffer = io.BytesIO()
        try:
            with av.open(buffer, "w", format=container) as out:
                make(out, codec, form)
        except (av.FFmpegError, ValueError):
            continue
        yield buffer.getvalue()


def _write_frames(out: Any, codec: str, form: str) -> None:
    stream = out.add_stream(codec, rate=8)
    stream.width = stream.height = 32
    stream.pix_fmt = form
    for number in range(8):
        picture = np.full((32, 32, 3), number * 30, np.uint8)
        out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
    out.mux(stream.encode(None))


def _write_sound(out: Any, codec: str, form: str) -> None:
    stream = out.add_stream(codec, rate=48000, layout="mono", format=form)
    for number in range(4):
        wave = _WAVE.reshape(1, -1) if form.endswith("p") or form.startswith("flt") else None
        samples = wave if wave is not None else (_WAVE.reshape(1, -1) * 32767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format=form, layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 48000, number * len(_WAVE), Fraction(1, 48000)
        out.mux(stream.encode(frame))
    out.mux(stream.encode(None))


def _sounds() -> list[bytes]:
    found = []
    forms = (("WAV", "PCM_16"), ("WAV", "FLOAT"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", None))
    more = (("AIFF", "PCM_16"), ("AU", "PCM_16"), ("CAF", "PCM_16"), ("W64", "PCM_16"), ("WAV", "IMA_ADPCM"))
    for kind, subtype in (*forms, *more):
        buffer = io.BytesIO()
        soundfile.write(buffer, _WAVE, 8000, subtype, format=kind)
        found.append(buffer.getvalue())
    kinds = (("ipod", "aac", "fltp"), ("adts", "aac", "fltp"), ("matroska", "libopus", "flt"), ("asf", "wmav2", "fltp"))
    return [*found, *_streams(kinds, _write_sound)]


@target("sound", _sounds)
def sound(data: bytes, folder: Path) -> None:
    """Probe and decode a file of sound."""
    path = folder / "sound"
    path.write_bytes(data)
    media = Media(kind="audio", uris=(str(path),))
    for decode in (False, True):
        _twice(lambda decode=decode: probe(media, decode=decode))  # type: ignore[misc]
    wave = read_waveform(data, 16000, str(path))
    if not np.isfinite(wave).all():
        raise AssertionError("samples that are not finite")


def _animation(kind: Literal["GIF", "WEBP", "PNG"]) -> bytes:
    buffer = io.BytesIO()
    frames = [Image.new("RGB", (16, 16), (number * 60, 0, 0)) for number in range(4)]
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:], duration=100)
    return buffer.getvalue()


def _clips() -> list[bytes]:
    kinds = (
        *(("mp4", "libx264", "yuv420p"), ("mp4", "mpeg4", "yuv420p"), ("webm", "libvpx", "yuv420p")),
        *(("matroska", "mpeg4", "yuv420p"), ("avi", "mpeg4", "yuv420p"), ("mpegts", "mpeg2video", "yuv420p")),
        *(("mov", "mjpeg", "yuvj420p"), ("webm", "libvpx-vp9", "yuv420p"), ("flv", "flv1", "yuv420p")),
    )
    return [*_streams(kinds, _write_frames), *(_animation(kind) for kind in ("GIF", "WEBP", "PNG"))]


@target("clip", _clips)
def clip(data: bytes, folder: Path) -> None:
    """Probe and decode a video."""
    path = folder / "clip"
    path.write_bytes(data)
    media = Media(kind="video", uris=(str(path),))
    _twice(lambda: probe(media, decode=True, track=True))
    header = probe(media)[0].header
    if header is not None and header.total_frames:
        last = header.total_frames - 1
        _twice(lambda: read_frames(str(path), sorted({0, last // 2, last}), str(path), header.decoder))
