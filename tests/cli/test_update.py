"""`tokenize --update`, `run --update` and what `why` says of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from vlm_prep.cli.main import app
from vlm_prep.cli.status import status_of
from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.engine import progress
from vlm_prep.engine.stage import RunOptions
from vlm_prep.ingest.source import open_samples
from vlm_prep.shards.manifest import read_manifest
from vlm_prep.shards.reader import Store
from vlm_prep.tokenize.update_run import update

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
    line = ("tokenize", rows, "-p", PROCESSOR, "--out", out, "--update")
    write(rows, 30)
    call(*line)  # there is no store yet: it is made
    assert "update     nothing to do" in call("why", out)
    write(rows, 33)
    assert "update     3 rows added, 0 changed, 0 removed" in call("why", out, status=1)
    assert "33 in = 33 written" in call(*line)
    assert len(Store(out)) == 33 and call("why", out)


def test_updates_and_retries_tell_their_events(tmp_path: Path) -> None:
    rows, out, events, log = (tmp_path / name for name in ("rows.jsonl", "out", "events.jsonl", "log.txt"))
    more = ("--workers", 1, "--events", events, "--log-file", log)
    line = ("tokenize", rows, "-p", PROCESSOR, "--out", out, "--update", "--max-reject-rate", 1, *more)
    write(rows, 30)
    call(*line)
    turns = [{"role": "user", "content": "<image>?"}, {"role": "assistant", "content": "A"}]
    with rows.open("a") as file:
        file.write(json.dumps({"messages": turns, "images": ["gone.jpg"]}) + "\n")
    stages = []
    for words in (line, line, ("retry", out, "--reason", "missing_file", *more)):  # the second has nothing to do
        events.unlink()
        call(*words)
        told = [json.loads(each) for each in events.read_text().splitlines()]
        kinds = [each["event"] for each in told]
        start, end = told[kinds.index("start")], told[-1]
        stages.append((start["stage"], start["tasks"], kinds.count("task"), kinds.count("reject")))
        assert end["event"] == "end" and end["stage"] == start["stage"] and end["error"] is None
        assert end["rows_in"] == 31 and end["rejects"] == {"missing_file": 1}
        assert ("progress" in kinds) == (start["tasks"] > 0)
    assert stages == [("update", 1, 1, 1), ("update", 0, 0, 0), ("retry", 1, 1, 1)]
    assert "update begins: " in log.read_text() and "retry ends: rows_in 31" in log.read_text()


def test_status_says_how_far_an_update_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.0)
    monkeypatch.setattr(progress, "LINE_EVERY", 0.0)
    rows, out = tmp_path / "rows.jsonl", tmp_path / "out"
    seen: list[dict[str, Any]] = []
    run = RunOptions(out=out, workers=0, say=lambda line: None)
    write(rows, 30)
    update(open_samples(rows), PROCESSOR, TokenizeConfig(), run)
    assert "change" not in status_of(out)
    write(rows, 34)
    update(open_samples(rows), PROCESSOR, TokenizeConfig(), replace(run, say=lambda line: seen.append(status_of(out))))
    assert (seen[-1]["state"], seen[-1]["change"], seen[-1]["rows_in"]) == ("finished", "running", 30)
    assert seen[-1]["progress"][0]["stage"] == "update" and seen[-1]["progress"][0]["rows"] >= 4
    assert "change" not in status_of(out)


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
