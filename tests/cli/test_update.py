"""`tokenize --update`, `run --update` and what `why` says of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vlm_prep.cli.main import app
from vlm_prep.shards.manifest import read_manifest
from vlm_prep.shards.reader import Store

PROCESSOR = "builtin:qwen2.5-vl-mini"


def call(*words: object, status: int = 0) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == status, result.output
    return result.output


def write(path: Path, count: int) -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    path.write_text("".join(json.dumps({"messages": turns, "id": number}) + "\n" for number in range(count)))


def test_why_says_what_an_update_does_and_tokenize_does_it(tmp_path: Path) -> None:
    rows, out = tmp_path / "rows.jsonl", tmp_path / "out"
    line = ("tokenize", rows, "-p", PROCESSOR, "--out", out, "--workers", 1, "--update")
    write(rows, 30)
    call(*line)  # there is no store yet: it is made
    assert "update     nothing to do" in call("why", out)
    write(rows, 33)
    assert "update     3 rows added, 0 changed, 0 removed" in call("why", out, status=1)
    assert "33 in = 33 written" in call(*line)
    assert len(Store(out)) == 33 and call("why", out)


def test_a_job_brings_its_store_up_and_packs_it_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "rows.jsonl", 40)
    (tmp_path / "job.yaml").write_text(
        f"source: rows.jsonl\nout: out\ntokenize:\n  processor: {PROCESSOR}\npack:\n  pack_length: 256\n"
    )
    call("run", "job.yaml")
    write(tmp_path / "rows.jsonl", 44)
    call("run", "job.yaml", "--update")
    tok, packed = (read_manifest(tmp_path / "out" / name) for name in ("tokenized", "packed"))
    assert tok.extra["updates"] == 1 and packed.totals["rows_in"] == 44
    assert packed.extra["source_fingerprint"] == tok.fingerprint
