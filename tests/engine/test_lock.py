"""One run writes a folder: locks of the living, the dead and other hosts."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine.killed_runs import VLM_PREP, Options, Tree, killed_ingest

from vlm_prep.builtin import builtin_data
from vlm_prep.core.errors import OutputError
from vlm_prep.core.settings import IngestConfig
from vlm_prep.engine import lock
from vlm_prep.engine.claim import take_over
from vlm_prep.engine.ownership import RunPlan
from vlm_prep.engine.tasks import Record, Task
from vlm_prep.ingest.ingest_run import ingest
from vlm_prep.ingest.source import open_samples

# ---- the lock ----


@pytest.fixture
def held(tmp_path: Path) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """An output folder that a live process is writing."""
    out = tmp_path / "out"
    code = (
        "import sys, time; from pathlib import Path; from vlm_prep.engine.claim import take_over; "
        "from vlm_prep.engine.ownership import RunPlan\n"
        f"take_over(Path({str(out)!r}), RunPlan(stage='ingest', fingerprint='xxh3:0', identity={{}}))\n"
        "print('held', flush=True); time.sleep(60)"
    )
    run = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    assert run.stdout.readline() == "held\n"
    yield out, run
    run.kill()
    run.wait()


@pytest.mark.parametrize("fresh", [False, True])
def test_a_folder_that_a_live_process_writes_is_refused(
    held: tuple[Path, subprocess.Popen[str]], options: Options, tree: Tree, fresh: bool
) -> None:
    out, run = held
    before = tree(out)
    with pytest.raises(OutputError, match=f"being written by process {run.pid}"):
        ingest(open_samples(builtin_data()), IngestConfig(), options(out, fresh=fresh))
    assert tree(out) == before


def test_the_lock_of_a_dead_process_is_taken_over_with_a_message(
    held: tuple[Path, subprocess.Popen[str]], options: Options
) -> None:
    out, run = held
    run.kill()
    run.wait()
    lines: list[str] = []
    ingest(open_samples(builtin_data()), IngestConfig(), options(out, fresh=True, say=lines.append))
    assert any(f"process {run.pid} that was writing it is gone" in line for line in lines)


def test_a_dead_lock_whose_process_number_was_given_away_does_not_block(tmp_path: Path, options: Options) -> None:
    out = tmp_path / "out"
    killed_ingest(out, options, 3)
    (out / "_work" / "lock").write_text(json.dumps({"host": socket.gethostname(), "pid": 1}))
    ingest(open_samples(builtin_data()), IngestConfig(), options(out))


def test_a_lock_that_was_created_and_not_yet_written_is_respected(
    held: tuple[Path, subprocess.Popen[str]], options: Options
) -> None:
    out, _ = held
    os.truncate(out / "_work" / "lock", 0)
    with pytest.raises(OutputError, match="being written by another process"):
        ingest(open_samples(builtin_data()), IngestConfig(), options(out))


def test_the_lock_of_another_host_is_refused(tmp_path: Path, options: Options) -> None:
    out = tmp_path / "out"
    killed_ingest(out, options, 3)
    (out / "_work" / "lock").write_text(json.dumps({"host": "elsewhere", "pid": 1}))
    with pytest.raises(OutputError, match="process 1 on elsewhere, whose last sign of life is") as caught:
        ingest(open_samples(builtin_data()), IngestConfig(), options(out))
    assert "delete" in str(caught.value.hint)


def test_a_machine_of_the_same_name_is_another_host(tmp_path: Path, options: Options) -> None:
    out = tmp_path / "out"
    killed_ingest(out, options, 3)
    theirs = {"host": socket.gethostname(), "boot": "another start", "pid": 1}
    (out / "_work" / "lock").write_text(json.dumps(theirs))
    with pytest.raises(OutputError, match="is locked by process 1 on"):
        ingest(open_samples(builtin_data()), IngestConfig(), options(out))
    (out / "_work" / "lock").write_text(json.dumps(theirs | {"boot": lock.boot()}))
    ingest(open_samples(builtin_data()), IngestConfig(), options(out))


def test_the_lock_of_another_host_without_a_sign_of_life_is_taken_over(tmp_path: Path, options: Options) -> None:
    out = tmp_path / "out"
    lines: list[str] = []
    killed_ingest(out, options, 3)
    (out / "_work" / "lock").write_text(json.dumps({"host": "elsewhere", "pid": 1}))
    os.utime(out / "_work" / "lock", (0, time.time() - lock.STALE_SECONDS - 1))
    ingest(open_samples(builtin_data()), IngestConfig(), options(out, say=lines.append))
    assert any("process 1 on elsewhere that was writing it is gone" in line for line in lines)


def test_a_lock_shows_signs_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.01)
    held = lock.Lock(tmp_path, tmp_path / "lock", print)
    held.acquire()
    os.utime(tmp_path / "lock", (0, 0))
    while (tmp_path / "lock").stat().st_mtime == 0:
        time.sleep(0.01)
    held.release()
    assert list(tmp_path.iterdir()) == []


def test_a_run_whose_folder_was_taken_over_commits_nothing_more(tmp_path: Path) -> None:
    workspace = take_over(tmp_path / "out", RunPlan(stage="ingest", fingerprint="xxh3:0", identity={}))
    theirs = json.dumps({"host": "elsewhere", "pid": 1})
    (workspace.work / "lock").write_text(theirs)
    with pytest.raises(OutputError, match="was taken over by another run"):
        workspace.commit(Task(index=0, start=0, stop=1), Record(task=0, split="train", shards=()))
    workspace.release()
    assert (workspace.work / "lock").read_text() == theirs
    assert not list(workspace.done.iterdir())


def test_of_many_runs_that_start_at_once_on_one_folder_one_writes_it(
    tmp_path: Path, many_rows: Path, options: Options, tree: Tree
) -> None:
    out = tmp_path / "out"
    line = [VLM_PREP, "ingest", str(many_rows), "--out", str(out), "--workers", "1", "--quiet"]
    runs = [subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    errors = [run.communicate(timeout=60)[1] for run in runs]
    assert 0 in [run.returncode for run in runs]
    assert all(run.returncode == 0 or "being written by" in error for run, error in zip(runs, errors, strict=True))
    ingest(open_samples(many_rows), IngestConfig(), options(tmp_path / "whole"))
    assert tree(out) == tree(tmp_path / "whole")
