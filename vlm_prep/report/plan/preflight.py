"""The rows that a run over a source would reject, with the reason of each, before it is started.

Rows are tokenized by the job of `tokenize` itself, without writing anything: a row that it would reject while reading,
probing, rendering, labelling, rescuing or cutting is one here, and so is one that crashes or hangs its worker. Rows
that are not made shorter may be compared with several lengths at once. What the run compares with the real processor
beyond the first rows of each shape is not compared here.
"""

from __future__ import annotations

import csv
import io
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa

from vlm_prep.core.atomic_files import write_bytes_atomically, write_table_atomically
from vlm_prep.core.errors import InputError, RejectReason
from vlm_prep.core.own_process import as_before
from vlm_prep.core.records import Rejected
from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.engine.local import Limits, local_executor, start_forkserver
from vlm_prep.engine.progress import ProgressBar
from vlm_prep.engine.stage import RunOptions
from vlm_prep.engine.tasks import NO_ROW, Assignment, Heartbeat, Poison, Task, tasks_of
from vlm_prep.ingest.source import Samples
from vlm_prep.processors.load import must_be_reachable
from vlm_prep.report.plan.estimate import SampleSize, choose_rows
from vlm_prep.shards.schema import REJECTS_KEPT
from vlm_prep.tokenize.tokenize_job import STAGE, TokenizeJob

ROWS_PER_ASSIGNMENT = 256
FORMS = (".jsonl", ".csv", ".parquet")
Told = tuple[int, Rejected]
"""(number of the row in the source, what a run would say of it)."""


@dataclass
class PreflightJob(TokenizeJob):
    """Tokenizes rows and keeps what would be rejected."""

    def look(self, task: Task, folder: Path, heartbeat: Heartbeat, lengths: Sequence[int]) -> list[Told]:
        """Return the rows of a task that a run would reject.

        Args:
            task: the rows.
            folder: not used; nothing is written.
            heartbeat: see `engine.tasks.Job`.
            lengths: limits to compare with beside the settings' own, ascending; all are smaller.
        """
        limit = self.config.max_length
        found: dict[int, Rejected] = {}
        longest: dict[int, tuple[int, str]] = {}
        for number, result in self.encoded(task, heartbeat, compare=True):
            if isinstance(result, Rejected):
                if lengths and result.reason == RejectReason.OVERLONG.value:
                    message = result.message.replace(f"--max-length is {limit}", _exceeded([*lengths, limit or 0]), 1)
                    result = replace(result, message=message)
                found[number] = result
            else:
                longest[number] = max(longest.get(number, (0, "")), (len(result.input_ids), result.kept))
        heartbeat(NO_ROW)
        for number, (length, kept) in longest.items():
            if over := [each for each in lengths if length > each]:
                message = f"{length} tokens, {_exceeded(over)}"
                reject = self.samples.reject(number, STAGE, RejectReason.OVERLONG.value, message)
                found[number] = replace(reject, kept=kept)
        return sorted(found.items())


def _exceeded(limits: Sequence[int]) -> str:
    return f"--max-length is {' or '.join(f'{limit:,}' for limit in limits)}"


@as_before()
def preflight(
    samples: Samples,
    processor: str,
    config: TokenizeConfig,
    options: RunOptions,
    lengths: Sequence[int],
    size: SampleSize,
    file: Path,
) -> dict[str, Any]:
    """Write the rows that a run would reject into `file`, in order of the source, and return their accounts.

    Args:
        samples: the source.
        processor: as for `tokenize`.
        config: as for `tokenize`, but for `max_length`; with `overlong=error` rows that would end the run are listed.
        options: how to run; `out` is not used.
        lengths: values of --max-length, ascending; none compares no length, and several are for `overlong=drop`.
        size: which share of the rows to look at.
        file: a .jsonl, .csv or .parquet file: number, and the columns of rejects.parquet.

    Raises:
        InputError: there are no rows, the file's form is none of these, or several lengths are given for rows that
            are made shorter.
        ProcessorError: the processor does not load.
        ExactnessError: a row differs from the real processor's output.
    """
    if file.suffix not in FORMS:
        raise InputError(f"`rows_file={file}`: its form is told by its end", f"one of {', '.join(FORMS)}")
    if not len(samples):
        raise InputError("the source has no rows")
    numbers = choose_rows(len(samples), size.of(len(samples)))
    if config.overlong in ("drop", "error"):
        config = replace(config, overlong="drop")
    elif len(lengths) > 1:
        raise InputError(f"`overlong={config.overlong}` with {len(lengths)} values of `max_length`", "give one of them")
    job = PreflightJob(samples, processor, replace(config, max_length=lengths[-1] if lengths else None))
    told = _look(job, tasks_of(numbers, ROWS_PER_ASSIGNMENT), lengths[:-1], options)
    _write(file, told)
    reasons, datasets = Counter(each.reason for _, each in told), Counter(each.dataset for _, each in told)
    return {
        "rows": len(samples),
        "looked_at": len(numbers),
        "rejected": len(told),
        "rejects": dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0]))),
        "datasets": dict(sorted(datasets.items())),
        "max_lengths": list(lengths),
        "lengths_compared": job.config.most_tokens is not None,
        "file": str(file),
    }


def _look(job: PreflightJob, tasks: Sequence[Task], lengths: Sequence[int], options: RunOptions) -> list[Told]:
    seen: dict[int, list[Told]] = {}
    must_be_reachable(job.processor)
    if options.workers:
        start_forkserver(job, options.workers)
    else:
        job.setup()

    def done(assignment: Assignment, result: list[Told]) -> None:
        seen[assignment.task.index] = result
        progress(len(assignment.task.numbers), 0, len(result))

    def found(poison: Poison) -> None:
        options.say(f"row {poison.row} would be rejected, {poison.reason}: {poison.message}")

    limits = Limits(sample_timeout=options.sample_timeout, worker_memory=options.worker_memory)
    rows = sum(len(task.numbers) for task in tasks)
    with tempfile.TemporaryDirectory(prefix="vlm-prep-plan-") as place:
        folder = Path(place)
        executor = local_executor(job, workers=options.workers, limits=limits, scratch=folder / "alone", found=found)
        with executor, ProgressBar(rows, "plan", show=options.progress) as progress:
            assignments = [
                Assignment(task=task, folder=folder, method="look", arguments=(tuple(lengths),)) for task in tasks
            ]
            executor.run(assignments, done, _silent)
    return [each for task in tasks for each in seen[task.index]]


def _silent(rows: int, tokens: int, rejects: int) -> None:
    """Rows are counted as they come in."""


def _write(file: Path, told: Sequence[Told]) -> None:
    rows = [{"number": number, **asdict(reject)} for number, reject in told]
    if file.suffix == ".parquet":
        schema = pa.schema([pa.field("number", pa.int64()), *REJECTS_KEPT])
        write_table_atomically(file, pa.Table.from_pylist(rows, schema=schema))
        return
    if file.suffix == ".jsonl":
        write_bytes_atomically(file, b"".join(orjson.dumps(row) + b"\n" for row in rows))
        return
    text = io.StringIO()
    names = ["number", *REJECTS_KEPT.names]
    writer = csv.DictWriter(text, names)
    writer.writeheader()
    writer.writerows(rows)
    write_bytes_atomically(file, text.getvalue().encode())


def preflight_text(found: dict[str, Any]) -> str:
    """Return what `preflight` found as text for a terminal."""
    return "\n".join(_lines(found))


def _lines(found: dict[str, Any]) -> Iterator[str]:
    whole = found["looked_at"] == found["rows"]
    of = f"{found['looked_at']:,} rows" if whole else f"{found['looked_at']:,} of {found['rows']:,} rows"
    yield f"{of} looked at, {found['rejected']:,} would be rejected"
    for reason, count in found["rejects"].items():
        yield f"  {reason:<28} {count:>10,}"
    for dataset, count in found["datasets"].items():
        yield f"  of {dataset:<25} {count:>10,}"
    if not found["lengths_compared"]:
        yield "  lengths were not compared: give --max-length"
    yield f"{found['file']} names them"
