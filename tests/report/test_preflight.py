"""`plan --rows-file` lists the rows that a run would reject: the same ones, with the same reasons."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from vlm_prep.builtin import builtin_data
from vlm_prep.cli.flags import read
from vlm_prep.cli.plan import command as plan_command
from vlm_prep.core.errors import InputError
from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.engine.stage import RunOptions
from vlm_prep.ingest.source import open_samples
from vlm_prep.report.plan.estimate import SampleSize
from vlm_prep.report.plan.preflight import preflight, preflight_text
from vlm_prep.shards.layout import read_rejects
from vlm_prep.tokenize.tokenize_run import tokenize

PROCESSOR = "builtin:qwen2.5-vl-mini"
Options = Callable[..., RunOptions]
ALL = SampleSize(fraction=1.0)
PHOTO = str(builtin_data().parent / "photos" / "coffee.jpg")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """300 rows: some no JSON, some without their file, some without an answer, some long, of one turn or of many."""
    lines = []
    for number in range(300):
        turns: list[dict[str, Any]] = [
            {"role": "user", "content": "<image>What?"},
            {"role": "assistant", "content": f"It is {number}."},
        ]
        if number % 50 == 9:
            turns.pop()
        if number % 60 == 11:
            turns[1]["content"] = "word " * 2000
        if number % 60 == 31:
            turns += [{"role": r, "content": "word " * 60} for r in ("user", "assistant")] * 4
        if number == 40:  # too long, and nothing of it is trained
            turns[1] = {**turns[1], "content": "word " * 2000, "train": False}
        images = [PHOTO if number % 70 != 13 else "no.jpg"]
        row = json.dumps({"id": f"n{number}", "messages": turns, "images": images})
        lines.append("{" if number % 100 == 17 else row)
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("workers", [0, 2])
def test_the_rows_are_those_that_a_run_rejects(source: Path, tmp_path: Path, options: Options, workers: int) -> None:
    file = tmp_path / "rejects.jsonl"
    run = options(tmp_path / "unused", workers=workers)
    told = preflight(open_samples(source), PROCESSOR, TokenizeConfig(), run, [512, 1024], ALL, file)
    config = TokenizeConfig(max_length=512)
    tokenize(open_samples(source), PROCESSOR, config, options(tmp_path / "out", max_reject_rate=1.0))
    rejects = read_rejects(tmp_path / "out")
    names = ("sample_id", "reason", "source", "line", "kept")
    found = [json.loads(line) for line in file.read_text().splitlines()]
    assert [[each[name] for name in names] for each in found] == [[each[name] for name in names] for each in rejects]
    assert {"overlong", "missing_file", "bad_json", "no_assistant_turn"} == told["rejects"].keys()
    assert all(f"rows/{each['number']}" == each["sample_id"] for each in found)
    assert any("512 or 1,024" in each["message"] for each in found if each["reason"] == "overlong")
    assert f"{len(rejects)} would be rejected" in preflight_text(told)


POLICIES: dict[str, dict[str, Any]] = {
    "drop": {"max_length": 512},
    "truncate": {"max_length": 512, "overlong": "truncate"},
    "cut": {"max_length": 512, "overlong": "cut"},
    "cut inside pictures": {"max_length": 100, "overlong": "cut"},
    "rescue": {"max_length": 400, "overlong": "rescue"},
    "rescue by few steps": {"max_length": 400, "overlong": "rescue", "rescue": "split"},
    "exact": {"exact_length": 500},
    "no limit": {},
}


@pytest.mark.parametrize("policy", POLICIES)
def test_what_becomes_of_long_rows_is_what_a_run_makes_of_them(
    source: Path, tmp_path: Path, options: Options, policy: str
) -> None:
    """Reasons and messages too; through the command, whose settings the run takes as well."""
    file, out = tmp_path / "rejects.jsonl", tmp_path / "out"
    config = TokenizeConfig(**POLICIES[policy])
    flags = [word for name, value in POLICIES[policy].items() for word in (f"--{name.replace('_', '-')}", str(value))]
    line = [str(source), "-p", PROCESSOR, "--rows-file", str(file), "--workers", "1", "--quiet", *flags]
    arguments = read(plan_command, line)
    preflight(
        open_samples(source),
        PROCESSOR,
        arguments["config"],
        options(tmp_path / "unused"),
        arguments["max_length"] or [],
        ALL,
        file,
    )
    tokenize(open_samples(source), PROCESSOR, config, options(out, max_reject_rate=1.0))
    found = [json.loads(each) for each in file.read_text().splitlines()]
    assert [each | {"number": 0} for each in found] == [each | {"number": 0} for each in read_rejects(out)]
    reasons = {each["sample_id"]: each["reason"] for each in found}
    if "max_length" in POLICIES[policy] and policy != "cut":
        assert "overlong" in reasons.values()


def test_several_lengths_are_for_rows_that_are_dropped(source: Path, tmp_path: Path, options: Options) -> None:
    config = TokenizeConfig(max_length=512, overlong="rescue")
    with pytest.raises(InputError, match="2 values of `max_length`"):
        preflight(open_samples(source), PROCESSOR, config, options(tmp_path), [512, 1024], ALL, tmp_path / "a.jsonl")


def test_the_file_may_be_csv_or_parquet(source: Path, tmp_path: Path, options: Options) -> None:
    run = options(tmp_path / "unused")
    files = [tmp_path / f"rejects.{end}" for end in ("csv", "parquet", "jsonl")]
    for file in files:
        preflight(open_samples(source, limit=120), PROCESSOR, TokenizeConfig(), run, [], ALL, file)
    as_csv = [row["sample_id"] for row in csv.DictReader(files[0].read_text().splitlines())]
    lines = [json.loads(line)["sample_id"] for line in files[2].read_text().splitlines()]
    assert as_csv == pq.read_table(files[1]).column("sample_id").to_pylist() == lines and lines
    with pytest.raises(InputError, match="rows_file"):
        preflight(open_samples(source), PROCESSOR, TokenizeConfig(), run, [], ALL, tmp_path / "rejects.txt")
