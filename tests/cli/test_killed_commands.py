"""view, init, export and merge killed at any change of a file: what is there is whole, and a rerun completes it."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest
from deaths import deaths, killed

from vlm_prep.cli.main import app
from vlm_prep.core.errors import StoreError
from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.engine.stage import RunOptions
from vlm_prep.ingest.source import open_samples
from vlm_prep.shards.reader import Store
from vlm_prep.tokenize.merge_run import merge
from vlm_prep.tokenize.tokenize_run import tokenize
from vlm_prep.trainers.exporting import export

Tree = Callable[[Path], dict[str, str]]
CHANGES = ("replace", "rename", "unlink", "rmdir", "mkdir", "fsync")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("few")
    turns = [{"role": "user", "content": "Q?"}, {"role": "assistant", "content": "A."}]
    (folder / "rows.jsonl").write_text(f"{json.dumps({'messages': turns})}\n" * 3)
    tokenize(open_samples(folder / "rows.jsonl"), "builtin:qwen2.5-vl-mini", TokenizeConfig(), silent(folder / "out"))
    return folder / "out"


def silent(out: Path) -> RunOptions:
    return RunOptions(out=out, workers=0, progress=False, say=lambda line: None)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_page_killed_at_any_change_is_whole_or_not_there(store: Path, tmp_path: Path, when: str) -> None:
    def work(out: Path) -> None:
        app(["view", str(store), "--out", str(out.with_suffix(".html")), "--quiet"], standalone_mode=False)

    whole = tmp_path / "whole"
    work(whole)
    text, count = whole.with_suffix(".html").read_bytes(), 0
    for out in deaths(work, tmp_path, when, os, CHANGES):
        page = out.with_suffix(".html")
        assert not page.exists() or page.read_bytes() == text
        work(out)
        assert page.read_bytes() == text
        count += 1
    assert count >= 2
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".html" and path.is_file()]


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_run_file_killed_at_any_change_is_whole_or_not_there(store: Path, tmp_path: Path, when: str) -> None:
    def work(out: Path) -> None:
        if not (out / "job.yaml").exists():
            app(["init", str(store.parent / "rows.jsonl"), "--file", str(out / "job.yaml")], standalone_mode=False)

    work(tmp_path / "whole")
    text, count = (tmp_path / "whole" / "job.yaml").read_bytes(), 0
    for out in deaths(work, tmp_path, when, os, CHANGES):
        assert not (out / "job.yaml").exists() or (out / "job.yaml").read_bytes() == text
        work(out)
        assert (out / "job.yaml").read_bytes() == text and len(list(out.iterdir())) == 1
        count += 1
    assert count >= 3


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_export_killed_at_any_change_is_whole_or_not_there(
    store: Path, tmp_path: Path, tree: Tree, when: str
) -> None:
    def work(out: Path) -> None:
        if not out.exists():
            export(store, "parquet", out)

    work(tmp_path / "whole")
    whole, count = tree(tmp_path / "whole"), 0
    for out in deaths(work, tmp_path, when, os, CHANGES):
        assert not out.exists() or tree(out) == whole
        work(out)
        assert tree(out) == whole
        count += 1
    assert count >= 4


@pytest.mark.skipif(find_spec("lance") is None, reason="Lance is not installed")
@pytest.mark.parametrize("when", ["before", "after"])
def test_an_export_to_lance_killed_at_any_change_is_whole_or_not_there(
    store: Path, tmp_path: Path, tree: Tree, when: str
) -> None:
    """Its files are named by chance, so rows are compared; in processes of their own, as Lance is not to be forked."""

    def work(out: Path) -> None:
        if not out.exists():
            export(store, "lance", out)

    found = list[Path]()
    for out in deaths(work, tmp_path, when, os, CHANGES):
        left = tree(out) if out.exists() else None
        assert not killed(0, when, partial(work, out), os, CHANGES)
        assert left in (None, tree(out))
        found.append(out)
    assert len(found) >= 4
    assert not list(tmp_path.glob(".*.partial"))

    def compare() -> None:
        for out in found:
            table = importlib.import_module("lance").dataset(str(out)).to_table()
            assert table["sample_id"].to_pylist() == [row["sample_id"] for row in Store(store).rows()]

    assert not killed(0, when, compare, os, ())


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_merge_killed_at_any_rename_ends_like_an_undisturbed_one(
    store: Path, tmp_path: Path, tree: Tree, when: str
) -> None:
    def work(out: Path) -> None:
        merge([store, store], silent(out))

    work(tmp_path / "whole")
    whole, count = tree(tmp_path / "whole"), 0
    for out in deaths(work, tmp_path, when, os, ("replace", "rename", "unlink")):
        if (out / "manifest.json").exists():
            Store(out, verify=True)
        else:
            with pytest.raises(StoreError):
                Store(out)
        work(out)
        assert tree(out) == whole
        count += 1
    assert count > 8
