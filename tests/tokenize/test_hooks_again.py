"""Stores of a user's functions: `retry`, `why` and `finish` run them where the user says so, never by themselves."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vlm_prep.builtin import builtin_data
from vlm_prep.core.user_code import load_hook
from vlm_prep.shards.layout import read_rejects
from vlm_prep.shards.manifest import read_manifest
from vlm_prep.shards.reader import Store

CODE = """
def chat(row):
    turns = [{"role": "user", "content": "<image>?"}, {"role": "assistant", "content": row["said"]}]
    return {"messages": turns, "image": row["file"]}

def begins(row):
    return {**row, "input_ids": [7, *row["input_ids"]], "labels": [-100, *row["labels"]]}
"""
TOLD = ("--row-hook", "hooks_done_again:chat", "--token-hook", "hooks_done_again:begins")
Run = Callable[..., Any]


@pytest.fixture
def run(tmp_path: Path, call: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in a folder with hooks and rows, of whose pictures every second is missing."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hooks_done_again.py").write_text(CODE)
    picture = next(builtin_data().parent.rglob("*.jpg"))
    shutil.copy(picture, tmp_path / "there.jpg")
    rows = [{"file": f"{'gone' if row % 2 else 'there'}.jpg", "said": f"a {row}"} for row in range(6)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.syspath_prepend(tmp_path)

    def read_anew(*words: object) -> Any:
        sys.modules.pop("hooks_done_again", None)
        load_hook.cache_clear()
        return call(*words)

    return read_anew


def tokenized(run: Run, out: str, *words: str) -> None:
    how = ("--processor", "builtin:qwen2.5-vl-mini", "--max-length", "2048", "--max-reject-rate", "1", "--quiet")
    done = run("tokenize", "rows.jsonl", *how, *TOLD, *words, "--out", out)
    assert done.returncode == 0, done.stderr


def test_a_retry_runs_the_hooks_that_the_user_names_and_says_so(run: Run, tmp_path: Path) -> None:
    tokenized(run, "tok")
    shutil.copy(tmp_path / "there.jpg", tmp_path / "gone.jpg")
    retry = ("retry", "tok", "--reason", "missing_file", "--quiet")
    for words in ((), TOLD[:2], TOLD[2:], (*TOLD[:2], "--token-hook", "hooks_done_again:chat")):
        refused = run(*retry, *words)
        assert refused.returncode == 2 and "no code is run because a store says so" in refused.stderr, refused.stderr
    done = run(*retry, *TOLD)
    assert done.returncode == 0, done.stderr
    manifest = read_manifest(tmp_path / "tok")
    assert read_rejects(tmp_path / "tok") == [] and manifest.totals["rows_written"] == 6
    assert [row["input_ids"][0] for row in Store(tmp_path / "tok").rows()] == [7] * 6
    assert manifest.proof["token_hook"]["rows_changed"] == 6
    assert manifest.totals["changed_by_token_hook"] == 6


def test_a_retry_with_changed_code_says_that_the_store_is_of_other_code(run: Run, tmp_path: Path) -> None:
    tokenized(run, "tok")
    shutil.copy(tmp_path / "there.jpg", tmp_path / "gone.jpg")
    (tmp_path / "hooks_done_again.py").write_text(CODE.replace("[7,", "[8,"))
    refused = run("retry", "tok", "--reason", "missing_file", "--quiet", *TOLD)
    assert refused.returncode != 0 and "token_hook" in refused.stderr and "Traceback" not in refused.stderr


def test_why_compares_with_the_hooks_that_stand_behind_its_run_file(run: Run, tmp_path: Path) -> None:
    tokenized(run, "tok")
    refused = run("why", "tok")
    assert refused.returncode == 2 and "--token-hook" in refused.stderr and "--config" in refused.stderr
    same = run("why", "tok", "--config", "tok/run.yaml", *TOLD)
    assert same.returncode == 0 and "nothing changed" in same.stdout, same.stdout + same.stderr
    (tmp_path / "hooks_done_again.py").write_text(CODE + "\n# other\n")
    other = run("why", "tok", "--config", "tok/run.yaml", *TOLD)
    assert other.returncode == 1 and "token_hook" in other.stdout and "row_hook" in other.stdout


def test_finish_merges_the_parts_of_a_run_with_hooks(run: Run, tmp_path: Path) -> None:
    tokenized(run, "tok")
    for part in ("1/2", "2/2"):
        tokenized(run, "parts", "--part", part)
    refused = run("finish", "parts", "--quiet")
    assert refused.returncode == 2 and "no code is run because a store says so" in refused.stderr
    done = run("finish", "parts", "--quiet", *TOLD, "--max-reject-rate", "1")
    assert done.returncode == 0, done.stderr
    assert read_manifest(tmp_path / "parts").fingerprint == read_manifest(tmp_path / "tok").fingerprint
    rows, others = ([row["input_ids"].tolist() for row in Store(tmp_path / out).rows()] for out in ("parts", "tok"))
    assert rows == others and [row[0] for row in rows] == [7, 7, 7]
