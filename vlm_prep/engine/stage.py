"""One stage from tasks to manifest: the steps that ingest, tokenize and pack share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vlm_prep.core.errors import OutputError, RejectRateError, RejectReason, VlmPrepError
from vlm_prep.core.fingerprint import digest_json
from vlm_prep.engine.local import run_tasks
from vlm_prep.engine.progress import ProgressBar
from vlm_prep.engine.tasks import Job, Record, Task
from vlm_prep.engine.workspace import Describe, Workspace
from vlm_prep.shards.manifest import Manifest, read_manifest
from vlm_prep.shards.writer import ShardInfo

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a stage runs; none of it changes what is written."""

    out: Path
    workers: int = 1
    fresh: bool = False
    progress: bool | None = None
    """Show a progress bar; None shows it on a terminal only."""
    max_reject_rate: float = 0.05
    """Largest share of rejected rows that still counts as success."""
    say: Say = print


def run_stage(
    name: str,
    identity: dict[str, Any],
    tasks: Sequence[Task],
    options: RunOptions,
    *,
    prepare: Callable[[], Job],
    describe: Callable[[Sequence[Record]], Describe],
    check: Callable[[Sequence[Record], Path], None] | None = None,
) -> Manifest:
    """Run the tasks that are not done yet, finish the folder, and return its manifest.

    Args:
        name: of the stage.
        identity: all that the output depends on; its digest is the run's fingerprint.
        tasks: all of them.
        options: how to run.
        prepare: makes the job ready in this process; only called when there is work.
        describe: makes the manifest from the records and the final shards.
        check: looks at the records and their shards (still in the given folder) before anything is final.

    Raises:
        OutputError: the folder is not ours to write, or writing failed (disk full).
        VlmPrepError: from the tasks.
    """
    fingerprint = digest_json(identity)
    workspace = Workspace(
        options.out, fingerprint, stage=name, identity=identity, fresh=options.fresh, say=options.say
    )
    if workspace.finished:
        options.say(f"{options.out} is complete already: nothing to do")
        return read_manifest(options.out)
    try:
        pending = workspace.pending(tasks)
        if len(pending) < len(tasks):
            options.say(f"continuing: {len(tasks) - len(pending)} of {len(tasks)} tasks are done")
        job = prepare()
        with ProgressBar(sum(task.stop - task.start for task in pending), name, show=options.progress) as progress:
            run_tasks(
                job, pending, workspace.shards, workers=options.workers, commit=workspace.commit, progress=progress
            )
        records = workspace.records(tasks)
        workspace.recall(records)
        if check is not None:
            check(records, workspace.shards)
        return workspace.finish(records, _identified(describe(records), fingerprint, identity))
    except OSError as error:
        raise OutputError(
            f"{options.out}: {error}",
            "what was committed is kept: when the cause is gone (make room on a full disk), run the same command again",
        ) from error
    finally:
        workspace.release()


def _identified(describe: Describe, fingerprint: str, identity: dict[str, Any]) -> Describe:
    """Return a describer whose manifest carries the run's identity."""

    def describe_with_identity(splits: dict[str, list[ShardInfo]]) -> tuple[Manifest, str]:
        manifest, card = describe(splits)
        return replace(manifest, fingerprint=fingerprint, identity=identity), card

    return describe_with_identity


def sum_counts(records: Iterable[Record], *, rows: int | None = None) -> dict[str, int]:
    """Return the counts of all records together, and check that no row is missing.

    Args:
        records: of all tasks.
        rows: how many rows the stage was given; None does not compare.

    Raises:
        VlmPrepError: rows in != written + rejected, or another number of rows than was given.
    """
    totals: Counter[str] = Counter(rows_in=0, rows_written=0, rows_rejected=0)
    for record in records:
        totals.update(record.counts)
    accounted = totals["rows_written"] + totals["rows_rejected"]
    if totals["rows_in"] != accounted or rows not in (None, accounted):
        given = totals["rows_in"] if rows is None else rows
        raise VlmPrepError(
            f"{given} rows in, {totals['rows_written']} written and {totals['rows_rejected']} rejected: "
            "the accounts do not add up",
            "this is a defect of vlm-prep: please report it",
        )
    return dict(totals)


def sum_datasets(records: Iterable[Record]) -> dict[str, dict[str, int]]:
    """Return the counts of each dataset."""
    datasets: dict[str, Counter[str]] = {}
    for record in records:
        for name, counts in record.facts["datasets"].items():
            datasets.setdefault(name, Counter()).update(counts)
    return {name: dict(counts) for name, counts in sorted(datasets.items())}


def reject_reasons(records: Iterable[Record]) -> dict[str, int]:
    """Return how many rows were rejected for each reason."""
    reasons = Counter(reject.reason for record in records for reject in record.rejects)
    return dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0])))


def _about_files(totals: dict[str, Any]) -> str:
    missing = totals["rejects"].get(RejectReason.MISSING_FILE.value)
    return ". Relative paths start at media_dir of the meta JSON, or at --media-dir" if missing else ""


def check_reject_rate(totals: dict[str, Any], options: RunOptions) -> None:
    """Raise when too many rows were rejected.

    Raises:
        RejectRateError: the output is complete, but more rows are missing than the user allows.
    """
    rows, rejected = totals["rows_in"], totals["rows_rejected"]
    if rows and rejected / rows > options.max_reject_rate:
        reasons = ", ".join(f"{count} {reason}" for reason, count in totals["rejects"].items())
        raise RejectRateError(
            f"{rejected} of {rows} rows were rejected ({rejected / rows:.1%}): {reasons}",
            f"{options.out} is complete without them; `vlm-prep rejects {options.out}` lists them. "
            f"--max-reject-rate {options.max_reject_rate:g} says how many are too many{_about_files(totals)}",
        )
