"""Workers on a Ray cluster: the same assignments, done by actors that each supervise one worker of their machine.

Ray only carries assignments to machines and says when one is lost. What a row does to its worker (crash, hang, eat
memory) is found out by the actor with the same supervisor as on one machine (`local.py`). All commits are this
process's: an actor writes into a folder of its own attempt, whose shards are moved to where the run expects them when
its answer is here. An actor that was given up for lost and lives on (a cut network) so writes where nobody reads.

An assignment whose actor dies is given to another; nothing of it was visible. All nodes must share the folder.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vlm_prep.core.atomic_files import process_mark, sync_folder
from vlm_prep.core.errors import InputError, OutputError, VlmPrepError
from vlm_prep.engine.local import MOST_DEATHS, Done, Limits, Workers
from vlm_prep.engine.tasks import Assignment, Job, Poison, Progress, Record, report

_SECONDS_BETWEEN_LOOKS = 1.0
_OBJECT_STORE_BYTES = 128 << 20
"""Of a cluster started here: only assignments and records travel."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What an actor says of an assignment."""

    assignment: Assignment
    """As it was done: its task knows the poison that was found."""
    result: Any
    poison: tuple[Poison, ...]


class Hand:
    """An actor: one supervised worker on some machine."""

    def __init__(self, job: Job, limits: Limits) -> None:
        self._found: list[Poison] = []
        self._workers = Workers(job, 1, limits, Path(), self._found.append)

    def ready(self) -> str:
        """Return where it is."""
        return process_mark()

    def run(self, assignment: Assignment, attempt: Path) -> Answer:
        """Do an assignment; with `attempt`, the folder made for it, as scratch and, for a whole task, for its shards.

        Raises:
            VlmPrepError: from the assignment, or the folder is not here.
        """
        if not attempt.is_dir():
            raise OutputError(f"{attempt.parent} is not on {process_mark()}", "give an `out` that all nodes share")
        self._found.clear()
        self._workers.scratch = attempt / "alone"
        answers: list[tuple[Assignment, Any]] = []
        here = replace(assignment, folder=attempt) if assignment.method == "run" else assignment
        self._workers.run([here], lambda done, result: answers.append((done, result)), lambda *counts: None)
        done, result = answers[0]
        return Answer(assignment=replace(done, folder=assignment.folder), result=result, poison=tuple(self._found))


class RayExecutor:
    """Does assignments on a cluster.

    Args:
        job: what actors are set up for.
        count: most actors at a time; None for one for each processor of the cluster.
        limits: of a worker.
        attempts: folder below which actors write, on a file system that all nodes share.
        found: told of each poisonous row.
        address: of the cluster; None starts one on this machine.

    Raises:
        InputError: Ray is not installed, or there is no cluster at the address.
    """

    def __init__(
        self,
        job: Job,
        count: int | None,
        limits: Limits,
        attempts: Path,
        found: Callable[[Poison], None],
        address: str | None,
    ) -> None:
        self._job, self._count, self._limits, self._attempts, self._found = job, count, limits, attempts, found
        self._address = address
        self._ray = _ray()
        self._ours = False
        self._hiring: dict[Any, Any] = {}
        """{answer to come that it is ready: actor}"""
        self._free: list[Any] = []
        self._busy: dict[Any, tuple[Any, Assignment, Path]] = {}
        """{answer to come: (actor, assignment, folder)}"""
        self._number = self._deaths = 0

    def __enter__(self) -> RayExecutor:
        # left behind by a run that was killed
        shutil.rmtree(self._attempts, ignore_errors=True)
        self._attempts.mkdir()
        if not self._ray.is_initialized():
            _connect(self._ray, self._address, self._count)
            self._ours = True
        # for all actors together: an index of millions of rows should travel to each node once
        self._shared_job = self._ray.put(self._job)
        self._actor = self._ray.remote(num_cpus=1, max_restarts=0, max_task_retries=0)(Hand)
        return self

    def __exit__(self, *exc: object) -> None:
        """End all actors at once; what they were doing is not committed and will be done again."""
        for actor in [*self._hiring.values(), *self._free, *(actor for actor, _, _ in self._busy.values())]:
            self._ray.kill(actor)
        if self._ours:
            self._ray.shutdown()
        shutil.rmtree(self._attempts, ignore_errors=True)

    def run(self, assignments: Sequence[Assignment], done: Done, progress: Progress) -> None:
        """See `local.Executor.run`."""
        queue = deque(assignments)
        while queue or self._busy:
            self._hire(len(queue) + len(self._busy))
            while queue and self._free:
                self._give(self._free.pop(), queue.popleft())
            waiting = [*self._hiring, *self._busy]
            ready, _ = self._ray.wait(waiting, timeout=_SECONDS_BETWEEN_LOOKS)
            for answer in ready:
                if answer in self._hiring:
                    self._welcome(answer)
                else:
                    self._take(answer, queue, done, progress)

    def _hire(self, most: int) -> None:
        """Ask for actors that are missing. One that the cluster has no room for waits, and is given nothing."""
        cluster = int(self._ray.cluster_resources().get("CPU", 0))
        count = min(self._count or max(1, cluster), most)
        for _ in range(count - len(self._hiring) - len(self._free) - len(self._busy)):
            actor = self._actor.remote(self._shared_job, self._limits)
            self._hiring[actor.ready.remote()] = actor

    def _welcome(self, answer: Any) -> None:
        actor = self._hiring.pop(answer)
        try:
            self._ray.get(answer)
            self._free.append(actor)
        except self._ray.exceptions.RayActorError as error:
            self._lost(error)

    def _give(self, actor: Any, assignment: Assignment) -> None:
        attempt = self._attempts / f"{process_mark()}-{self._number:06d}"
        self._number += 1
        attempt.mkdir()
        self._busy[actor.run.remote(assignment, attempt)] = actor, assignment, attempt

    def _take(self, reference: Any, queue: deque[Assignment], done: Done, progress: Progress) -> None:
        """Commit what an actor did, or queue its assignment again when it was lost."""
        actor, assignment, attempt = self._busy.pop(reference)
        try:
            answer: Answer = self._ray.get(reference)
        except self._ray.exceptions.RayActorError as error:
            queue.appendleft(assignment)
            self._lost(error)
            return
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, VlmPrepError):
                raise error.cause from None
            raise
        self._free.append(actor)
        self._deaths = 0
        for poison in answer.poison:
            self._found(poison)
        _move_shards(answer, attempt)
        shutil.rmtree(attempt, ignore_errors=True)
        done(answer.assignment, answer.result)
        report(assignment, answer.result, 0, progress)

    def _lost(self, error: Exception) -> None:
        """Count an actor that was lost."""
        self._deaths += 1
        if self._deaths >= MOST_DEATHS:
            raise VlmPrepError(
                f"Ray lost {self._deaths} workers in a row; the last: {error}",
                "what was committed is kept: when the cluster is well, run the same command again",
            )


def _move_shards(answer: Answer, attempt: Path) -> None:
    if answer.assignment.method != "run" or not isinstance(answer.result, Record):
        return
    for shard in answer.result.shards:
        os.replace(attempt / shard.name, answer.assignment.folder / shard.name)
    sync_folder(answer.assignment.folder)


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise InputError("`engine=ray` needs the ray package", "pip install 'vlm-prep[ray]'") from error
    return ray


def _connect(ray: Any, address: str | None, count: int | None) -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        local = {"num_cpus": count, "include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES}
        with contextlib.redirect_stdout(sys.stderr):
            ray.init(address="local", **local, **quiet)
        return
    try:
        ray.init(address=address, **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise InputError(
            f"`ray_address={address}`: {error}", "give the address of a running cluster, as `ray status` knows it"
        ) from error
