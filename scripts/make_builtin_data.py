"""Make the media of the built-in demo data and check the conversations that refer to them.

The demo data exist so that every command can be tried right after installation, without a download.
The conversations (``photo_talk.jsonl``, ``tool_talk.json``, ``parts_talk.jsonl``) and ``meta.json`` are
written by hand; this script makes only what a text editor cannot:

* ``photos/*.jpg``: photographs that ship with scikit-image (public domain or CC0, see ``LICENSES.md``),
  re-encoded as JPEG at their own size. ``coffee.jpg`` is stored sideways with an EXIF orientation tag, as a
  phone would store it, so that a reader that ignores the tag is caught. ``cameraman.jpg`` has one channel.
* ``clips/ball.mp4``: four seconds of a rolling ball with a counter, drawn here and encoded as H.264.

Run ``python scripts/make_builtin_data.py`` with scikit-image installed. The drawing is exact; the bytes of
JPEG and H.264 files depend on the versions of the encoders, hence may differ between machines.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import skimage
from PIL import Image, ImageDraw

DATA = Path(__file__).resolve().parent.parent / "vlm_prep" / "builtin" / "data"
SKIMAGE_DATA = Path(skimage.__file__).resolve().parent / "data"
PHOTOS = {
    "astronaut.jpg": "astronaut.png",
    "cameraman.jpg": "camera.png",
    "chelsea.jpg": "chelsea.png",
    "coffee.jpg": "coffee.png",
    "rocket.jpg": "rocket.jpg",
}
SIDEWAYS = "coffee.jpg"
JPEG_QUALITY = 90
EXIF_ORIENTATION = 0x0112
TURN_CLOCKWISE = 6  # the EXIF value for "turn by 90 degrees clockwise to show"

CLIP_WIDTH, CLIP_HEIGHT = 224, 168
CLIP_FPS, CLIP_SECONDS = 10, 4
FLOOR_TOP, RADIUS, MARGIN = 132, 18, 8
PAPER, FLOOR, INK = (236, 236, 230), (70, 150, 80), (30, 30, 30)
RED, BLUE = (210, 40, 40), (40, 70, 200)
# The segments that are lit for each digit of a seven-segment display, as (x0, y0, x1, y1) on a 14 x 24 grid.
# Drawn as rectangles because the outlines of a font change with the version of the font renderer.
SEGMENTS = {
    "a": (0, 0, 13, 3),
    "b": (10, 0, 13, 12),
    "c": (10, 11, 13, 23),
    "d": (0, 20, 13, 23),
    "e": (0, 11, 3, 23),
    "f": (0, 0, 3, 12),
    "g": (0, 10, 13, 13),
}
DIGITS = {0: "abcdef", 1: "bc", 2: "abged", 3: "abgcd"}


def make_photo(source: Path, target: Path) -> None:
    """Re-encode one photograph without its metadata; lay the ``SIDEWAYS`` one on its side and tag it."""
    with Image.open(source) as opened:
        pixels = np.asarray(opened)
    picture = Image.fromarray(pixels)
    exif = Image.Exif()
    if target.name == SIDEWAYS:
        picture = picture.transpose(Image.Transpose.ROTATE_90)
        exif[EXIF_ORIENTATION] = TURN_CLOCKWISE
    picture.save(target, quality=JPEG_QUALITY, optimize=True, exif=exif)


def draw_frame(index: int) -> Image.Image:
    """Frame ``index`` of the clip: red ball to the right in the first half, blue ball back in the second."""
    frame = Image.new("RGB", (CLIP_WIDTH, CLIP_HEIGHT), PAPER)
    draw = ImageDraw.Draw(frame)
    draw.rectangle((0, FLOOR_TOP, CLIP_WIDTH, CLIP_HEIGHT), fill=FLOOR)
    half = CLIP_FPS * CLIP_SECONDS // 2
    way_back = index >= half
    step = index - half if way_back else index
    left, right = MARGIN + RADIUS, CLIP_WIDTH - MARGIN - RADIUS
    travelled = (right - left) * step // (half - 1)
    x = right - travelled if way_back else left + travelled
    y = FLOOR_TOP - RADIUS
    draw.ellipse((x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS), fill=BLUE if way_back else RED)
    for name in DIGITS[index // CLIP_FPS]:
        x0, y0, x1, y1 = SEGMENTS[name]
        draw.rectangle((10 + x0, 10 + y0, 10 + x1, 10 + y1), fill=INK)
    return frame


def make_clip(target: Path) -> None:
    """Encode the frames; one thread and bit-exact flags, so that equal encoders give equal bytes."""
    with av.open(str(target), "w", options={"fflags": "+bitexact", "movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=CLIP_FPS)
        stream.width, stream.height, stream.pix_fmt = CLIP_WIDTH, CLIP_HEIGHT, "yuv420p"
        stream.options = {"crf": "20", "preset": "slow", "threads": "1", "flags": "+bitexact"}
        for index in range(CLIP_FPS * CLIP_SECONDS):
            frame = av.VideoFrame.from_ndarray(np.asarray(draw_frame(index)), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a ``.json`` array or of a ``.jsonl`` file."""
    text = path.read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else json.loads(text)
    return list(rows)


def media_of(row: dict[str, Any]) -> Iterator[str]:
    """Every photo or clip that a row names, in its columns or in the parts of its messages."""
    yield from row.get("images", [])
    yield from row.get("videos", [])
    for message in row.get("messages", []):
        if not isinstance(message["content"], str):
            for part in message["content"]:
                yield from (part[key] for key in ("image", "video") if key in part)


def check_conversations() -> int:
    """Count the conversations; raise when one names a missing file or miscounts its markers."""
    meta: dict[str, dict[str, Any]] = json.loads((DATA / "meta.json").read_text(encoding="utf-8"))
    total = 0
    for name, entry in meta.items():
        for number, row in enumerate(read_rows(DATA / entry["file_name"])):
            missing = [medium for medium in media_of(row) if not (DATA / medium).is_file()]
            if missing:
                raise FileNotFoundError(f"{name}, row {number}: no such file {missing}")
            for marker, column in (("<image>", "images"), ("<video>", "videos")):
                texts = [m["content"] for m in row.get("messages", []) if isinstance(m["content"], str)]
                if sum(text.count(marker) for text in texts) != len(row.get(column, [])):
                    raise ValueError(f"{name}, row {number}: {marker} and {column!r} differ in number")
            total += 1
    return total


def main() -> None:
    """Make every file, then check the conversations against them."""
    for folder in ("photos", "clips"):
        (DATA / folder).mkdir(parents=True, exist_ok=True)
    for target, source in PHOTOS.items():
        make_photo(SKIMAGE_DATA / source, DATA / "photos" / target)
    make_clip(DATA / "clips" / "ball.mp4")
    for path in sorted(DATA.glob("*/*")):
        print(f"{path.relative_to(DATA)}: {path.stat().st_size} bytes")
    print(f"{check_conversations()} conversations")


if __name__ == "__main__":
    main()
