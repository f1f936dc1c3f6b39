"""A video's header and frames by FFmpeg (PyAV), numbered in the order in which they are shown.

The packets say how many frames there are and when each is shown, without one being decoded but the first (for how the
video is turned, which its header alone does not tell). Reading decodes from the key frame before what is wanted where
that is nearer, leaves out frames that no other needs and nobody wants, and takes a frame by its time stamp, so that it
is the one that decoding in order gives. Where packets do not tell (no time stamps, no key frame first), all frames are
decoded and counted.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlm_prep.core.errors import Reject, RejectReason
from vlm_prep.core.records import MediaHeader
from vlm_prep.media.ffmpeg import load_av, open_container

Frame = NDArray[np.uint8]
_SEEKABLE = ("mov", "matroska")
"""Containers that say which frames can be decoded without those before them."""
_PACKED = ("mpeg4", "msmpeg4v3", "msmpeg4v2")
"""Codecs that may put several frames into a packet of AVI."""
_SKIPS = ("h264", "hevc")
_OTHER_SIZES = "its frames change their size"
_WORTH_A_SEEK = 12
"""Frames that are left out by going to a key frame, where that is cheaper than decoding them."""


@dataclass(frozen=True, slots=True)
class _Index:
    """What the packets of a video say of its frames."""

    stamps: tuple[int, ...]
    """Of each frame in the order in which they are shown, in units of the stream."""
    keys: tuple[int, ...]
    """Stamps of the key frames."""
    by_stamp: bool
    """Whether stamps tell frames; else they are counted as they are decoded."""
    counted: bool = True
    """Whether there are as many frames as stamps."""
    seekable: bool = False
    """Whether decoding may start at a key frame."""
    end: int = 0
    """Stamp at which the last frame is no longer shown, as far as packets tell."""


def probe_by_pyav(source: str | bytes, uri: str, *, decode: bool = False) -> MediaHeader:
    """Return height and width in pixels as shown, frames, their rate, and their times where the rate varies.

    The rate is that of the container where frames are shown evenly by it, else frames by seconds, as torchcodec (the
    reader of transformers' processors) has it: what a container states of a rate that varies was 15 % off.

    Args:
        source: path or content of the file.
        uri: for messages.
        decode: decode all frames, to find damage between them.

    Raises:
        Reject: unreadable_video.
    """
    with _open(source, uri) as (container, stream):
        index = _index(container, stream, uri)
        rate = stream.average_rate or stream.guessed_rate
        unit = stream.time_base
        frame = _first_again(container, stream, index)
    if frame is None:
        with _open(source, uri) as (container, stream):
            frame = next(container.decode(stream), None)
    if frame is None:
        raise _unreadable(uri, "no frames")
    height, width = _upright(frame, frame.height, frame.width)
    if index.by_stamp and (frame.pts != index.stamps[0]):
        index = _Index(index.stamps, (), False, counted=False)
    stamps = index.stamps
    if decode or not index.counted:
        stamps = _decoded_stamps(source, uri)
        wrong = stamps != index.stamps if index.by_stamp else len(stamps) != len(index.stamps)
        if index.counted and wrong:
            raise _unreadable(uri, f"damaged: {len(stamps)} of {len(index.stamps)} frames decode in their order")
    if not stamps:
        raise _unreadable(uri, "no frames")
    times = None if None in stamps or not index.by_stamp else [float((stamp - stamps[0]) * unit) for stamp in stamps]
    fps = float(rate) if rate else _mean_rate(times)
    if times is not None and not _is_even(times, fps):
        length = float((index.end - stamps[0]) * unit)
        fps = len(times) / length if length > times[-1] else fps
    if not 0 < fps < np.inf:
        raise _unreadable(uri, f"frame rate {fps:g}")
    return MediaHeader(
        height=height,
        width=width,
        total_frames=len(stamps),
        fps=fps,
        times=None if times is None or _is_even(times, fps) else tuple(times),
        mirrored=_is_mirrored(frame),
        decoder="pyav",
    )


def _first_again(container: Any, stream: Any, index: _Index) -> Any:
    """Return the first frame of a file whose packets were read, where it leads back to it; opening it once more takes
    longer than that."""
    if not index.seekable:
        return None
    container.seek(index.stamps[0], stream=stream, backward=True, any_frame=False)
    frame = next(container.decode(stream), None)
    return frame if frame is not None and frame.pts == index.stamps[0] else None


def read_by_pyav(source: str | bytes, indices: Sequence[int], uri: str) -> Frame:
    """Return the frames at `indices` as uint8 (n, height, width, 3), RGB, upright.

    Raises:
        Reject: unreadable_video.
    """
    with _open(source, uri) as (container, stream):
        index = _index(container, stream, uri)
    frames: dict[int, Frame] = {}
    if index.by_stamp:
        if max(indices, default=0) >= len(index.stamps):
            raise _unreadable(uri, f"{len(index.stamps)} frames, {max(indices) + 1} when it was prepared")
        frames = _by_stamp(source, uri, index, sorted(set(indices)))
    if len(frames) < len(set(indices)):
        frames = _in_order(source, uri, set(indices))
    if missing := set(indices) - frames.keys():
        raise _unreadable(uri, f"frame {min(missing)} does not decode")
    made = [frames[index] for index in indices]
    if len({frame.shape for frame in made}) > 1:
        raise _unreadable(uri, _OTHER_SIZES)
    return np.stack(made)


def keyframes(source: str | bytes, uri: str) -> tuple[int, ...]:
    """Return the numbers of a video's key frames, the first frame among them.

    Raises:
        Reject: unreadable_video, also where the file does not tell them.
    """
    with _open(source, uri) as (container, stream):
        index = _index(container, stream, uri)
    if not index.by_stamp:
        raise _unreadable(uri, "the file does not tell its key frames")
    return tuple(bisect_left(index.stamps, key) for key in index.keys)


def _by_stamp(source: str | bytes, uri: str, index: _Index, wanted: Sequence[int]) -> dict[int, Frame]:
    """Decode what is wanted and little else; what does not come out as it should is left to decoding in order."""
    numbers = {index.stamps[number]: number for number in wanted}
    found: dict[int, Frame] = {}
    with _open(source, uri) as (container, stream):
        for start, last in _runs(index, wanted):
            if start is not None:
                container.seek(start, stream=stream, backward=True, any_frame=False)
            for frame in _needed(container, stream, numbers):
                if frame.pts in numbers and not frame.is_corrupt:
                    found[numbers[frame.pts]] = _pixels(frame)
                if frame.pts is None or frame.pts >= last:
                    break
    return found


def _needed(container: Any, stream: Any, wanted: Container[int]) -> Iterator[Any]:
    """Decode from where the file is, without the frames that no other needs and that are not wanted."""
    context = stream.codec_context
    skips = context.name in _SKIPS
    for packet in container.demux(stream):
        if skips:
            context.skip_frame = "NONREF" if packet.size and packet.pts not in wanted else "DEFAULT"
        yield from packet.decode()


def _runs(index: _Index, wanted: Sequence[int]) -> list[tuple[int | None, int]]:
    """Return (stamp of the key frame to begin at or None to read on, stamp of the last frame) of each stretch."""
    runs: list[tuple[int | None, int]] = []
    place = -1
    for number in wanted:
        stamp = index.stamps[number]
        before = bisect_right(index.keys, stamp) - 1
        key = index.keys[before] if before >= 0 and index.seekable else None
        far = key is not None and bisect_left(index.stamps, key) - place > _WORTH_A_SEEK
        if far or not runs:
            runs.append((key if far else None, stamp))
        else:
            runs[-1] = (runs[-1][0], stamp)
        place = number
    return runs


def _in_order(source: str | bytes, uri: str, wanted: set[int]) -> dict[int, Frame]:
    found: dict[int, Frame] = {}
    with _open(source, uri) as (container, stream):
        for number, frame in enumerate(container.decode(stream)):
            if number in wanted and not frame.is_corrupt:
                found[number] = _pixels(frame)
            if len(found) == len(wanted):
                break
    return found


def _decoded_stamps(source: str | bytes, uri: str) -> tuple[Any, ...]:
    """Decode all frames; return their stamps, None for those without."""
    stamps: list[Any] = []
    size = None
    with _open(source, uri) as (container, stream):
        for frame in container.decode(stream):
            if frame.is_corrupt:
                raise _unreadable(uri, f"frame {len(stamps)} is damaged")
            found = _upright(frame, frame.height, frame.width)
            if found != (size := size or found):
                raise _unreadable(uri, _OTHER_SIZES)
            stamps.append(frame.pts)
    return tuple(stamps)


@contextmanager
def _open(source: str | bytes, uri: str) -> Iterator[tuple[Any, Any]]:
    """Give a file and its video; one thread, as each worker has a processor of its own."""
    with open_container(source, uri, RejectReason.UNREADABLE_VIDEO) as container:
        stream = container.streams.best("video")
        if stream is not None and _is_cover(stream):
            stream = next((each for each in container.streams.video if not _is_cover(each)), None)
        if stream is None:
            kinds = ", ".join(sorted({each.type for each in container.streams})) or "nothing"
            raise _unreadable(uri, f"there is no video in it, only {kinds}")
        if stream.codec_context is None:
            raise _unreadable(uri, "there is no decoder for its video")
        stream.thread_type = "NONE"
        stream.codec_context.thread_count = 1
        yield container, stream


def _is_cover(stream: Any) -> bool:
    """Whether a stream is the one picture that stands for a file of sound."""
    return bool(stream.disposition & load_av().stream.Disposition.attached_pic)


def _index(container: Any, stream: Any, uri: str) -> _Index:
    packets = [packet for packet in container.demux(stream) if packet.size]
    size = container.size
    if stream.frames > len(packets):
        # an AVI may say of a frame that the one before stays; when the others are shown is not kept then
        why = "cut short or with frames left out" if container.format.name == "avi" else "cut short"
        stated = f" of the {stream.frames} its header states" if stream.frames else ", of which one is not whole"
        raise _unreadable(uri, f"{why}: {len(packets)} frames{stated}")
    if not packets:
        raise _unreadable(uri, "no frames")
    if any(packet.is_corrupt or _ends(packet) > size for packet in packets):
        raise _unreadable(uri, f"cut short or damaged: not all bytes of its {len(packets)} frames are there")
    hidden = stream.codec_context.name == "vp8"
    shown = [packet for packet in packets if not packet.is_discard and not (hidden and _is_hidden(packet))]
    stamps = [packet.pts for packet in shown]
    whole = bool(stamps) and None not in stamps and len(set(stamps)) == len(stamps)
    if not whole or not packets[0].is_keyframe or (min(stamps) != stamps[0]):
        return _Index((), (), False, counted=False)
    if container.format.name == "avi":
        # it numbers frames as they are decoded, and not as they are shown
        packed = stream.codec_context.name in _PACKED
        return _Index(() if packed else tuple(range(len(stamps))), (), False, counted=not packed)
    keys = tuple(sorted(packet.pts for packet in shown if packet.is_keyframe))
    seekable = any(name in _SEEKABLE for name in container.format.name.split(","))
    end = max(packet.pts + (packet.duration or 0) for packet in shown)
    return _Index(tuple(sorted(stamps)), keys, True, seekable=seekable, end=end)


def _ends(packet: Any) -> int:
    position: int | None = packet.pos
    size: int = packet.size
    return 0 if position is None or position < 0 else position + size


def _is_hidden(packet: Any) -> bool:
    """Whether a packet of VP8 holds a frame that is only for others to refer to (RFC 6386, 9.1: show_frame)."""
    first: int = bytes(packet)[0]
    return not first & 0x10


def _pixels(frame: Any) -> Frame:
    pixels: Frame = frame.to_ndarray(format="rgb24")
    turns = _turns(frame)
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels


def _turns(frame: Any) -> int:
    """Quarter turns to the left that make a frame upright, as the file's display matrix says."""
    turns: int = round(frame.rotation / 90)
    return turns % 4


def _is_mirrored(frame: Any) -> bool:
    """Whether the display matrix mirrors what is shown. FFmpeg tells a turn of it alone, and that is what torchcodec
    applies, so of a mirrored video transformers' processors are given frames that are turned at most."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return False
    a, b, _, c, d = (float(each) for each in np.frombuffer(bytes(matrix), np.int32)[:5])
    return a * d < b * c


def _upright(frame: Any, height: int, width: int) -> tuple[int, int]:
    return (width, height) if _turns(frame) % 2 else (height, width)


def _is_even(times: Sequence[float], fps: float) -> bool:
    """Whether each frame is shown within half a frame of where the rate has it."""
    return all(abs(time - number / fps) <= 0.5 / fps for number, time in enumerate(times))


def _mean_rate(times: Sequence[float] | None) -> float:
    return (len(times) - 1) / (times[-1] - times[0]) if times and times[-1] > times[0] else 0.0


def _unreadable(uri: str, message: str) -> Reject:
    return Reject(RejectReason.UNREADABLE_VIDEO, f"{uri}: {message}")
