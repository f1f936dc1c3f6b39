"""Work that is killed at an instant, and what is seen of its processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from deaths import killed

from vlm_prep.builtin import builtin_data
from vlm_prep.core.settings import IngestConfig
from vlm_prep.engine.stage import RunOptions
from vlm_prep.ingest.ingest_run import ingest
from vlm_prep.ingest.source import open_samples

PROCESSOR = "builtin:qwen2.5-vl-mini"
Options = Callable[..., RunOptions]
Tree = Callable[[Path], dict[str, str]]
Do = Callable[[Path], object]

VLM_PREP = str(Path(sys.executable).with_name("vlm-prep"))


RENAMES = ("replace",)


def killed_at(number: int, when: str, work: Do, out: Path, calls: tuple[str, ...] = RENAMES) -> bool:
    """Run `work(out)` in a forked process that kills itself at its n-th rename; return whether it was killed.

    Args:
        number: 1 is the first.
        when: "before" or "after" the rename.
        work: what to run.
        out: its output folder.
        calls: functions of `os` that count; a rename is "replace".
    """
    return killed(number, when, partial(work, out), os, calls)


def wait_for(path: Path, run: subprocess.Popen[str] | subprocess.Popen[bytes]) -> None:
    while not path.exists() and run.poll() is None:
        time.sleep(0.005)


# ---- what is left over ----


def killed_ingest(out: Path, options: Options, number: int) -> None:
    samples = open_samples(builtin_data())
    assert killed_at(number, "after", lambda out: ingest(samples, IngestConfig(), options(out)), out)
