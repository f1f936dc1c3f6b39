"""Measure updates of a tokenized store: 1 % of new rows, a row in the middle, other settings, against making it anew.

    python scripts/bench_update.py FOLDER --rows 200000 [--processor P] [--media encoded --pictures 0]

Rows are texts of a few turns; each second one has a picture of 224 x 224, one of `--pictures` or (0) of its own, made
`--picture-bytes` long. Each step is the command, with its start and its proof. Seconds are CPU seconds of all its
processes (this one adopts and reaps what a command leaves), which a machine that others use can compare; wall seconds
stand behind them.
"""

from __future__ import annotations

import argparse
import ctypes
import io
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

_PR_SET_CHILD_SUBREAPER = 36
OTHERS = {
    "a shorter limit": ("--max-length", "200"),
    "the last turn alone": ("--train-on", "last"),
    "fewer pixels": ("--max-pixels", "25088"),
}
SIDE = 224


def main() -> None:
    """Build the corpus, run the commands, and print what they took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--share", type=float, default=0.01)
    parser.add_argument("--processor", default="builtin:qwen2.5-vl-mini")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--media", default="reference")
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--picture-bytes", type=int, default=0)
    parser.add_argument("--rows-only", action="store_true", help="no other settings")
    asked = parser.parse_args()
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    new = round(asked.rows * asked.share)
    source, out, anew = (asked.folder / name for name in ("rows.jsonl", "out", "anew"))
    common = ["--processor", asked.processor, "--media", asked.media, "--workers", str(asked.workers)]
    shutil.rmtree(out, ignore_errors=True)
    lines = corpus(asked.folder, asked.rows + new, asked.pictures, asked.picture_bytes)

    def tokenize(folder: Path, *more: str) -> Cost:
        return run("tokenize", str(source), *common, "--out", str(folder), *more)

    source.write_text("".join(lines[: asked.rows]))
    whole = tokenize(out)
    size = sum(each.stat().st_size for each in (out / "train").glob("*.arrow"))
    print(f"{asked.rows:,} rows, {size / 2**20:,.0f} MiB of shards: {whole}", flush=True)
    source.write_text("".join(lines))
    told(f"{new:,} rows more", tokenize(out, "--update"), whole)
    middle = len(lines) // 2
    source.write_text("".join([*lines[:middle], lines[0], *lines[middle:]]))
    told("a row in the middle, which renames those behind it", tokenize(out, "--update"), whole)
    for name, flags in () if asked.rows_only else OTHERS.items():
        shutil.rmtree(anew, ignore_errors=True)
        whole = tokenize(anew, *flags)
        print(f"{name}, anew: {whole}", flush=True)
        shutil.rmtree(anew)
        shutil.copytree(out, anew, copy_function=os.link)
        told(name, tokenize(anew, *flags, "--update"), whole)


@dataclass(frozen=True)
class Cost:
    """What a command took."""

    cpu: float
    wall: float

    def __str__(self) -> str:
        return f"{self.cpu:.1f} s ({self.wall:.0f} s wall)"


def told(what: str, part: Cost, whole: Cost) -> None:
    """Print what an update took."""
    print(f"{what}: {part}, {part.cpu / whole.cpu:.1%} of the whole", flush=True)


def run(*words: str) -> Cost:
    """Run a command; return what it and all its processes took."""
    before, began = children(), time.perf_counter()
    line = [sys.executable, "-m", "vlm_prep", *words, "--quiet", "--max-reject-rate", "1"]
    subprocess.run(line, check=True, stdout=subprocess.DEVNULL)
    wall = time.perf_counter() - began
    while True:  # its forkserver, which ends when the command has
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return Cost(children() - before, wall)


def children() -> float:
    """Return the CPU seconds of all processes that were waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def corpus(folder: Path, rows: int, pictures: int, size: int) -> list[str]:
    """Return the lines of a data file, and make the pictures that they name where they are missing."""
    draw = random.Random(0)
    folder.mkdir(parents=True, exist_ok=True)
    words = [f"w{number}" for number in range(3000)]
    base = np.random.default_rng(0).integers(0, 256, (64, 14, 14, 3), np.uint8)
    lines = []
    for number in range(rows):
        turns = []
        for turn in range(draw.choice((1, 1, 2, 3))):
            tag = "<image>" if number % 2 and not turn else ""
            turns.append({"role": "user", "content": tag + " ".join(draw.choices(words, k=25))})
            turns.append({"role": "assistant", "content": " ".join(draw.choices(words, k=60))})
        images = []
        if number % 2:
            at = number % pictures if pictures else number
            images = [f"media-{size}/{at // 1000:04d}/{at}.jpg"]
            if not (folder / images[0]).exists():
                draw_picture(folder / images[0], at, Image.fromarray(base[at % 64]), size)
        lines.append(json.dumps({"id": number, "messages": turns, "images": images}) + "\n")
    return lines


def draw_picture(path: Path, number: int, base: Image.Image, size: int) -> None:
    """Write a picture of about 6 KB, or of more bytes behind its end, which are another picture's for no other."""
    buffer = io.BytesIO()
    base.resize((SIDE, SIDE), Image.Resampling.BILINEAR).save(buffer, "JPEG", quality=85)
    behind = np.random.default_rng(number).bytes(max(0, size - buffer.tell()))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(buffer.getvalue() + behind + number.to_bytes(8, "little"))


if __name__ == "__main__":
    main()
