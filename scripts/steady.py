"""Does a long run keep its pace and its size: `make steady`.

Tokenizes 200,000 rows (text, and pictures by reference) and prints, for each tenth of the rows, how fast it was done
and how much memory of its own the largest worker held, and which share of the run the workers waited at its end.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from vlm_prep.builtin import builtin_data

PROCESSOR = "builtin:qwen2.5-vl-mini"
WINDOWS = 10


def write_source(folder: Path, rows: int) -> Path:
    """Write a meta JSON of about `rows` rows: the built-in ones without video, again and again."""
    data = builtin_data()
    entries = json.loads(data.read_bytes())
    meta = {}
    for name in ("photo_talk", "tool_talk"):
        entry = {**entries[name], "file_name": str(data.parent / entries[name]["file_name"])}
        if "media_dir" in entry:
            entry["media_dir"] = str(data.parent)
        lines = (data.parent / entries[name]["file_name"]).read_text()
        count = len(json.loads(lines)) if lines.lstrip().startswith("[") else len(lines.splitlines())
        meta[name] = {**entry, "sample_ratio": rows / 2 / count}
    (folder / "meta.json").write_text(json.dumps(meta))
    return folder / "meta.json"


def own_memory(session: int) -> list[int]:
    """Return the bytes of memory of their own (RssAnon) of all processes of a session."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            fields = (path / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) != session:
                continue
            status = (path / "status").read_text()
        except OSError:
            continue
        kib = [line.split()[1] for line in status.splitlines() if line.startswith("RssAnon")]
        found += [int(each) << 10 for each in kib]
    return found


def rows_done(done: Path, seen: dict[str, int]) -> int:
    """Return the rows of all finished tasks; `seen` keeps those that were read."""
    for path in done.glob("task-*.json"):
        if path.name not in seen:
            seen[path.name] = json.loads(path.read_bytes())["counts"]["rows_in"]
    return sum(seen.values())


def main() -> None:
    """Run, watch, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path("out/steady"))
    given = parser.parse_args()
    shutil.rmtree(given.folder, ignore_errors=True)
    given.folder.mkdir(parents=True)
    out = given.folder / "tok"
    line = [sys.executable, "-m", "vlm_prep.cli.main", "tokenize", str(write_source(given.folder, given.rows))]
    line += ["--processor", PROCESSOR, "--media", "reference", "--verify-fraction", "0.001", "--quiet"]
    line += ["--out", str(out), "--workers", str(given.workers)]
    run = subprocess.Popen(line, stdout=subprocess.DEVNULL, start_new_session=True)
    seen: dict[str, int] = {}
    points: list[tuple[float, int, int]] = []
    while run.poll() is None:
        points.append((time.monotonic(), rows_done(out / "_work" / "done", seen), max(own_memory(run.pid), default=0)))
        time.sleep(0.2)
    if run.returncode:
        raise SystemExit(run.returncode)
    show(points)


def show(points: list[tuple[float, int, int]]) -> None:
    """Print the windows of a run: (seconds, rows done, bytes of the largest process)."""
    times, rows, memory = (np.array(column) for column in zip(*points, strict=True))
    first = int(np.argmax(rows > 0))
    print(f"{rows[-1]:,} rows, the first {rows[first]:,} after {times[first] - times[0]:.1f} s")
    print(f"{'rows':>12}{'rows/s':>10}{'largest process':>18}")
    edges = np.linspace(rows[first], rows[-1], WINDOWS + 1)
    for low, high in itertools.pairwise(edges):
        begin, end = int(np.argmax(rows >= low)), int(np.argmax(rows >= high))
        rate = (rows[end] - rows[begin]) / max(times[end] - times[begin], 1e-9)
        print(f"{rows[end]:>12,}{rate:>10,.0f}{memory[begin : end + 1].max() / 2**20:>14,.0f} MiB")


if __name__ == "__main__":
    main()
