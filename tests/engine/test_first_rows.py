"""A run whose first rows are nearly all rejected for one reason stops before it writes anything."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vlm_prep.cli.place import Place, Work
from vlm_prep.core.errors import FirstRowsError, RejectRateError
from vlm_prep.core.records import Rejected
from vlm_prep.core.settings import IngestConfig
from vlm_prep.engine.accounts import FIRST_REJECTS, check_first_rows
from vlm_prep.engine.run_options import RunOptions
from vlm_prep.ingest.ingest_run import ingest
from vlm_prep.ingest.source import open_samples

Options = Callable[..., RunOptions]


def rejected(reason: str, line: int) -> Rejected:
    return Rejected(
        sample_id=f"d/{line - 1}", dataset="d", source="d.jsonl", line=line, stage="ingest", reason=reason, message="no"
    )


def outputs(counts: dict[str, int], written: int) -> list[object]:
    reasons = [reason for reason, count in counts.items() for _ in range(count)]
    return [*(rejected(reason, line) for line, reason in enumerate(reasons, 1)), *[object()] * written]


@pytest.mark.parametrize(
    ("counts", "written", "limit", "stops"),
    [
        ({"bad_row": FIRST_REJECTS}, 0, 0.05, True),
        ({"bad_row": FIRST_REJECTS + 1}, FIRST_REJECTS, 0.05, True),
        ({"bad_row": FIRST_REJECTS}, FIRST_REJECTS, 0.05, False),  # half of the first rows may always be
        ({"bad_row": FIRST_REJECTS - 1}, 0, 0.05, False),  # too few to say something about a source
        ({"bad_row": FIRST_REJECTS, "missing_file": FIRST_REJECTS}, 0, 0.05, False),  # no one reason
        ({"bad_row": 3 * FIRST_REJECTS}, FIRST_REJECTS, 0.75, False),
        ({"bad_row": 3 * FIRST_REJECTS + 1}, FIRST_REJECTS, 0.75, True),
        ({"bad_row": FIRST_REJECTS}, 0, 1.0, False),
        ({}, FIRST_REJECTS, 0.0, False),
        ({}, 0, 0.0, False),
    ],
)
def test_one_reason_for_more_than_half_of_the_first_rows_stops_a_run(
    counts: dict[str, int], written: int, limit: float, stops: bool
) -> None:
    found = outputs(counts, written)
    if not stops:
        check_first_rows(found, limit)
        return
    with pytest.raises(RejectRateError) as caught:
        check_first_rows(found, limit)
    assert f"{counts['bad_row']} of the first {len(found)} rows are rejected, bad_row" in caught.value.message
    assert "the first is d.jsonl:1: no" in caught.value.message
    assert "nothing is written; `max_reject_rate=1` goes on" in str(caught.value.hint)


def test_nothing_is_left_behind_by_a_run_that_stopped(tmp_path: Path, options: Options) -> None:
    turns = [{"role": "user", "content": "<image>?"}, {"role": "assistant", "content": "!"}]
    row: dict[str, Any] = {"images": ["nowhere.png"], "messages": turns}
    source, out = tmp_path / "rows.jsonl", tmp_path / "out"
    source.write_text("\n".join([json.dumps(row)] * FIRST_REJECTS))
    with pytest.raises(RejectRateError, match=r"missing_file; the first is rows\.jsonl:1: "):
        ingest(open_samples(source), IngestConfig(), options(out))
    assert not list(out.rglob("*.arrow")) and not (out / "manifest.json").exists()
    manifest = ingest(open_samples(source), IngestConfig(), options(tmp_path / "all", max_reject_rate=1.0))
    assert manifest is not None and manifest.totals["rejects"] == {"missing_file": FIRST_REJECTS}


def test_a_command_that_stopped_before_its_run_says_so_and_shows_no_store(tmp_path: Path) -> None:
    def run() -> None:
        check_first_rows(outputs({"bad_row": FIRST_REJECTS}, 0), 0.05)

    (tmp_path / "_work").mkdir()  # what a run has begun
    place = Place(folder=tmp_path, url="s3://nowhere/at-all")
    todo = Work(place=place, say=lambda line: None, run=run, preview=lambda: None, identity=dict)
    with pytest.raises(FirstRowsError, match="stopped before the run"):
        todo.do_and_show(False)
