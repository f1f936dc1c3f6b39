"""The accounts of a stage's records, and what stops a run that loses too many rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from vlm_prep.core.errors import FirstRowsError, RejectRateError, RejectReason, VlmPrepError
from vlm_prep.core.records import Rejected, in_seconds
from vlm_prep.engine.run_options import RunOptions
from vlm_prep.engine.tasks import Record


def sum_counts(records: Iterable[Record], *, rows: int | None = None) -> dict[str, Any]:
    """Return the counts of all records together, times in seconds, and check that no row is missing.

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
    return in_seconds(totals)


def sum_datasets(records: Iterable[Record]) -> dict[str, dict[str, Any]]:
    """Return the counts of each dataset."""
    datasets: dict[str, Counter[str]] = {}
    for record in records:
        for name, counts in record.facts["datasets"].items():
            datasets.setdefault(name, Counter()).update(counts)
    return {name: in_seconds(counts) for name, counts in sorted(datasets.items())}


def reject_reasons(records: Iterable[Record]) -> dict[str, int]:
    """Return how many rows were rejected for each reason."""
    reasons = Counter(reject.reason for record in records for reject in record.rejects)
    return dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0])))


def _about_files(totals: dict[str, Any]) -> str:
    missing = totals["rejects"].get(RejectReason.MISSING_FILE.value)
    return ". Relative paths start at media_dir of the meta JSON, or at `media_dir`" if missing else ""


FIRST_REJECTS = 32
"""Rows that a source must have before its first ones can stop a run."""


def check_first_rows(results: Iterable[object], limit: float) -> None:
    """Go through the outputs of the first rows, and stop where one reason rejects most of them.

    Args:
        results: one for each row, or more.
        limit: the share of rejected rows that the user allows; at least half of the first rows always may be.

    Raises:
        FirstRowsError: before anything is written, with the first reject.
    """
    rows, reasons, first = 0, Counter[str](), dict[str, Rejected]()
    for result in results:
        rows += 1
        if isinstance(result, Rejected):
            reasons[result.reason] += 1
            first.setdefault(result.reason, result)
    if rows < FIRST_REJECTS:
        return
    reason, count = reasons.most_common(1)[0] if reasons else ("", 0)
    if count / rows > max(limit, 0.5):
        example = first[reason]
        raise FirstRowsError(
            f"stopped before the run: {count} of the first {rows} rows are rejected, {reason}; the first is "
            f"{example.source}:{example.line}: {example.message}",
            "nothing is written; `max_reject_rate=1` goes on all the same" + _about_files({"rejects": reasons}),
        )


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
            f"`max_reject_rate={options.max_reject_rate:g}` says how many are too many{_about_files(totals)}",
        )
