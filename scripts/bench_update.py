"""Measure an update of a tokenized store: 1 % of new rows against the run that makes the whole store.

    python scripts/bench_update.py FOLDER --rows 200000 [--processor P]

Rows are texts of a few turns; each second one has a picture of its own (224 x 224, about 6 KB). Times are as the
command takes them, workers, start of processes and the proof included; with --workers 0 they are CPU seconds.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.engine.run_options import RunOptions
from vlm_prep.ingest.source import open_samples
from vlm_prep.shards.reader import Store
from vlm_prep.tokenize.tokenize_run import tokenize
from vlm_prep.tokenize.update_run import update


def main() -> None:
    """Build the corpus, time the whole and the update, and print both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--share", type=float, default=0.01)
    parser.add_argument("--processor", default="builtin:qwen2.5-vl-mini")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--media", default="encoded")
    asked = parser.parse_args()
    settings = TokenizeConfig(media=asked.media)
    clock.append(time.perf_counter if asked.workers else time.process_time)
    new = round(asked.rows * asked.share)
    source, out = asked.folder / "rows.jsonl", asked.folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    lines = corpus(asked.folder, asked.rows + new)
    source.write_text("".join(lines[: asked.rows]))
    run = RunOptions(out=out, workers=asked.workers, progress=False, max_reject_rate=1.0)
    whole = timed(lambda: tokenize(open_samples(source), asked.processor, settings, run))
    source.write_text("".join(lines))
    part = timed(lambda: update(open_samples(source), asked.processor, settings, run))
    print(f"{asked.rows:,} rows: {whole:.1f} s; {new:,} more: {part:.1f} s, {part / whole:.1%} of the whole")
    middle = len(lines) // 2
    source.write_text("".join([*lines[:middle], lines[0], *lines[middle:]]))
    part = timed(lambda: update(open_samples(source), asked.processor, settings, run))
    print(f"one row in the middle, whose followers get other sample_ids: {part:.1f} s, {part / whole:.1%}")
    print(f"{len(Store(out)):,} rows in the store")
    for name, change in OTHERS.items():
        config = replace(settings, **change)
        shutil.rmtree(asked.folder / "anew", ignore_errors=True)
        anew = replace(run, out=asked.folder / "anew")
        whole = timed(lambda: tokenize(open_samples(source), asked.processor, config, anew))  # noqa: B023
        shutil.rmtree(asked.folder / "copy", ignore_errors=True)
        shutil.copytree(out, asked.folder / "copy", copy_function=os.link)
        copy = replace(run, out=asked.folder / "copy")
        part = timed(lambda: update(open_samples(source), asked.processor, config, copy))  # noqa: B023
        print(f"{name}: {whole:.1f} s anew, {part:.1f} s by update, {part / whole:.1%}")


OTHERS: dict[str, dict[str, Any]] = {
    "a shorter limit": {"max_length": 2000},
    "the last turn alone": {"train_on": "last"},
    "fewer pixels": {"max_pixels": 100_352},
}


def timed(work: Callable[[], object]) -> float:
    """Return the seconds that a call takes; without workers, CPU seconds."""
    began = clock[0]()
    work()
    return clock[0]() - began


clock: list[Callable[[], float]] = []


def corpus(folder: Path, rows: int) -> list[str]:
    """Return the lines of a data file, and make the pictures that they name where they are missing."""
    draw = random.Random(0)
    (folder / "media").mkdir(parents=True, exist_ok=True)
    words = [f"w{number}" for number in range(3000)]
    base = np.random.default_rng(0).integers(0, 256, (64, 14, 14, 3), np.uint8)
    lines = []
    for number in range(rows):
        turns = []
        for turn in range(draw.choice((1, 1, 2, 3))):
            tag = "<image>" if number % 2 and not turn else ""
            turns.append({"role": "user", "content": tag + " ".join(draw.choices(words, k=25))})
            turns.append({"role": "assistant", "content": " ".join(draw.choices(words, k=60))})
        images = [f"media/{number // 1000:04d}/{number}.jpg"] if number % 2 else []
        for name in images:
            path = folder / name
            if not path.exists():
                path.parent.mkdir(exist_ok=True)
                buffer = io.BytesIO()
                picture = Image.fromarray(base[number % 64]).resize((224, 224), Image.Resampling.BILINEAR)
                picture.save(buffer, "JPEG", quality=85)
                path.write_bytes(buffer.getvalue() + number.to_bytes(8, "little"))
        lines.append(json.dumps({"id": number, "messages": turns, "images": images}) + "\n")
    return lines


if __name__ == "__main__":
    main()
