"""A picture format whose decoder really crashes, hangs or eats memory, and jobs whose workers know it.

Imported by name in worker processes, so its folder has to be on sys.path. A file `POISON <kind>` is a picture of this
format; each time its header is read, a line is added to the file `<name>.met` beside the log.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFile

from vlm_prep.core.errors import ExactnessError
from vlm_prep.engine.tasks import Task
from vlm_prep.ingest.ingest_run import IngestJob
from vlm_prep.pack.pack_job import PackJob
from vlm_prep.report.plan.survey import SurveyJob
from vlm_prep.tokenize.tokenize_job import TokenizeJob

MAGIC = b"POISON "


def crash() -> None:
    ctypes.string_at(0)


def abort() -> None:
    ctypes.CDLL(None).abort()


def spin() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    re.match(r"(a|a)+$", "a" * 60 + "b")  # 2**60 steps in C


def grow() -> None:
    taken: list[np.ndarray[Any, Any]] = []
    while len(taken) < 100:
        taken.append(np.ones(8 << 20))  # 64 MiB, written to


def ask() -> None:
    np.empty(1 << 58)  # more than any machine has: MemoryError


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)  # as the kernel's memory killer does


KINDS = {each.__name__: each for each in (crash, abort, spin, grow, ask, killed)}


class PoisonFile(ImageFile.ImageFile):
    """See the module."""

    format = "POISON"

    def _open(self) -> None:
        assert self.fp is not None
        kind, log = self.fp.read().split()[1:]
        with open(log.decode(), "a") as file:
            file.write(f"{kind.decode()}\n")
        KINDS[kind.decode()]()


def register() -> None:
    # in the place of a format that is on the list of those that are opened
    Image.init()
    Image.register_open("SGI", PoisonFile, lambda head: head.startswith(MAGIC))


@dataclass
class PoisonedIngestJob(IngestJob):
    """Ingests with the decoder that dies."""

    def setup(self) -> None:
        super().setup()
        register()


@dataclass
class PoisonedTokenizeJob(TokenizeJob):
    """Tokenizes with the decoder that dies."""

    def setup(self, *loaded: object) -> None:
        super().setup(*loaded)  # type: ignore[arg-type]
        register()


@dataclass
class SlowIngestJob(IngestJob):
    """Takes long enough to be killed."""

    def _probe(self, sample):  # type: ignore[no-untyped-def]
        time.sleep(0.002)
        return super()._probe(sample)


def write_poison(folder: Path, kind: str) -> str:
    """Write a poisonous picture; return its name."""
    (folder / f"{kind}.poison").write_bytes(MAGIC + kind.encode() + b" " + str(folder / "met").encode())
    return f"{kind}.poison"


@dataclass
class StillbornIngestJob(IngestJob):
    """Ends each worker before it is ready."""

    def setup(self) -> None:
        os._exit(7)


@dataclass
class PoisonedPackJob(PackJob):
    """Dies of one pack."""

    def _assemble(self, number: int, counts: Any) -> dict[str, Any]:
        if number == 3:
            crash()
        return super()._assemble(number, counts)


@dataclass
class ThreadsTokenizeJob(TokenizeJob):
    """Counts the threads of a worker that has tokenized, decoded and compared rows."""

    def threads(self, task: Any, folder: Path, heartbeat: Any) -> dict[str, int]:
        import torch

        self.run(task, folder, heartbeat)
        return {"tasks": len(os.listdir("/proc/self/task")), "torch": torch.get_num_threads()}


@dataclass
class SlowPoisonedIngestJob(SlowIngestJob, PoisonedIngestJob):
    """Takes long enough to be killed, and knows the decoder that dies."""


@dataclass
class PoisonedSurveyJob(SurveyJob):
    """Looks at rows with the decoder that dies."""

    def setup(self, *loaded: object) -> None:
        super().setup(*loaded)  # type: ignore[arg-type]
        register()


@dataclass
class DoubtfulIngestJob(IngestJob):
    """Begins with a check that fails once another worker has finished a task."""

    def check_start(self, task: Task, shards: Path, heartbeat: Callable[[int], None], max_reject_rate: float) -> None:
        for _ in range(6000):
            if any(shards.glob("*.arrow")):
                time.sleep(0.3)  # its record has reached the run
                raise ExactnessError("a row differs", "report it")
            time.sleep(0.01)
        raise RuntimeError("nobody worked meanwhile")


@dataclass
class DiesComparingJob(TokenizeJob):
    """Ends each worker that compares the row `rows/3` with the real processor."""

    def setup(self, *loaded: object) -> None:
        super().setup(*loaded)  # type: ignore[arg-type]
        compare = self.oracle.compare

        def dying(row: Any) -> Any:
            if row["sample_id"] == "rows/3":
                abort()
            return compare(row)

        self.oracle.compare = dying  # type: ignore[method-assign]
