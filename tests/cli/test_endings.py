"""Whatever the machine refuses ends a command with one message: no traceback, a status of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from vlm_prep.cli.main import main
from vlm_prep.core.errors import Reject, RejectReason
from vlm_prep.core.plain_text import MOST_CHARACTERS, settled
from vlm_prep.core.records import Rejected
from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.engine.stage import RunOptions
from vlm_prep.ingest.source import open_samples
from vlm_prep.report import statistics
from vlm_prep.shards.layout import write_rejects
from vlm_prep.tokenize.tokenize_run import tokenize

Options = Callable[..., RunOptions]
PROCESSOR = "builtin:qwen2.5-vl-mini"
LONG = "n" * 300


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["vlm-prep", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


@pytest.mark.parametrize(
    "line",
    [
        ("ingest", "SOURCE", "--out", LONG),
        ("tokenize", "SOURCE", "-p", PROCESSOR, "--out", LONG),
        ("pack", "STORE", "--pack-length", "2048", "--out", LONG),
        ("ingest", LONG),
        ("stats", LONG),
        ("verify", LONG),
        ("rejects", LONG),
        ("retry", LONG, "--reason", "overlong"),
        ("finish", LONG),
        ("why", LONG),
        ("push", LONG, "s3://bucket/store"),
        ("labels", LONG, "-p", PROCESSOR),
    ],
    ids=lambda line: line[0],
)
def test_a_name_that_no_file_system_takes_is_one_message(
    tokenized: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    line: tuple[str, ...],
) -> None:
    from vlm_prep.builtin import builtin_data

    monkeypatch.chdir(tmp_path)
    named = {"SOURCE": str(builtin_data()), "STORE": str(tokenized)}
    assert run(monkeypatch, *(named.get(word, word) for word in line)) == 2
    errors = capsys.readouterr().err
    assert errors.count("error: ") == 1
    assert "File name too long" in errors
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [("stats",), ("stats", "--json"), ("rejects", "--json"), ("verify",)])
def test_a_full_disk_behind_the_output_is_one_message(tokenized: Path, words: tuple[str, ...]) -> None:
    line = [sys.executable, "-m", "vlm_prep.cli.main", words[0], str(tokenized), *words[1:]]
    with open("/dev/full", "w") as full:
        ended = subprocess.run(line, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120)
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert "No space left on device" in ended.stderr


def test_a_closed_output_is_taken_by_no_file() -> None:
    line = f"{sys.executable} -m vlm_prep.cli.main --version >&-"
    ended = subprocess.run(["sh", "-c", line], stderr=subprocess.PIPE, text=True, timeout=120)
    assert (ended.returncode, ended.stderr) == (0, "")


# ---- what is said of rejects ----


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        (
            "a.gif: [23:26:41] /github/workspace/src/video/video_reader.cc:151: Check failed: st_nb >= 0 "
            "(-1381258232 vs. 0) ERROR cannot find video stream with wanted index: -1",
            "a.gif: Check failed: st_nb >= 0 ERROR cannot find video stream with wanted index: -1",
        ),
        (
            "a.png: cannot identify image file <_io.BytesIO object at 0x7f3a5c0b1e90>",
            "a.png: cannot identify image file <_io.BytesIO object>",
        ),
        ("[mov,mp4,m4a @ 0x55d0c0ffee00] moov atom not found", "[mov,mp4,m4a] moov atom not found"),
        ("[/proc/self/fd/17] Failed to measure duration", "Failed to measure duration"),
        ("/tmp/tmpab12cd_9/a/clip.mp4: broken", "(a temporary folder)/a/clip.mp4: broken"),
        ("/tmp/tmpab12cd_9.mp4: broken", "a temporary file: broken"),
        ("x\nStack trace returned 9 entries:\n[bt] (0) /lib/x.so(+0x1234)", "x"),
        ("panicked (/root/.cargo/registry/src/pyo3-0.2/src/lib.rs:12:5): no", "panicked no"),
        # paths of rows stay what they are
        ("/data/0xDEADBEEF/at 0x12.jpg is missing", "/data/0xDEADBEEF/at 0x12.jpg is missing"),
        ("/data/src/clip.cc.mp4: zero bytes", "/data/src/clip.cc.mp4: zero bytes"),
        ("12:30:15 a.jpg", "12:30:15 a.jpg"),
    ],
)
def test_what_libraries_say_reaches_the_store_without_its_accidents(said: str, kept: str) -> None:
    assert settled(said) == kept
    assert Reject(RejectReason.BAD_ROW, said).message == kept


@pytest.mark.parametrize("piece", ["x", "/x", "/", "a/b.c", "[12:34:56] ", " at 0x123", "(-1 vs. 0)", "/tmp/tmpabcdef"])
def test_a_message_is_of_bounded_length_and_made_in_bounded_time(piece: str) -> None:
    # the pattern that took quadratic time took an hour for this
    message = Reject(RejectReason.BAD_ROW, piece * (10**7 // len(piece))).message
    assert len(message) < MOST_CHARACTERS + 100


def test_rejects_of_videos_that_do_not_open_are_the_same_bytes_twice(
    kit: Path, tmp_path: Path, options: Options
) -> None:
    case = kit / "cases" / "06-few-frames"
    if not case.is_dir():
        pytest.skip("this kit has no cases")
    found = []
    for name in ("one", "two"):
        run = options(tmp_path / name, max_reject_rate=1.0)
        tokenize(open_samples(case / "rows.jsonl"), PROCESSOR, TokenizeConfig(fps=2.0), run)
        found.append((tmp_path / name / "rejects.parquet").read_bytes())
    assert found[0] == found[1]


def test_the_list_of_rejects_has_a_line_for_each(
    tokenized: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    store = Path(shutil.copytree(tokenized, tmp_path / "store"))
    message = "a\nb\x1b[2J\r.jpg: no such file"
    row = Rejected(
        sample_id="a/0", dataset="a", source="a\n.json", line=1, stage="ingest", reason="missing_file", message=message
    )
    write_rejects(store, [row, row])
    assert run(monkeypatch, "rejects", store) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [r"a/0  a\n.json:1  missing_file: a\nb\x1b[2J\r.jpg: no such file"] * 2


def test_a_store_without_rows_says_why_nothing_was_compared(tmp_path: Path, options: Options) -> None:
    (tmp_path / "rows.jsonl").write_text('{"messages": [{"role": "user", "content": "only a question"}]}\n')
    out = tmp_path / "out"
    tokenize(open_samples(tmp_path / "rows.jsonl"), PROCESSOR, TokenizeConfig(), options(out, max_reject_rate=1.0))
    shown = statistics.render(statistics.collect(out))
    assert "the store has no rows to compare" in shown
    assert "--verify-fraction 0" not in shown


@pytest.mark.parametrize(
    "name", ["Qwen/Qwen2.5 VL", "owner/name@main", "hf:name", "-x", "a..b", "x\x1b[31m", f"x/{LONG[:100]}", "a\nb"]
)
def test_a_processor_name_that_the_hub_cannot_have_is_one_message(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rows.jsonl").write_text('{"messages": [{"role": "user", "content": "?"}]}\n')
    assert run(monkeypatch, "tokenize", tmp_path / "rows.jsonl", "--out", tmp_path / "tok", f"--processor={name}") == 2
    said = capsys.readouterr().err
    assert "the hub has no such names" in said and "Traceback" not in said and "\x1b" not in said


@pytest.mark.parametrize(
    "line", ['out: "a\\0b"', 'source: "a\\0b"', 'processor: "a\\0b"', 'source: ["\\0"]', '"\\0": 1']
)
def test_a_nul_in_a_run_file_is_one_message(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.yaml").write_text(f"{line}\nworkers: 1\n")
    assert run(monkeypatch, "tokenize", "--config", tmp_path / "run.yaml") == 2
    assert f"{tmp_path / 'run.yaml'}:1: no YAML: a text with a NUL in it" in capsys.readouterr().err


def test_a_page_takes_no_devices_place(
    tokenized: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where a user may write to /dev, a file would stand there instead of /dev/null."""
    os.mkfifo(tmp_path / "pipe")
    assert run(monkeypatch, "view", tokenized, "--out", tmp_path / "pipe") == 2
    assert "it is a device or a pipe, not a file" in capsys.readouterr().err
    assert (tmp_path / "pipe").is_fifo() and [each.name for each in tmp_path.iterdir()] == ["pipe"]
