"""Where and how a stage runs, each said once as in `core.settings`; none of it changes what is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_doc import Doc
from annotated_types import Ge, Gt, Le

from vlm_prep.core.fields import Flag, IsPath, Settings

Engine = Literal["local", "ray"]


@dataclass(frozen=True, kw_only=True)
class WorkerConfig(Settings):
    """Who does the work of a run; none of it changes what is written."""

    title: ClassVar[str] = "Workers"

    workers: Annotated[
        int | None,
        Ge(1),
        Doc(
            "Worker processes; the output does not depend on it. [default: one for each processor of this machine, or "
            "of the cluster at `ray_address`]"
        ),
    ] = None
    sample_timeout: Annotated[float, Gt(0), Doc("Reject a row that keeps a worker busy for more seconds.")] = 300.0
    worker_memory: Annotated[
        str, Doc("Reject a row that needs more memory of a worker, e.g. 8G (the libraries take about 1G).")
    ] = "8G"
    log_file: Annotated[str | None, IsPath(), Doc("Append all that is said, with times, also with --quiet.")] = None
    events: Annotated[
        str | None,
        IsPath(),
        Doc("Append a JSON object a line for each event: start, progress, task, reject, note, end; with times."),
    ] = None


@dataclass(frozen=True, kw_only=True)
class FinishConfig(WorkerConfig):
    """The same, and what counts as success."""

    max_reject_rate: Annotated[
        float, Ge(0.0), Le(1.0), Doc("Exit with status 3 when a larger share of rows is rejected.")
    ] = 0.05


@dataclass(frozen=True, kw_only=True)
class RunConfig(FinishConfig):
    """Where a stage writes and how it runs; none of it changes what is written."""

    title: ClassVar[str] = "Run"

    out: Annotated[
        str | None,
        Flag(short="-o"),
        IsPath(),
        Doc("Folder to write, or s3://bucket/prefix; a rerun continues. [default: SOURCE's name + the stage's end]"),
    ] = None
    work_dir: Annotated[
        str | None,
        IsPath(),
        Doc("Folder in which a store for an object store is made first. [default: as without `out`]"),
    ] = None
    fresh: Annotated[bool, Doc("Discard another run's output in `out` and start over.")] = False
    part: Annotated[
        str | None,
        Doc(
            "Do part i of n (i/n, from 1/n to n/n) and nothing else: for the jobs of a scheduler's array, which share "
            "the folder `out` and need nothing else of each other. `vlm-prep finish OUT` when all are done."
        ),
    ] = None
    engine: Annotated[Engine, Doc("Work on this machine, or on a Ray cluster.")] = "local"
    ray_address: Annotated[
        str | None, Doc("Of the Ray cluster, auto or host:port. [default: start one on this machine]")
    ] = None
