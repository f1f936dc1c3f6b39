"""Run a job's tasks on this machine.

One worker runs in this process. Several run in processes of a forkserver, which imports the job's heavy libraries once
(torch and transformers take 5 s) before any of them has threads; each worker sets the job up itself. Tasks are handed
out one at a time as workers become free.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from multiprocessing import resource_tracker
from multiprocessing.forkserver import ensure_running
from pathlib import Path
from typing import Any

from pebble import ProcessExpired, ProcessPool

from vlm_prep.core.errors import VlmPrepError
from vlm_prep.engine.tasks import Job, Progress, Record, Task

_THREAD_LIMITS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
_PR_SET_PDEATHSIG = 1
_job: Job | None = None


def run_tasks(
    job: Job,
    tasks: Sequence[Task],
    shards: Path,
    *,
    workers: int,
    commit: Callable[[Record], None],
    progress: Progress,
) -> None:
    """Run `tasks` and commit each result as it comes.

    Raises:
        VlmPrepError: from a task; results committed before stay.
    """
    if workers == 1 or len(tasks) <= 1:
        _settle_memory()
        for task in tasks:
            commit(job.run(task, shards, progress))
        return
    with ProcessPool(
        max_workers=min(workers, len(tasks)), context=forkserver(job), initializer=_start_worker, initargs=(job,)
    ) as pool:
        rows: dict[Future[Record], int] = {
            pool.schedule(_run_task, args=(task, shards)): task.stop - task.start for task in tasks
        }
        waiting = set(rows)
        try:
            while waiting:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    record = _result(future)
                    commit(record)
                    counts = record.counts
                    progress(rows[future], counts.get("tokens", 0), counts["rows_rejected"])
        except BaseException:
            pool.stop()
            raise


def forkserver(job: Job) -> Any:
    """Return the forkserver context, started and told to import the job's heavy libraries once."""
    _pin_threads()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(job.preload))
    resource_tracker.ensure_running()  # it unblocks SIGINT when it starts, so it has to start first
    # Ctrl-C is this process's matter: while it imports, the forkserver would print a traceback and die of it
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context


def start_forkserver(job: Job, workers: int) -> None:
    """Let the forkserver begin its imports now, while this process does its own."""
    if workers > 1:
        forkserver(job)


def _pin_threads() -> None:
    """One thread a worker: the parallelism is in the processes. Set before the forkserver starts, which inherits it."""
    for name in _THREAD_LIMITS:
        os.environ.setdefault(name, "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def _start_worker(job: Job) -> None:
    global _job
    _die_with_parent()
    job.setup()
    _job = job
    _settle_memory()


def _die_with_parent() -> None:
    """Have the kernel end this worker when the forkserver ends, as it does when the run is killed: a worker that lived
    on would finish its task beside the rerun."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    run = multiprocessing.parent_process()
    if run is not None and not run.is_alive():
        os._exit(1)  # it was killed before the line above


def _settle_memory() -> None:
    """Take the libraries' objects (half a million) out of the garbage collector's sight: it would walk them again and
    again, a sixth of the time of tokenizing."""
    gc.collect()
    gc.freeze()


def _run_task(task: Task, shards: Path) -> Record:
    if _job is None:
        raise RuntimeError("the worker was not started")
    return _job.run(task, shards, _silent)


def _silent(rows: int, tokens: int, rejects: int) -> None:
    """A worker's progress is its finished tasks."""


def _result(future: Future[Record]) -> Record:
    try:
        return future.result()
    except ProcessExpired as error:
        raise VlmPrepError(
            f"a worker process died (exit code {error.exitcode})",
            "what was committed is kept: run the same command again, with fewer --workers if memory was short",
        ) from error
