"""Rows a second and core that ingest reads of each kind of source, beside plain `datasets` over the same rows.

    python scripts/bench_sources.py FOLDER [--rows 20000]

FOLDER takes the made files. One process, CPU time: reading, mapping and checking rows, no media file is opened.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import importlib.util
import io
import json
import os
import sqlite3
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
    rows = list(rows_of(count))
    (folder / "array.json").write_text(json.dumps(rows))
    (folder / "packed.jsonl.gz").write_bytes(gzip.compress((folder / "rows.jsonl").read_bytes(), 1))
    with open(folder / "rows.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(rows[0])
        writer.writerows([json.dumps(v) if k == "conversations" else v for k, v in row.items()] for row in rows)
    (folder / "rows.sqlite").unlink(missing_ok=True)
    with sqlite3.connect(folder / "rows.sqlite") as base:
        base.execute("CREATE TABLE rows (image TEXT, text TEXT)")
        base.executemany("INSERT INTO rows VALUES (?, ?)", [(row["image"], row["text"]) for row in rows])
    with open(folder / "speech.jsonl", "w") as file:
        for row in rows:
            said = {"audio_filepath": row["image"].replace(".jpg", ".wav"), "offset": 1.5, "duration": 3.0}
            file.write(json.dumps(said | {"text": row["text"]}) + "\n")
    (folder / "libri" / "1" / "2").mkdir(parents=True, exist_ok=True)
    (folder / "libri" / "1" / "2" / "1-2.trans.txt").write_text(
        "".join(f"1-2-{n:06d} {ANSWER}\n" for n in range(count))
    )
    datasets.Dataset.from_list(rows).save_to_disk(str(folder / "saved"))
    lance = {}
    if importlib.util.find_spec("lance"):
        import lance as written

        written.write_dataset(pa.Table.from_pylist(rows), str(folder / "rows.lance"), mode="overwrite")
        lance = {
            name: (str(folder / "rows.lance"), {"turns": TURNS}) for name in ("Lance (first time)", "Lance (then)")
        }
    mapping = {"media_first": True, "turns": [{"conversation": "conversations"}]}
    return {
        "JSON lines, conversations": (str(folder / "rows.jsonl"), {}),
        "JSON array": (str(folder / "array.json"), {}),
        "JSON lines, gz (first time)": (str(folder / "packed.jsonl.gz"), {}),
        "JSON lines, gz (from the cache)": (str(folder / "packed.jsonl.gz"), {}),
        "CSV, conversation as JSON text": (str(folder / "rows.csv"), {}),
        "Parquet, conversations": (str(folder / "rows.parquet"), {}),
        "Arrow (save_to_disk)": (str(folder / "saved"), {}),
        "SQLite (first time)": (str(folder / "rows.sqlite"), {"turns": TURNS}),
        "SQLite (from the cache)": (str(folder / "rows.sqlite"), {"turns": TURNS}),
        "NeMo manifest": (str(folder / "speech.jsonl"), {}),
        "LibriSpeech": (str(folder / "libri"), {}),
        **lance,
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
    file = {"json": "rows.jsonl", "parquet": "rows.parquet", "csv": "rows.csv"}[kind]
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
    for kind in ("json", "parquet", "csv"):
        print(f"datasets, {kind:<26} {timed(lambda: plain(given.folder, kind)):>10,.0f} rows/s (prepared and iterated)")  # noqa: B023
        print(f"datasets, {kind:<26} {timed(lambda: plain(given.folder, kind)):>10,.0f} rows/s (prepared before)")  # noqa: B023


if __name__ == "__main__":
    main()
