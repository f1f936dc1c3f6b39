"""Reading videos against what a user would read them with: headers, two frames a second, a few frames of a long file.

Per CPU second of this process, in turns of the readers, so that a machine that others use slows all of them. The film
is H.264, 720p, 30 frames a second, with a key frame every five seconds: `--seconds` of moving photographs, encoded once
and repeated to `--minutes` by copying packets. Frames are compared, value by value, with decord's decoded in order from
the start.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np
from PIL import Image

from vlm_prep.builtin import builtin_data
from vlm_prep.core.records import Media
from vlm_prep.media.decode import load_media
from vlm_prep.media.probe import probe

OUT = Path("out/bench/video")
SIZE = (1280, 720)
RATE, KEYS = 30, 150
FEW = 32
PROBES = 20


def main() -> None:
    """Make the film, measure, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=20, help="of film that is encoded")
    parser.add_argument("--minutes", type=float, default=10.0, help="of the film that is read")
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    path = _film(arguments.seconds, round(arguments.minutes * 60 / arguments.seconds))
    total = int(arguments.minutes * 60 * RATE)
    print(f"{path.name}: {path.stat().st_size >> 20} MiB, {total:,} frames; load {os.getloadavg()[0]:.1f}")
    readers: dict[str, Callable[[Path, Sequence[int]], Any]] = {
        "ours": _ours,
        "decord, in order": _decord_in_order,
        "decord, get_batch": _decord_batch,
        "PyAV, in order": _pyav_in_order,
    }
    _headers(path, arguments.repeat)
    minute = range(0, min(total, 60 * RATE), RATE // 2)
    few = [int(place) for place in np.linspace(0, total - 1, FEW)]
    for name, wanted in ((f"2 frames/s of {len(minute) // 2} s", minute), (f"{FEW} frames of all", few)):
        times: dict[str, list[float]] = {reader: [] for reader in readers}
        frames: dict[str, Any] = {}
        for _ in range(arguments.repeat):
            for reader, read in readers.items():
                start = time.process_time()
                frames[reader] = read(path, list(wanted))
                times[reader].append(time.process_time() - start)
        print(f"{name}:")
        plain = statistics.median(times["decord, in order"])
        for reader, seconds in times.items():
            middle = statistics.median(seconds)
            same = np.array_equal(frames[reader], frames["decord, in order"])
            hour = f", an hour in {middle * 3600 / 60:.0f} s" if wanted is minute else ""
            print(
                f"  {reader:<20} {middle:7.2f} s of CPU ({min(seconds):.2f}-{max(seconds):.2f}), "
                f"{plain / middle:.1f}x decord in order{hour}; frames {'equal' if same else 'NOT equal'}",
                flush=True,
            )


def _film(seconds: int, times: int) -> Path:
    """Return a film of photographs under a moving window, encoded once and repeated."""
    path = OUT / f"film-{seconds}x{times}.mp4"
    if path.exists():
        return path
    try:
        import av
    except ImportError:
        sys.exit("the film is encoded with PyAV: pip install av")
    OUT.mkdir(parents=True, exist_ok=True)
    photos = sorted((builtin_data().parent / "photos").glob("*.jpg"))
    wide = [np.asarray(Image.open(photo).convert("RGB").resize((SIZE[0] * 2, SIZE[1] * 2))) for photo in photos]
    once = OUT / f"once-{seconds}.mp4"
    with av.open(str(once), "w") as file:
        stream: Any = file.add_stream("libx264", rate=RATE, options={"g": str(KEYS), "bf": "2", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for number in range(seconds * RATE):
            photo, at = wide[number // KEYS % len(wide)], number % KEYS * 4
            window = np.ascontiguousarray(photo[at : at + SIZE[1], at * 2 : at * 2 + SIZE[0]])
            file.mux(stream.encode(av.VideoFrame.from_ndarray(window, format="rgb24")))
        file.mux(stream.encode())
    with av.open(str(path), "w") as file:
        copied: Any = None
        for number in range(times):
            with av.open(str(once)) as source:
                found = source.streams.video[0]
                copied = copied or file.add_stream_from_template(found)
                shift = int(Fraction(number * seconds) / Fraction(found.time_base or 1))
                for packet in source.demux(found):
                    if packet.dts is not None and packet.pts is not None:
                        packet.dts, packet.pts, packet.stream = packet.dts + shift, packet.pts + shift, copied
                        file.mux(packet)
    return path


def _headers(path: Path, repeat: int) -> None:
    import decord

    media = Media(kind="video", uris=(str(path),))
    for name, read in (
        ("ours (probe)", lambda: probe(media)),
        ("decord, opened", lambda: len(decord.VideoReader(str(path), num_threads=1))),
    ):
        seconds = []
        for _ in range(repeat):
            start = time.process_time()
            for _ in range(PROBES):
                read()
            seconds.append((time.process_time() - start) / PROBES)
        print(f"header, {name:<20} {statistics.median(seconds) * 1e3:.2f} ms of CPU a file")


def _ours(path: Path, wanted: Sequence[int]) -> Any:
    media, _ = probe(Media(kind="video", uris=(str(path),)))
    digests = media.header.digests if media.header else ()
    files = [{"uri": str(path), "digest": digests[0], "bytes": None}]
    return load_media({"kind": "video", "files": files, "frame_list": False, "frame_indices": list(wanted)})


def _decord_in_order(path: Path, wanted: Sequence[int]) -> Any:
    import decord

    reader, chosen, frames = decord.VideoReader(str(path), num_threads=1), set(wanted), []
    for number in range(max(chosen) + 1):
        frame = reader.next()
        if number in chosen:
            frames.append(frame.asnumpy())
    return np.stack(frames)


def _decord_batch(path: Path, wanted: Sequence[int]) -> Any:
    import decord

    return decord.VideoReader(str(path), num_threads=1).get_batch(list(wanted)).asnumpy()


def _pyav_in_order(path: Path, wanted: Sequence[int]) -> Any:
    import av

    chosen, frames = set(wanted), []
    with av.open(str(path)) as file:
        file.streams.video[0].thread_count = 1
        for number, frame in enumerate(file.decode(video=0)):
            if number in chosen:
                frames.append(frame.to_ndarray(format="rgb24"))
            if number == max(chosen):
                break
    return np.stack(frames)


if __name__ == "__main__":
    main()
