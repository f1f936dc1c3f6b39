"""What a user waits for before and beside the work: whole commands, imports, loading and comparisons included.

Each command runs in a process of its own with fresh interpreters, `--repeat` times. Printed are wall seconds and the
CPU seconds of all its processes (workers and forkservers too: this process adopts and reaps what a command leaves), as
median and range, and for a run the seconds until its first committed row. CPU seconds are what a machine that others
use can compare; the wall seconds of a busy machine say little. The plain way (the full Hugging Face processor per
sample, one core, loading included) is measured in the same run, for the ratio.
"""

from __future__ import annotations

import argparse
import compileall
import ctypes
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import bench_tokenize as shared

import vlm_prep

_PR_SET_CHILD_SUBREAPER = 36
PLAIN = 200
"""Samples that the plain way is timed on; it is linear."""


@dataclass(frozen=True)
class Cost:
    """What one command took, in seconds."""

    wall: float
    cpu: float
    """Of all its processes."""
    first: float | None = None
    """Until the first task was committed, None for what commits none."""


def main() -> None:
    """Build the corpus, run the commands, print."""
    arguments = _arguments()
    corpus, processor = shared.build_corpus(arguments.kit, arguments.samples), shared.build_processor(arguments.kit)
    _adopt()
    _compile()
    source, of = str(corpus / "meta.json"), ["--processor", str(processor)]
    print(f"{len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}; median of {arguments.repeat} (range)")
    small = (
        ("doctor", ["doctor", *of]),
        ("labels --limit 3", ["labels", source, *of, "--limit", "3"]),
        ("tokenize --limit 4", ["tokenize", source, *of, "--limit", "4", "--workers", "2"]),
    )
    for name, command in small:
        _show(name, _repeat(command, arguments.repeat))
    plain = shared.plain_rate(processor, corpus, PLAIN)
    for media in ("reference", "encoded"):
        command = ["tokenize", source, *of, "--media", media, "--workers", str(arguments.workers)]
        costs = _repeat(command, arguments.repeat)
        rate = arguments.samples / statistics.median(each.wall for each in costs)
        name = f"tokenize {arguments.samples:,} rows, --media {media}, --workers {arguments.workers}"
        _show(name, costs, f"{rate:,.0f} rows/s, {rate / plain:.1f}x the plain way's {plain:.1f} on one core")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kit", type=Path, default=Path("../shared/kit"), help="folder of real processors and photos")
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    return parser.parse_args()


def _adopt() -> None:
    """Have what a command leaves behind become children of this process, so that their CPU time is counted."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _compile() -> None:
    """Have the package's bytecode beside it, as an installed package has: without it each start compiles anew."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    compileall.compile_dir(Path(vlm_prep.__file__).parent, quiet=2)


def _repeat(command: Sequence[str], times: int) -> list[Cost]:
    return [_run(command) for _ in range(times)]


def _run(command: Sequence[str]) -> Cost:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        line = [sys.executable, "-m", "vlm_prep.cli.main", *command]
        if command[0] == "tokenize":
            line += ["--out", str(out), "--quiet"]
        before, start, first = _children(), time.perf_counter(), None
        process = subprocess.Popen(line, stdout=subprocess.DEVNULL)
        while process.poll() is None:
            if first is None and any((out / "_work" / "done").glob("*.json")):
                first = time.perf_counter() - start
            time.sleep(0.01)
        wall = time.perf_counter() - start
        if process.returncode:
            raise SystemExit(f"{' '.join(line)}: exit status {process.returncode}")
        while _reap():
            pass
        shutil.rmtree(out, ignore_errors=True)
    return Cost(wall, _children() - before, first)


def _reap() -> bool:
    try:
        os.waitpid(-1, 0)
    except ChildProcessError:
        return False
    return True


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _show(name: str, costs: Sequence[Cost], more: str = "") -> None:
    first = [each.first for each in costs if each.first is not None]
    parts = [f"wall {_span([each.wall for each in costs])}", f"CPU {_span([each.cpu for each in costs])}"]
    parts += [f"first commit after {_span(first)}"] if first else []
    print(f"{name:<48} {', '.join(parts)}{'; ' + more if more else ''}", flush=True)


def _span(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.1f} s ({min(values):.1f}-{max(values):.1f})"


if __name__ == "__main__":
    main()
