"""A user's function between a row and its reading: rows are written or rejected, and code is named by users alone."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vlm_prep.cli import options as cli_options
from vlm_prep.core.errors import InputError, StoreError
from vlm_prep.core.settings import IngestConfig
from vlm_prep.core.user_code import load_hook
from vlm_prep.ingest.ingest_run import ingest, ingest_identity
from vlm_prep.ingest.source import open_samples
from vlm_prep.shards.layout import read_rejects
from vlm_prep.shards.manifest import read_manifest

CODE = """
def chat(row):
    if row["t"] == "none":
        return None
    if row["t"] == "raise":
        raise ValueError("no good")
    if row["t"] == "text":
        return "text"
    return {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": row["t"]}]}
"""


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "hooks_of_a_test.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("hooks_of_a_test", None)
    load_hook.cache_clear()
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"t": t}) + "\n" for t in ("a", "none", "raise", "text", "b")))
    return path


def test_rows_go_through_it_or_are_rejects(source: Path, tmp_path: Path, options: Callable[..., Any]) -> None:
    samples = open_samples(source, row_hook="hooks_of_a_test:chat")
    manifest = ingest(samples, IngestConfig(), options(tmp_path / "out", max_reject_rate=1.0, workers=2))
    assert manifest is not None and (manifest.totals["rows_in"], manifest.totals["rows_written"]) == (5, 2)
    reasons = [(each["reason"], each["line"]) for each in read_rejects(tmp_path / "out")]
    assert sorted(reasons) == [("hook_error", 3), ("hook_error", 4), ("not_wanted", 2)]


def test_its_source_is_in_the_fingerprint(source: Path, tmp_path: Path) -> None:
    samples = open_samples(source, row_hook="hooks_of_a_test:chat")
    before = ingest_identity(samples, IngestConfig())
    (tmp_path / "hooks_of_a_test.py").write_text(CODE + "\n# changed\n")
    assert ingest_identity(samples, IngestConfig()) != before


def test_no_meta_file_and_no_store_asks_for_code(source: Path, tmp_path: Path, options: Callable[..., Any]) -> None:
    (tmp_path / "meta.json").write_text(json.dumps({"a": {"file_name": "rows.jsonl", "row_hook": "os:system"}}))
    with pytest.raises(InputError, match="unknown key 'row_hook'"):
        open_samples(tmp_path / "meta.json")
    samples = open_samples(source, row_hook="hooks_of_a_test:chat")
    ingest(samples, IngestConfig(), options(tmp_path / "out", max_reject_rate=1.0))
    assert read_manifest(tmp_path / "out") and "row_hook" not in (tmp_path / "out" / "run.yaml").read_text()
    with pytest.raises(StoreError, match="no code is run"):
        cli_options.origin_in(tmp_path / "out", {"source": samples.origin}, None, None, True)


@pytest.mark.parametrize("name", ["nothing", "no_such_module:f", "hooks_of_a_test:no_such", "hooks_of_a_test:CODE"])
def test_a_hook_that_is_not_there_stops_before_the_run(name: str, source: Path) -> None:
    with pytest.raises(InputError, match="row_hook"):
        open_samples(source, row_hook=name)
