"""Tasks, jobs and records: the contract between a stage and an engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from vlm_prep.core.types import Rejected
from vlm_prep.shards.writer import ShardInfo

Progress = Callable[[int, int, int], None]
"""Called with (rows done, tokens written, rows rejected) since the last call."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """Rows [start, stop) of a stage's input."""

    index: int
    start: int
    stop: int
    split: str = "train"
    """The folder the task's shards end in."""


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

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return {
            "task": self.task,
            "split": self.split,
            "shards": [shard.to_json() for shard in self.shards],
            "rejects": [asdict(reject) for reject in self.rejects],
            "counts": self.counts,
            "facts": self.facts,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Record:
        """Read what `to_json` wrote."""
        return cls(
            task=data["task"],
            split=data["split"],
            shards=tuple(ShardInfo.from_json(item) for item in data["shards"]),
            rejects=tuple(Rejected(**item) for item in data["rejects"]),
            counts=data["counts"],
            facts=data["facts"],
        )


class Job(Protocol):
    """A stage, as workers run it. Picklable: it travels to worker processes before `setup`."""

    preload: ClassVar[tuple[str, ...]]
    """Modules that every worker needs and that are slow to import."""

    def setup(self) -> None:
        """Load what every task needs (a processor, a source); called once in each process."""

    def run(self, task: Task, shards: Path, progress: Progress) -> Record:
        """Do one task, writing shards into the folder `shards`."""


def split_rows(total: int, rows_per_task: int) -> list[Task]:
    """Cut `total` rows into tasks of `rows_per_task`; depends on nothing else."""
    return [
        Task(index=index, start=start, stop=min(start + rows_per_task, total))
        for index, start in enumerate(range(0, total, rows_per_task))
    ]


def rows_per_task(total: int) -> int:
    """Return a task size: 64 tasks, of at least 256 rows (small runs: few files) and at most 4096 (long runs: a worker
    loses little when it is killed, and the last ones do not idle the others)."""
    return min(4096, max(256, -(-total // 64)))
