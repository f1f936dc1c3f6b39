"""Workers on this machine: hand assignments out, and find the row that ends or hangs a worker.

A worker that dies, stands still for `sample_timeout` seconds or grows past `worker_memory` was at the row that its
heartbeat names. That row is a suspect, no more: the same task may have been hit from outside (by the kernel's memory
killer, by an operator's `kill -9`). So it is done once more, alone, in a fresh worker that writes into a folder that
nobody reads. If that worker dies at it, too, the row is poison: it is recorded, and the task is done again without it.
If it survives, the task is done again as it was. A signal that anybody may send (SIGKILL, SIGTERM) has to come three
times in a row to count.
"""

from __future__ import annotations

import gc
import shutil
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Protocol

from vlm_prep.core.atomic_files import process_mark
from vlm_prep.core.errors import InputError, StoreError, VlmPrepError
from vlm_prep.engine.tasks import NO_ROW, Assignment, Job, Poison, Progress, Task, no_heartbeat, report
from vlm_prep.engine.worker import NO_MEMORY, STUCK, TOO_BIG, TOO_SLOW, Death, Worker, forkserver

TICK = 0.05
"""Seconds between two looks at the workers."""
MOST_DEATHS = 12
"""Deaths in a row without anything finished between them before the run gives up."""
TRIALS = 3
_SECONDS_TO_START = 900.0

Done = Callable[[Assignment, Any], None]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a worker may take."""

    sample_timeout: float = 300.0
    """Seconds for one row."""
    worker_memory: int = 8 << 30
    """Bytes of memory of one worker, libraries included."""


class Executor(Protocol):
    """Whoever does assignments."""

    def run(self, assignments: Sequence[Assignment], done: Done, progress: Progress) -> None:
        """Do all assignments, in any order, and call `done` with the result of each.

        Raises:
            VlmPrepError: from an assignment, or workers die and no row is to blame; results given before stay.
        """

    def __enter__(self) -> Executor: ...

    def __exit__(self, *exc: object) -> None: ...


def local_executor(
    job: Job, *, workers: int, limits: Limits, scratch: Path, found: Callable[[Poison], None]
) -> Executor:
    """Return who does a job's assignments.

    Args:
        job: set up in this process if `workers` is 0.
        workers: processes; 0 does everything in this process, unsupervised, for debuggers.
        limits: of a worker.
        scratch: folder for what rows write that are done alone.
        found: told of each poisonous row, before the assignment goes on without it.
    """
    return Workers(job, workers, limits, scratch, found) if workers else InProcessExecutor(job)


def start_forkserver(job: Job, workers: int) -> None:
    """Let the forkserver begin its imports now, while this process does its own."""
    if workers:
        forkserver(job)


def ask(job: Job, method: str, limits: Limits, scratch: Path) -> Any:
    """Have a worker call a method of the job that is about no row, and return the answer.

    So this process need not load what a worker has: while workers make ready, it does other things.

    Args:
        job: not set up in this process.
        method: called with (task, folder, heartbeat), of which it uses nothing.
        limits: of a worker.
        scratch: a path that nothing uses.

    Raises:
        VlmPrepError: from the method, or workers die.
    """
    answers: list[Any] = []
    assignment = Assignment(task=Task(index=0, start=0, stop=0), folder=scratch, method=method)
    with Workers(job, 1, limits, scratch, lambda poison: None) as executor:
        executor.run([assignment], lambda assignment, answer: answers.append(answer), _silent)
    return answers[0]


class InProcessExecutor:
    """Do everything in this process."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def __enter__(self) -> InProcessExecutor:
        self._frozen = not gc.get_freeze_count()  # what a program froze itself could not be told from ours afterwards
        if self._frozen:
            gc.freeze()  # without a collection first, which may walk a large program's objects for seconds
        return self

    def __exit__(self, *exc: object) -> None:
        """Give what was loaded back to the collector: this process lives on, and a processor holds itself in cycles."""
        if self._frozen:
            gc.unfreeze()

    def run(self, assignments: Sequence[Assignment], done: Done, progress: Progress) -> None:
        """See `Executor.run`."""
        for assignment in assignments:
            work = getattr(self._job, assignment.method)
            result = work(assignment.task, assignment.folder, no_heartbeat, *assignment.arguments)
            done(assignment, result)
            report(assignment, result, 0, progress)


@dataclass(kw_only=True)
class _Attempt:
    """An assignment in full, or one of its rows on trial."""

    assignment: Assignment
    suspect: int | None = None
    tries: int = 0
    reported: int = field(default=0, compare=False)
    """Rows that the progress was told of."""


class Workers:
    """Supervised processes. See `local_executor` for the arguments."""

    def __init__(self, job: Job, count: int, limits: Limits, scratch: Path, found: Callable[[Poison], None]) -> None:
        self._job, self._count, self._limits = job, count, limits
        self.scratch, self._found = scratch, found
        self._workers: dict[Worker, _Attempt | None] = {}
        self._queue: deque[_Attempt] = deque()
        self._trials: deque[_Attempt] = deque()
        self._poison: dict[int, Poison] = {}
        self._deaths = 0
        self._looked = time.monotonic()
        self._done: Done = _ignore
        self._progress: Progress = _silent

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *exc: object) -> None:
        """End all workers at once; what they were doing is not committed and will be done again."""
        for worker in self._workers:
            worker.kill()
        for worker in self._workers:
            worker.reap()
        self._workers.clear()
        shutil.rmtree(self.scratch, ignore_errors=True)

    def run(self, assignments: Sequence[Assignment], done: Done, progress: Progress) -> None:
        """See `Executor.run`."""
        self._queue.extend(_Attempt(assignment=assignment) for assignment in assignments)
        self._done, self._progress = done, progress
        while self._unfinished():
            self._hire()
            self._hand_out()
            wait([each for worker in self._workers for each in (worker.connection, worker.sentinel)], timeout=TICK)
            for worker in list(self._workers):
                self._listen(worker)
            self._watch()

    def _unfinished(self) -> int:
        """How many assignments are not done."""
        return len(self._queue) + len(self._trials) + sum(attempt is not None for attempt in self._workers.values())

    def _hire(self) -> None:
        """Start workers that are missing; a trial takes the place of one that is free and has worked before."""
        free = [
            worker for worker, attempt in self._workers.items() if worker.ready and not worker.fresh and attempt is None
        ]
        fresh = sum(worker.fresh for worker in self._workers)
        for worker in free[: max(0, len(self._trials) - fresh)]:
            del self._workers[worker]
            worker.kill()
            worker.reap()
        while len(self._workers) < min(self._count, self._unfinished()):
            try:
                self._workers[Worker(self._job)] = None
            except (OSError, EOFError) as error:  # the forkserver was killed, or there are too many processes
                self._lost(replace(STUCK, message=f"a worker did not start: {error!r}"))
                time.sleep(TICK)

    def _hand_out(self) -> None:
        for worker, attempt in self._workers.items():
            if not worker.ready or attempt is not None:
                continue
            if worker.fresh and self._trials:
                trial = self._workers[worker] = self._trials.popleft()
                self.scratch.mkdir(exist_ok=True)
                worker.send(trial.assignment.alone(_suspect(trial), self.scratch))
            elif self._queue:
                given = self._workers[worker] = self._queue.popleft()
                worker.send(given.assignment)

    def _listen(self, worker: Worker) -> None:
        """Take what a worker says, its end included."""
        while True:
            try:
                if not worker.connection.poll():
                    return
                kind, content = worker.connection.recv()
            except (EOFError, OSError):
                self._reap(worker)
                return
            if kind == "ready":
                self._welcome(worker)
            elif kind == "memory":
                worker.kill(NO_MEMORY)
            elif kind == "failed":
                raise content
            else:
                self._finished(worker, content)

    def _welcome(self, worker: Worker) -> None:
        worker.ready, worker.idle = True, 0.0
        taken, most = worker.memory(), self._limits.worker_memory
        if taken > most:
            raise InputError(
                f"a worker takes {taken >> 20} MiB before its first row, `worker_memory` allows {most >> 20} MiB",
                "raise `worker_memory`",
            )

    def _finished(self, worker: Worker, result: Any) -> None:
        attempt = self._workers[worker]
        self._workers[worker] = None
        if attempt is None:
            raise RuntimeError("a worker answered that was not asked")
        if attempt.suspect is not None:
            self._queue.appendleft(_Attempt(assignment=attempt.assignment))  # innocent
            return
        self._deaths = 0
        self._done(attempt.assignment, result)
        report(attempt.assignment, result, attempt.reported, self._progress)

    def _watch(self) -> None:
        """End workers that stand still or grow too large, and show how far the others are."""
        now = time.monotonic()
        # a run that was stopped (Ctrl-Z, a suspended machine) must not count the time that it slept
        elapsed, self._looked = min(now - self._looked, 4 * TICK), now
        for worker, attempt in self._workers.items():
            worker.look(elapsed)
            if not worker.ready:
                if worker.idle > _SECONDS_TO_START:
                    worker.kill(STUCK)
                continue
            if attempt is None or worker.row == NO_ROW:
                continue
            if worker.idle > self._limits.sample_timeout:
                worker.kill(TOO_SLOW)
            elif worker.memory() > self._limits.worker_memory:
                worker.kill(TOO_BIG)
            elif attempt.suspect is None and attempt.assignment.method == "run":
                self._progress(worker.rows_done - attempt.reported, 0, 0)
                attempt.reported = worker.rows_done

    def _reap(self, worker: Worker) -> None:
        """Find out what a dead worker died of, and see to what it was doing."""
        attempt = self._workers.pop(worker)
        death = worker.reap()
        if attempt is None:
            self._lost(death)
            return
        for unfinished in attempt.assignment.folder.glob(f"*.{process_mark(worker.pid)}.tmp"):
            unfinished.unlink(missing_ok=True)
        if attempt.suspect is None:
            self._progress(-attempt.reported, 0, 0)
            if worker.row == NO_ROW:
                self._queue.appendleft(_Attempt(assignment=attempt.assignment))
            elif worker.row in self._poison:  # met by two assignments at once
                self._go_on(attempt, self._poison[worker.row])
            else:
                self._trials.append(_Attempt(assignment=attempt.assignment, suspect=worker.row))
            self._lost(death)
        elif worker.row == NO_ROW:
            self._trials.append(attempt)
            self._lost(death)
        elif death.certain or attempt.tries + 1 == TRIALS:
            self._reject_suspect(attempt, death)
        else:
            self._trials.append(replace(attempt, tries=attempt.tries + 1))
            self._lost(death)

    def _reject_suspect(self, attempt: _Attempt, death: Death) -> None:
        """Record a row that ended the worker that did it alone, and go on without it."""
        poison = Poison(row=_suspect(attempt), reason=death.reason.value, message=death.message)
        fault = self._job.fault_of(attempt.assignment.task, poison)
        if fault is not None:
            raise StoreError(fault, "check the disk and the input (`vlm-prep verify`), then run the same command again")
        if poison.row not in self._poison:
            self._found(poison)
        self._poison.setdefault(poison.row, poison)
        self._deaths = 0
        self._go_on(attempt, poison)

    def _go_on(self, attempt: _Attempt, poison: Poison) -> None:
        """Queue an assignment again, without a row."""
        task = attempt.assignment.task
        self._queue.appendleft(
            _Attempt(assignment=replace(attempt.assignment, task=task.without((*task.poison, poison))))
        )

    def _lost(self, death: Death) -> None:
        """Count a death that no row is to blame for."""
        self._deaths += 1
        if self._deaths >= MOST_DEATHS:
            raise VlmPrepError(
                f"workers died {self._deaths} times in a row and no row is to blame; the last: {death.message}",
                "what was committed is kept: run the same command again, with fewer `workers` if memory was short",
            )


def _suspect(attempt: _Attempt) -> int:
    if attempt.suspect is None:
        raise RuntimeError("no row is on trial")
    return attempt.suspect


def _ignore(assignment: Assignment, result: Any) -> None:
    """Nobody waits for it."""


def _silent(rows: int, tokens: int, rejects: int) -> None:
    """Nobody looks."""
