"""`vlm-prep plan` from the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vlm_prep.builtin import builtin_data
from vlm_prep.cli import main as cli

PROCESSOR = "builtin:qwen2.5-vl-mini"
Command = Callable[..., subprocess.CompletedProcess[str]]


def test_plan_prints_tables_and_writes_nothing(command: Command, tmp_path: Path) -> None:
    line = ("plan", builtin_data(), "-p", PROCESSOR, "--fps", 2, "--max-length", 2048, "--max-pixels", 200_704)
    result = command(*line, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert "  tokens     15,101, 1,486 trained" in lines
    of_length = next(each.split() for each in lines if each.startswith("  2,048 "))
    assert of_length[:5] == ["2,048", "0", "15,101", "8", "92.2%"]
    assert [each.split()[0] for each in lines[-2:]] == ["200,704", "12,845,056"]
    assert list(tmp_path.iterdir()) == []


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> Any:
    """Run the command in this process; return its exit status."""
    line = ["vlm-prep", "plan", builtin_data(), "-p", PROCESSOR, *arguments]
    monkeypatch.setattr(sys, "argv", [str(each) for each in line])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code


def test_plan_as_json_says_that_it_is_a_sample(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--rows", 20, "--no-budgets", "--json", "--quiet") in (0, None)
    found = json.loads(capfd.readouterr().out)
    assert (found["rows"], found["sampled"], found["exact"]) == (40, 20, False)
    assert [each["max_length"] for each in found["lengths"]] == [2048, 4096, 8192, 16384, 32768]
    assert found["budgets"]["tried"] == []


def test_a_job_is_planned_with_its_own_pixels(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "job.yaml").write_text("tokenize:\n  max_pixels: 100352\n")
    common = ("--rows", 8, "--no-budgets", "--json", "--quiet")
    found = {}
    for name, more in (
        ("job", ("--config", tmp_path / "job.yaml")),
        ("argument", ("--processor-arg", "max_pixels=100352")),
        ("own", ()),
    ):
        assert run(monkeypatch, *common, *more) in (0, None)
        found[name] = json.loads(capfd.readouterr().out)["tokens"]
    assert found["job"] == found["argument"] != found["own"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (("--rows", 5, "--fraction", 0.5), "exclude each other"),
        (("--max-pixels", 200_704, "--no-budgets"), "exclude each other"),
        (("--fraction", 0), "--fraction 0: expected a number above 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], line: tuple[object, ...], message: str
) -> None:
    assert run(monkeypatch, *line) == 2
    assert message in capfd.readouterr().err
