"""`vlm-prep plan` from the command line."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

from vlm_prep.builtin import builtin_data

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


def test_plan_as_json_has_the_same_numbers(command: Command) -> None:
    result = command("plan", builtin_data(), "-p", PROCESSOR, "--rows", 20, "--no-budgets", "--json", "--quiet")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert (found["rows"], found["sampled"], found["exact"]) == (40, 20, False)
    assert [each["max_length"] for each in found["lengths"]] == [2048, 4096, 8192, 16384, 32768]
    assert found["budgets"]["tried"] == []
    assert result.stderr == ""


def test_options_that_exclude_each_other_are_refused(command: Command) -> None:
    for line in (("--rows", 5, "--fraction", 0.5), ("--max-pixels", 200_704, "--no-budgets")):
        result = command("plan", builtin_data(), "-p", PROCESSOR, *line)
        assert result.returncode == 2
        assert "exclude each other" in result.stderr
    assert command("plan", builtin_data(), "-p", PROCESSOR, "--fraction", 0).returncode == 2
