"""Interrupts, SIGTERM and kills of runs with workers leave no process behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from engine.killed_runs import PROCESSOR, VLM_PREP, Options, Tree, wait_for

from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.ingest.source import open_samples
from vlm_prep.tokenize.tokenize_run import tokenize


def test_a_tokenize_with_workers_killed_in_the_middle_continues(
    tmp_path: Path, many_rows: Path, options: Options, tree: Tree
) -> None:
    out = tmp_path / "killed"
    lines: list[str] = []
    line = [VLM_PREP, "tokenize", str(many_rows), "--processor", PROCESSOR, "--fps", "2"]
    line += ["--out", str(out), "--workers", "2", "--quiet"]
    run = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(out / "_work" / "done" / "task-000000.json", run)
    run.kill()
    assert run.wait() == -signal.SIGKILL
    tokenize(open_samples(many_rows), PROCESSOR, TokenizeConfig(fps=2.0), options(out, say=lines.append))
    tokenize(open_samples(many_rows), PROCESSOR, TokenizeConfig(fps=2.0), options(tmp_path / "whole"))
    assert any("of 3 tasks are done" in each for each in lines)
    assert tree(out) == tree(tmp_path / "whole")


@pytest.mark.parametrize(
    ("program", "said"), [([VLM_PREP], "vlm-prep"), ([sys.executable, "-m", "vlm_prep"], "python -m vlm_prep")]
)
def test_an_interrupt_leaves_no_process_and_says_how_to_continue(
    tmp_path: Path, many_rows: Path, program: list[str], said: str
) -> None:
    out = tmp_path / "out"
    line = [*program, "ingest", str(many_rows), "--out", str(out), "--workers", "2"]
    run = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_for(out / "_work" / "plan.json", run)
    os.killpg(run.pid, signal.SIGINT)
    _, errors = run.communicate(timeout=20)  # ends only when the last process of the run has closed its stderr
    assert run.returncode == 130
    assert "run the same command again" in errors
    assert f"  {said} ingest {many_rows} --out {out} --workers 2" in errors


_HANGING_INGEST = """
import sys
sys.path.insert(0, sys.argv.pop(1))
import poison_media
import vlm_prep.ingest.ingest_run as run
from vlm_prep.cli.main import main
if __name__ == "__main__":
    run.IngestJob = poison_media.PoisonedIngestJob
    main()
"""


def processes_of(session: int) -> list[int]:
    """Return what is left of a session; the kernel may take a moment to take a process's memory apart."""
    deadline = time.monotonic() + 5
    while (found := _alive(session)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


def _alive(session: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


def shared_memory() -> set[str]:
    return {path.name for path in Path("/dev/shm").iterdir() if not path.name.startswith("torch_")}


def hanging_ingest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int) -> subprocess.Popen[str]:
    """Start a command in a session of its own and return when its decoder hangs."""
    planted = str(Path(__file__).parent / "planted")
    monkeypatch.syspath_prepend(planted)
    import poison_media

    messages = [{"role": "user", "content": "<image>?"}, {"role": "assistant", "content": "A."}]
    row = json.dumps({"messages": messages, "images": [poison_media.write_poison(tmp_path, "spin")]})
    (tmp_path / "rows.jsonl").write_text(f"{row}\n" * 300)
    line = [sys.executable, "-c", _HANGING_INGEST, planted, "ingest", str(tmp_path / "rows.jsonl")]
    line += ["--out", str(tmp_path / "out"), "--workers", str(workers)]
    run = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_for(tmp_path / "met", run)
    return run


@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupt_ends_also_a_decoder_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    before = shared_memory()
    run = hanging_ingest(tmp_path, monkeypatch, workers)
    os.killpg(run.pid, signal.SIGINT)
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 130
    assert "run the same command again" in errors
    assert "Traceback" not in errors
    assert processes_of(run.pid) == []
    assert shared_memory() <= before


@pytest.mark.parametrize("whom", ["main", "group"])
def test_sigterm_ends_like_an_interrupt_with_its_own_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whom: str
) -> None:
    run = hanging_ingest(tmp_path, monkeypatch, 2)
    if whom == "main":
        run.terminate()
    else:
        os.killpg(run.pid, signal.SIGTERM)
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 143
    assert errors.startswith("terminated: what was committed is kept, run the same command again")
    assert "Traceback" not in errors
    assert "BrokenPipe" not in errors
    assert processes_of(run.pid) == []


def test_workers_whose_run_is_gone_end_without_a_word(tmp_path: Path, many_rows: Path) -> None:
    out = tmp_path / "out"
    line = [VLM_PREP, "ingest", str(many_rows), "--out", str(out), "--workers", "2", "--quiet"]
    for _ in range(3):
        run = subprocess.Popen(
            line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        wait_for(out / "_work" / "shards", run)
        run.kill()
        _, errors = run.communicate(timeout=60)
        assert errors == ""
        assert processes_of(run.pid) == []


def test_a_killed_run_takes_a_decoder_that_hangs_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = hanging_ingest(tmp_path, monkeypatch, 2)
    run.kill()
    run.communicate(timeout=60)  # ends only when the last process of the run has closed its stderr
    assert processes_of(run.pid) == []


def test_sigterm_while_workers_are_started_is_no_traceback(tmp_path: Path) -> None:
    """The job of many rows is more than a pipe holds: its worker was cut off in the middle of it."""
    row = {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]}
    (tmp_path / "rows.jsonl").write_text((json.dumps(row) + "\n") * 20_000)
    line = [VLM_PREP, "ingest", str(tmp_path / "rows.jsonl"), "--out", str(tmp_path / "out"), "--workers", "1"]
    run = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_for(tmp_path / "out" / "_work" / "progress.json", run)
    while len(_alive(run.pid)) < 3:  # the resource tracker and the forkserver, which imports for a second or more
        time.sleep(0.01)
    time.sleep(0.5)
    run.terminate()
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 143 and "Traceback" not in errors
    assert errors.startswith("terminated: what was committed is kept")
    assert processes_of(run.pid) == []
