"""Rows a second and core that ingest reads of each kind of source, beside plain `datasets` over the same rows.

    python scripts/bench_sources.py FOLDER [--rows 20000]

FOLDER takes the made files. One process, CPU time: reading, mapping and checking rows, no media file is opened.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from vlm_prep.ingest.source import open_samples

ANSWER = "A cup of coffee on a wooden table, seen from above, with a spoon beside it. " * 4
CHAT = [{"from": "human", "value": "<image>\nWhat is this?"}, {"from": "gpt", "value": ANSWER}]
TURNS = ["user=<image>What is this?", "assistant={text}"]


def rows_of(count: int) -> Iterator[dict[str, Any]]:
    for number in range(count):
        yield {"id": str(number), "image": f"pictures/{number}.jpg", "conversations": CHAT, "text": ANSWER}


def made(folder: Path, count: int) -> dict[str, tuple[str, dict[str, Any]]]:
    """Write each kind of source; return its address and options."""
    os.environ["VLM_PREP_CACHE"] = str(folder / "cache")
    with open(folder / "rows.jsonl", "w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows_of(count))
    pq.write_table(pa.Table.from_pylist(list(rows_of(count))), folder / "rows.parquet")
    with tarfile.open(folder / "rows.tar", "w") as archive:
        for number in range(count):
            for name, data in ((f"{number}.jpg", b"x" * 64), (f"{number}.txt", ANSWER.encode())):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    mapping = {"media_first": True, "turns": [{"conversation": "conversations"}]}
    return {
        "JSON lines, conversations": (str(folder / "rows.jsonl"), {}),
        "Parquet, conversations": (str(folder / "rows.parquet"), {}),
        "JSON lines, mapping of columns": (str(folder / "rows.jsonl"), {"turns": TURNS}),
        "Parquet, mapping of columns": (str(folder / "rows.parquet"), {"turns": TURNS}),
        "Parquet, mapping of a conversation": (str(folder / "rows.parquet"), {"mapping": mapping}),
        "WebDataset tar (first time)": (str(folder / "rows.tar"), {"turns": TURNS}),
        "WebDataset tar (from the cache)": (str(folder / "rows.tar"), {"turns": TURNS}),
        "mock": (f"mock:rows={count},words=60", {}),
    }


def timed(work: Callable[[], int]) -> float:
    start = time.process_time()
    rows = work()
    return rows / (time.process_time() - start)


def ours(address: str, options: dict[str, Any]) -> int:
    samples = open_samples(address, **options)
    return sum(1 for _ in samples.read(0, len(samples)))


def plain(folder: Path, kind: str) -> int:
    file = {"json": "rows.jsonl", "parquet": "rows.parquet"}[kind]
    found = datasets.load_dataset(kind, data_files=str(folder / file), split="train", cache_dir=str(folder / kind))
    return sum(1 for _ in found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=20_000)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    datasets.disable_progress_bars()
    for name, (address, options) in made(given.folder, given.rows).items():
        print(f"{name:<36} {timed(lambda: ours(address, options)):>10,.0f} rows/s")  # noqa: B023
    for kind in ("json", "parquet"):
        print(f"datasets, {kind:<26} {timed(lambda: plain(given.folder, kind)):>10,.0f} rows/s (prepared and iterated)")  # noqa: B023
        print(f"datasets, {kind:<26} {timed(lambda: plain(given.folder, kind)):>10,.0f} rows/s (prepared before)")  # noqa: B023


if __name__ == "__main__":
    main()
