"""Tasks, jobs and records: the contract between a stage and an engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

from vlm_prep.core.records import Rejected
from vlm_prep.shards.manifest_rules import check_shard
from vlm_prep.shards.shard_info import ShardInfo
from vlm_prep.shards.store_names import is_split, is_unfinished_shard

Progress = Callable[[int, int, int], None]
"""Called with (rows done, tokens written, rows rejected) since the last call."""

Heartbeat = Callable[[int], None]
"""Called with the number of a row before it is worked on: a worker that dies or hangs was at this row. `NO_ROW` says
that no row is being worked on."""

NO_ROW = -1


def no_heartbeat(row: int) -> None:
    """Watch nothing."""


@dataclass(frozen=True, kw_only=True)
class Poison:
    """A row that ended or hung the worker that did it alone: it is rejected and not touched again."""

    row: int
    """Number in the stage's input."""
    reason: str
    """"worker_crashed", "timeout" or "out_of_memory"."""
    message: str


@dataclass(frozen=True, kw_only=True)
class Task:
    """Rows [start, stop) of a stage's input."""

    index: int
    start: int
    stop: int
    split: str = "train"
    """The folder the task's shards end in."""
    poison: tuple[Poison, ...] = ()
    """Rows that are rejected without being read, in order."""
    only: tuple[int, ...] | None = None
    """The rows of [start, stop) that the task is about, in order; None for all."""

    @property
    def numbers(self) -> Sequence[int]:
        """The rows of the task."""
        return range(self.start, self.stop) if self.only is None else self.only

    def alone(self, row: int) -> Task:
        """Return the task of one of its rows."""
        return replace(self, start=row, stop=row + 1, only=None, poison=())

    def without(self, poison: Iterable[Poison]) -> Task:
        """Return the task with those of `poison` that are its rows, and no others."""
        rows = self.numbers
        mine = {each.row: each for each in poison if each.row in rows}
        return replace(self, poison=tuple(mine[row] for row in sorted(mine)))


@dataclass(frozen=True, kw_only=True)
class Record:
    """What a finished task leaves: its shards, its rejects and its counts."""

    task: int
    split: str
    shards: tuple[ShardInfo, ...]
    rejects: tuple[Rejected, ...] = ()
    counts: dict[str, int] = field(default_factory=dict)
    """Summed over tasks into the manifest's totals."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Whatever else the stage wants of its tasks when it finishes."""
    poison: tuple[int, ...] = ()
    """The rows that the task was done without; a record that knows fewer than the run does is out of date."""

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return {
            "task": self.task,
            "split": self.split,
            "shards": [shard.to_json() for shard in self.shards],
            "rejects": [asdict(reject) for reject in self.rejects],
            "counts": self.counts,
            "facts": self.facts,
            "poison": self.poison,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Record:
        """Read what `to_json` wrote.

        Raises:
            ValueError, KeyError, TypeError: it is none, or names what no task makes.
        """
        for shard in data["shards"]:
            check_shard(shard, "shards")
        if not is_split(data["split"]) or not all(is_unfinished_shard(shard["name"]) for shard in data["shards"]):
            raise ValueError("it names shards that no task makes")
        return cls(
            task=data["task"],
            split=data["split"],
            shards=tuple(ShardInfo.from_json(item) for item in data["shards"]),
            rejects=tuple(Rejected(**item) for item in data["rejects"]),
            counts=data["counts"],
            facts=data["facts"],
            poison=tuple(data["poison"]),
        )


class Job(Protocol):
    """A stage, as workers run it. Picklable: it travels to worker processes before `setup`."""

    preload: ClassVar[tuple[str, ...]]
    """Modules that every worker needs and that are slow to import."""

    def before_fork(self) -> dict[str, str]:
        """Return environment variables for `preload` alone: what to make before workers are forked."""

    def setup(self) -> None:
        """Load what every task needs (a processor, a source); called once in each process."""

    def run(self, task: Task, shards: Path, heartbeat: Heartbeat) -> Record:
        """Do one task, writing shards into the folder `shards` and calling `heartbeat` before each row."""

    def fault_of(self, task: Task, poison: Poison) -> str | None:
        """Say what fault of the run it is that a row of `task` is poison; None where the row can be rejected."""


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """What a worker is sent to do: call a method of the job with (task, folder, heartbeat, *arguments)."""

    task: Task
    folder: Path
    """Where shards are written."""
    method: str = "run"
    arguments: tuple[Any, ...] = ()

    def alone(self, row: int, folder: Path) -> Assignment:
        """Return the assignment of one row, writing into another folder."""
        return replace(self, task=self.task.alone(row), folder=folder)


def report(assignment: Assignment, result: Any, reported: int, progress: Progress) -> None:
    """Count what a finished task adds to what was reported of it."""
    if isinstance(result, Record):
        rows = len(assignment.task.numbers)
        progress(rows - reported, result.counts.get("tokens", 0), result.counts["rows_rejected"])


def split_rows(total: int, rows_per_task: int) -> list[Task]:
    """Cut `total` rows into tasks of `rows_per_task`; depends on nothing else."""
    return [
        Task(index=index, start=start, stop=min(start + rows_per_task, total))
        for index, start in enumerate(range(0, total, rows_per_task))
    ]


def tasks_of(rows: Sequence[int], rows_per_task: int) -> list[Task]:
    """Cut some rows, in order, into tasks."""
    parts = [tuple(rows[start : start + rows_per_task]) for start in range(0, len(rows), rows_per_task)]
    return [Task(index=index, start=part[0], stop=part[-1] + 1, only=part) for index, part in enumerate(parts)]


def rows_per_task(total: int) -> int:
    """Return a task size: 64 tasks, of at least 256 rows (small runs: few files) and at most 4096 (long runs: a worker
    loses little when it is killed, and the last ones do not idle the others)."""
    return min(4096, max(256, -(-total // 64)))
