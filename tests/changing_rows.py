"""Rows of a source that changes, for the tests of updates."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vlm_prep.builtin import builtin_data
from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.engine.stage import RunOptions
from vlm_prep.ingest.source import open_samples
from vlm_prep.report.differences import differences
from vlm_prep.shards.layout import read_origin, read_rejects
from vlm_prep.shards.manifest import read_manifest
from vlm_prep.shards.reader import Store
from vlm_prep.shards.row_ledger import read_ledger
from vlm_prep.shards.store_check import damaged_files, wrong_accounts
from vlm_prep.stream import ShardDataset
from vlm_prep.tokenize import tokenize_job
from vlm_prep.tokenize.tokenize_run import tokenize
from vlm_prep.tokenize.update_run import update

PHOTOS = builtin_data().parent / "photos"
Rows = list[dict[str, Any]]
PROCESSOR = "builtin:qwen2.5-vl-mini"
CONFIG = TokenizeConfig(max_length=1024, verify_fraction=0.005)
Options = Callable[..., RunOptions]


def row(number: int, photo: str | None = None) -> dict[str, Any]:
    """A row of text, or of a picture."""
    user = f"{'<image>' if photo else ''}What is {number}?"
    turns = [{"role": "user", "content": user}, {"role": "assistant", "content": f"It is {number}."}]
    return {"id": f"own-{number}", "messages": turns, **({"images": [photo]} if photo else {}), "score": number}


def rows_of(numbers: range) -> Rows:
    """Rows with a picture each fourth, some too long, some without their file, some without an answer."""
    found = []
    for number in numbers:
        made = row(number, f"{number % 5}.jpg" if number % 16 == 0 else None)
        if number % 97 == 9:
            made["messages"][1]["content"] = "word " * 2000
        if number % 89 == 3:
            made["images"], made["messages"][0]["content"] = ["gone.jpg"], "<image>?"
        if number % 83 == 5:
            made["messages"].pop()
        found.append(made)
    return found


class Source:
    """A data file with pictures beside it, that changes."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / "rows.jsonl"
        for number in range(5):
            shutil.copy(PHOTOS / "coffee.jpg", folder / f"{number}.jpg")

    def write(self, rows: Rows) -> None:
        self.path.write_text("".join(json.dumps(each) + "\n" for each in rows))


def bring_up(
    source: Source, out: Path, options: Options, config: TokenizeConfig = CONFIG, **settings: Any
) -> list[str]:
    said: list[str] = []
    run = options(out, max_reject_rate=1.0, say=said.append, **settings)
    update(open_samples(source.path, keep_columns=["score"]), PROCESSOR, config, run)
    return said


def assert_as_from_scratch(
    source: Source, out: Path, folder: Path, options: Options, config: TokenizeConfig = CONFIG
) -> None:
    """The updated store has the rows, rejects, accounts and record of one that is made anew."""
    scratch = folder / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    samples = open_samples(source.path, keep_columns=["score"])
    tokenize(samples, PROCESSOR, config, options(scratch, max_reject_rate=1.0))
    found = differences(Store(scratch), Store(out))
    assert found.same, found.to_json()
    assert read_rejects(out) == read_rejects(scratch)
    one, other = read_manifest(out), read_manifest(scratch)
    for name in one.totals.keys() | other.totals.keys():
        if not name.startswith(("media_shared", "media_repeated")):  # how often depends on where shards end
            assert one.totals.get(name) == other.totals.get(name), name
    assert one.identity == other.identity
    assert damaged_files(out, one) + wrong_accounts(out, one) == []
    ledgers = [read_ledger(each, read_manifest(each), (read_origin(each) or {})["rows"]) for each in (out, scratch)]
    for name in ("sample_ids", "files", "notes"):
        assert getattr(ledgers[0], name) == getattr(ledgers[1], name)
    for name in ("digests", "documents", "states"):
        assert getattr(ledgers[0], name).tolist() == getattr(ledgers[1], name).tolist()
    assert not (out / "_work").exists()
    assert sorted(path.name for path in (out / "train").glob("*.arrow")) == [info.name for _, info in one.shards()]
    assert len(ShardDataset(out)) == len(Store(scratch))


def done_rows(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The rows that are really tokenized."""
    names: list[str] = []
    whole = tokenize_job.TokenizeJob._made

    def noted(self: Any, item: Any, **options: Any) -> Any:
        names.append(item.sample_id)
        return whole(self, item, **options)

    monkeypatch.setattr(tokenize_job.TokenizeJob, "_made", noted)
    return names


class Killed(BaseException):
    """A kill, as far as this process goes."""


def killed_at_each_step(
    monkeypatch: pytest.MonkeyPatch, old: Path, at: Path, bring: Callable[[Path], object]
) -> Iterator[bool]:
    """Copy a store to `at` and kill `bring` at its first change of a file, then at the second, and so on.

    Yields after each whether it came to its end, which it does the last time.
    """
    ended, kill_at = False, 0
    while not ended:
        kill_at += 1
        shutil.copytree(old, at)
        steps = iter(range(1, 10_000))
        with monkeypatch.context() as patch:
            for name in ("replace", "rename", "link", "unlink"):
                patch.setattr(os, name, dying(getattr(os, name), steps, kill_at))
            try:
                bring(at)
                ended = True
            except Killed:
                pass
        yield ended
        shutil.rmtree(at)


def dying(real: Callable[..., Any], steps: Iterator[int], kill_at: int) -> Callable[..., Any]:
    def step(*arguments: Any, **named: Any) -> Any:
        if next(steps) == kill_at:
            raise Killed
        return real(*arguments, **named)

    return step
