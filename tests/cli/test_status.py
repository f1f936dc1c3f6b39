"""What a run tells of itself: status from another process, events, a log file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vlm_prep.builtin import builtin_data
from vlm_prep.cli import main
from vlm_prep.cli.options import Log, sayer
from vlm_prep.cli.status import status_of
from vlm_prep.core.settings import IngestConfig
from vlm_prep.engine import events, progress
from vlm_prep.engine.stage import RunOptions
from vlm_prep.ingest.ingest_run import ingest
from vlm_prep.ingest.source import open_samples


def test_a_running_stage_says_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.0)
    monkeypatch.setattr(progress, "LINE_EVERY", 0.0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    seen: list[dict[str, Any]] = []
    out = tmp_path / "out"
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        seen.append(status_of(out))

    samples = open_samples(builtin_data(), limit=40)
    manifest = ingest(samples, IngestConfig(), RunOptions(out=out, workers=0, say=say))
    assert manifest is not None
    assert {each["state"] for each in seen} == {"running"}
    done = [each["progress"][0]["rows_done"] for each in seen]
    assert done == sorted(done) and done[-1] == 40
    assert f"ingest: 40 of 40 rows, 0 tokens, {manifest.totals['rows_rejected']} rejected" in said[-1]
    after = status_of(out)
    assert (after["state"], after["rows_in"]) == ("finished", 40)
    assert not (out / "_work").exists()


def test_a_run_that_is_gone_is_not_called_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    ingest(open_samples(builtin_data(), limit=4), IngestConfig(), RunOptions(out=out, workers=0, say=print))
    manifest = (out / "manifest.json").read_bytes()
    assert manifest
    (out / "manifest.json").unlink()
    (out / "_work").mkdir()
    (out / "_work" / "plan.json").write_text(
        json.dumps({"stage": "ingest", "fingerprint": "", "identity": {}, "tasks": 3})
    )
    facts = {"stage": "ingest", "rows": 9, "rows_done": 4, "rejected": 0, "seconds_left": 2.0}
    monkeypatch.setattr(events, "now", lambda: "2020-01-01T00:00:00.000+00:00")
    events.write_progress(out / "_work" / "progress.json", facts)
    found = status_of(out)
    assert found["state"].startswith("stopped") and found["progress"][0]["age"] > 1000


def test_what_data_say_is_made_visible_in_the_log_and_the_events(tmp_path: Path) -> None:
    text = "set \x1b]0;x\x07\x9b31m\r\u202e \udcff"  # the last is a byte of a file's name that is no UTF-8
    told = events.Events(tmp_path / "events.jsonl")
    sayer(True, Log(str(tmp_path / "log.txt")), told)(text)
    log, written = ((tmp_path / name).read_bytes().decode() for name in ("log.txt", "events.jsonl"))
    for each in (log, written):
        assert each.removesuffix("\n").isprintable()
    assert json.loads(written)["text"] == text
    assert "\\x1b]0;x\\x07\\x9b31m\\r\\u202e \\udcff" in log


def test_a_run_of_this_machine_that_was_killed_is_not_called_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    work = tmp_path / "out" / "_work"
    work.mkdir(parents=True)
    (work / "plan.json").write_text(json.dumps({"stage": "ingest", "fingerprint": "", "identity": {}, "tasks": 3}))
    facts = {"stage": "ingest", "rows": 9, "rows_done": 4, "rejected": 0, "seconds_left": 2.0}
    events.write_progress(work / "progress.json", facts)
    assert status_of(tmp_path / "out")["state"] == "running"
    written = json.loads((work / "progress.json").read_bytes())
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for changed, state in (
        ({"pid": dead.pid}, "stopped"),
        ({"pid": dead.pid, "host": "elsewhere"}, "running"),
        ({"pid": dead.pid, "boot": "another start"}, "running"),
        ({"pid": dead.pid, "boot": None}, "running"),
    ):
        (work / "progress.json").write_text(json.dumps(written | changed))
        assert status_of(tmp_path / "out")["state"] == state
    (work / "progress.json").write_text(json.dumps(written | {"pid": dead.pid}))
    monkeypatch.setattr(sys, "argv", ["vlm-prep", "status", str(tmp_path / "out")])
    with pytest.raises(SystemExit):
        main.main()
    assert f"process {dead.pid} on {written['host']}, which is gone" in capsys.readouterr().out


def test_events_and_the_log_tell_what_happened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / "rows.jsonl"
    good = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    rows.write_text(json.dumps(good) + "\n" + json.dumps({"messages": []}) + "\n")
    files = ["--events", str(tmp_path / "events.jsonl"), "--log-file", str(tmp_path / "log.txt")]
    line = ["ingest", str(rows), "--out", str(tmp_path / "out"), "--max-reject-rate", "1", *files]
    for status in (0, 0):
        monkeypatch.setattr(sys, "argv", ["vlm-prep", *line, "--quiet"])
        with pytest.raises(SystemExit) as ended:
            main.main()
        assert ended.value.code == status
    told = [json.loads(each) for each in (tmp_path / "events.jsonl").read_text().splitlines()]
    first = [each["event"] for each in told][: [each["event"] for each in told].index("end") + 1]
    assert first[0] == "start" and {"progress", "task", "reject"} <= set(first)
    (reject,) = [each for each in told if each["event"] == "reject"]
    assert reject["sample_id"] == "rows/1"
    assert told[-1]["event"] == "end" and told[-1]["error"] is None and told[-1]["rows_rejected"] == 1
    log = (tmp_path / "log.txt").read_text()
    assert "complete already" in log and " ingest begins: " in log
    assert "ingest ends: rows_in 2, rows_written 1, rows_rejected 1, rejects " in log
    assert "complete already" not in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["vlm-prep", "status", str(tmp_path / "out")])
    with pytest.raises(SystemExit):
        main.main()
    assert "finished" in capsys.readouterr().out


def test_a_folder_without_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["vlm-prep", "status", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 2
