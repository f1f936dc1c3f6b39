"""Workers of a run share the comparisons of the first rows of shapes; what they conclude does not depend on it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vlm_prep.builtin import builtin_data
from vlm_prep.core.records import Encoded
from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.engine.tasks import Record, Task, no_heartbeat
from vlm_prep.ingest.source import open_samples
from vlm_prep.tokenize.tokenize_job import TokenizeJob
from vlm_prep.tokenize.verify import claimed
from vlm_prep.tokenize.verify.choose import check_row
from vlm_prep.tokenize.verify.claimed import BEGINNING, ClaimedShapes, TaskComparisons
from vlm_prep.tokenize.verify.refusals import Refusals
from vlm_prep.tokenize.verify.shapes import shapes_of

PROCESSOR = "builtin:qwen2.5-vl-mini"
CONFIG = TokenizeConfig(verify_fraction=1e-9)


def test_a_shape_falls_to_the_first_row_that_is_noted_for_it(tmp_path: Path) -> None:
    mine, theirs = ClaimedShapes(tmp_path), ClaimedShapes(tmp_path)
    theirs.claim(300, ["a", "b"])
    mine.claim(20, ["b", "c"])
    mine.claim(400, ["a"])
    assert theirs.falls_to(300, ["a"])
    assert not theirs.falls_to(300, ["b"])
    assert mine.falls_to(20, ["b"])
    assert not mine.falls_to(400, ["a"])
    assert mine.falls_to(400, ["a", "never noted"])


def test_notes_that_were_cut_or_never_written_cost_comparisons_and_nothing_else(tmp_path: Path) -> None:
    claims = ClaimedShapes(tmp_path)
    claims.claim(7, ["a"])
    (file,) = tmp_path.iterdir()
    file.write_bytes(b"\xff\xff 12\nx y\n7" + file.read_bytes()[:9])
    assert claims.falls_to(9, ["a"])
    claims.claim(9, ["a"])
    assert claims.falls_to(9, ["a"])
    assert ClaimedShapes(tmp_path / "gone").falls_to(9, ["a"])


def test_what_the_beginning_compares_falls_to_nobody_else_until_it_leaves_it(tmp_path: Path) -> None:
    claims = ClaimedShapes(tmp_path)
    claims.claim(BEGINNING, ["a", "b"])
    claims.claim(0, ["a", "b"])
    assert not claims.falls_to(0, ["a", "b"])
    claims.leave(BEGINNING, ["a"])
    claims.claim(5, ["a"])
    assert claims.falls_to(5, ["a"])
    assert not claims.falls_to(0, ["b"])


@pytest.fixture(scope="module")
def job() -> TokenizeJob:
    made = TokenizeJob(open_samples(builtin_data()), PROCESSOR, CONFIG)
    made.setup()
    return made


def compared(job: TokenizeJob, start: int, stop: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The rows that a process which knows nothing yet compares in a task, which it does."""
    seen: list[str] = []

    def noted(oracle: Any, row: Any) -> Counter[str]:
        seen.append(row["sample_id"])
        return check_row(oracle, row)

    monkeypatch.setattr(claimed, "check_row", noted)
    job._believed, job._equal = set(), set()
    folder.mkdir(exist_ok=True)
    assert isinstance(job.run(Task(index=start, start=start, stop=stop), folder, no_heartbeat), Record)
    return seen


def test_a_second_process_compares_only_shapes_that_no_row_before_has(
    job: TokenizeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = len(job.samples)
    shapes = {each.sample_id: {*shapes_of(each)} for each in job.results(0, rows) if isinstance(each, Encoded)}
    alone = compared(job, rows // 2, rows, tmp_path / "b", monkeypatch)
    first = compared(job, 0, rows // 2, tmp_path / "a", monkeypatch)
    second = compared(job, rows // 2, rows, tmp_path / "a", monkeypatch)
    known = {shape for name in first for shape in shapes[name]}
    assert {shape for name in (*first, *second) for shape in shapes[name]} == {
        s for each in shapes.values() for s in each
    }
    assert all(shapes[name] - known for name in second)
    assert len(second) < len(alone)


def test_the_first_task_compares_nothing_that_the_beginning_did(
    job: TokenizeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = len(job.samples)
    whole, tasks = Task(index=0, start=0, stop=rows), [Task(index=0, start=0, stop=rows)]
    job._believed, job._equal, job._unsure = set(), set(), set()
    equal = job.check_start(replace(whole, stop=rows // 2), tmp_path, no_heartbeat)
    job._believed, job._equal = set(), set()  # another process
    record = job.run(whole, tmp_path, no_heartbeat)
    firsts = set(record.facts["firsts"].values())
    assert equal
    assert set(equal) <= firsts
    assert not set(equal) & set(record.facts["equal"])
    asked: list[tuple[int, ...] | None] = []

    def send(method: str, task: Task, *arguments: Any) -> list[Any]:
        asked.append(task.only)
        return []

    for known in (equal, []):
        refusals = Refusals(tasks)
        refusals.knows(known)
        refusals.find([record], tmp_path, send)
    assert asked == [tuple(sorted(equal))]  # where the run that began was killed: nothing is taken on trust


def test_a_row_is_equal_only_if_all_its_documents_that_matter_were_compared(
    job: TokenizeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = [each for each in job.results(0, len(job.samples)) if isinstance(each, Encoded) and each.media][:2]
    claims = ClaimedShapes(tmp_path)
    task = TaskComparisons(claims, set())
    monkeypatch.setattr(claimed, "shapes_of", lambda encoded: ("media " + encoded.sample_id, "text"))
    firsts = dict.fromkeys(("media " + one.sample_id, "media " + other.sample_id, "text"), 5)
    claims.claim(1, ["media " + other.sample_id, "text"])
    assert task.takes((5, 0, 0), one, firsts, chosen=False)
    assert task.takes((5, 0, 1), other, firsts, chosen=False)
    monkeypatch.setattr(claimed, "check_row", lambda oracle, row: Counter({"image": 1}))
    monkeypatch.setattr(claimed, "ShardReader", lambda path, info: Rows())
    infos: Any = [type("Info", (), {"name": "a"})]
    looked: Any = object()
    assert list(task.compare(looked, tmp_path, infos, no_heartbeat)) == []
    assert task.equal() == set()
    assert task.equal({5}) == {5}


class Rows:
    def row(self, index: int) -> dict[str, Any]:
        return {"sample_id": str(index)}
