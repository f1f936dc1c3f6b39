"""Work that is killed at an instant, and what is seen of its processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

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
    child = os.fork()
    if child == 0:
        seen = 0
        changed: set[object] = set()

        def dying(real: Callable[..., None]) -> Callable[..., None]:
            def call(*arguments: object, **settings: object) -> None:
                nonlocal seen
                again = str(arguments[-1]).endswith("progress.json") and arguments[-1] in changed
                changed.add(arguments[-1])
                seen += not again  # it is written as time goes by
                if seen == number and when == "before":
                    os.kill(os.getpid(), signal.SIGKILL)
                real(*arguments, **settings)
                if seen == number:
                    os.kill(os.getpid(), signal.SIGKILL)

            return call

        for name in calls:
            setattr(os, name, dying(getattr(os, name)))
        try:
            work(out)
            os._exit(0)
        except BaseException:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def wait_for(path: Path, run: subprocess.Popen[str] | subprocess.Popen[bytes]) -> None:
    while not path.exists() and run.poll() is None:
        time.sleep(0.005)


# ---- what is left over ----


def killed_ingest(out: Path, options: Options, number: int) -> None:
    samples = open_samples(builtin_data())
    assert killed_at(number, "after", lambda out: ingest(samples, IngestConfig(), options(out)), out)
