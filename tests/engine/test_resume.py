"""A run killed at any instant ends, after a rerun, as if it had not been; a folder that is not ours is left alone."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from vlm_prep.builtin import builtin_data
from vlm_prep.core.errors import OutputError, StoreError
from vlm_prep.core.pack_settings import PackConfig
from vlm_prep.core.settings import IngestConfig, TokenizeConfig
from vlm_prep.engine import lock
from vlm_prep.engine.array_parts import Part
from vlm_prep.engine.claim import take_over
from vlm_prep.engine.ownership import RunPlan
from vlm_prep.engine.stage import RunOptions
from vlm_prep.engine.tasks import Record, Task
from vlm_prep.ingest.ingest_run import ingest
from vlm_prep.ingest.source import open_samples
from vlm_prep.pack.pack_run import pack
from vlm_prep.shards.reader import Store
from vlm_prep.tokenize.tokenize_run import tokenize

PROCESSOR = "builtin:qwen2.5-vl-mini"
Options = Callable[..., RunOptions]
Tree = Callable[[Path], dict[str, str]]
Command = Callable[..., subprocess.CompletedProcess[str]]
Do = Callable[[Path], object]

VLM_PREP = str(Path(sys.executable).with_name("vlm-prep"))


RENAMES = ("replace",)
CHANGES = ("replace", "unlink", "rmdir")


def killed_at(number: int, when: str, work: Do, out: Path, calls: tuple[str, ...] = RENAMES) -> bool:
    """Run `work(out)` in a forked process that kills itself at its n-th rename; return whether it was killed.

    Args:
        number: 1 is the first.
        when: "before" or "after" the rename.
        work: what to run.
        out: its output folder.
        calls: functions of `os` that count; a rename is "replace".
    """
    child = os.fork()
    if child == 0:
        seen = 0
        changed: set[object] = set()

        def dying(real: Callable[..., None]) -> Callable[..., None]:
            def call(*arguments: object, **settings: object) -> None:
                nonlocal seen
                again = str(arguments[-1]).endswith("progress.json") and arguments[-1] in changed
                changed.add(arguments[-1])
                seen += not again  # it is written as time goes by
                if seen == number and when == "before":
                    os.kill(os.getpid(), signal.SIGKILL)
                real(*arguments, **settings)
                if seen == number:
                    os.kill(os.getpid(), signal.SIGKILL)

            return call

        for name in calls:
            setattr(os, name, dying(getattr(os, name)))
        try:
            work(out)
            os._exit(0)
        except BaseException:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def every_death(when: str, work: Do, base: Path, calls: tuple[str, ...] = RENAMES) -> Iterator[Path]:
    """Yield an output folder for each rename of a run, killed at that rename and not rerun yet."""
    number = 1
    while killed_at(number, when, work, base / f"{number}", calls):
        yield base / f"{number}"
        number += 1


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_ingest_killed_at_any_rename_ends_like_an_undisturbed_one(
    tmp_path: Path, many_rows: Path, options: Options, tree: Tree, when: str
) -> None:
    samples = open_samples(many_rows)
    ingest(samples, IngestConfig(), options(tmp_path / "whole"))
    killed = 0
    for out in every_death(when, lambda out: ingest(samples, IngestConfig(), options(out)), tmp_path):
        ingest(samples, IngestConfig(), options(out))
        assert tree(out) == tree(tmp_path / "whole")
        killed += 1
    assert killed > 12  # 3 tasks: shard, record, final name; and the files around them


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("layout", ["ranks", "index"])
def test_a_pack_killed_at_any_change_ends_like_an_undisturbed_one(
    tmp_path: Path, tokenized: Path, options: Options, tree: Tree, when: str, layout: str
) -> None:
    config = PackConfig(pack_length=1024, world_size=2, layout=layout)  # type: ignore[arg-type]
    run = {"max_reject_rate": 1.0}
    pack(tokenized, config, options(tmp_path / "whole", **run))
    for out in every_death(when, lambda out: pack(tokenized, config, options(out, **run)), tmp_path, CHANGES):
        pack(tokenized, config, options(out, **run))
        assert tree(out) == tree(tmp_path / "whole")


@pytest.mark.parametrize("when", ["before", "after"])
def test_the_finishing_of_parts_killed_at_any_change_ends_like_an_undisturbed_one(
    tmp_path: Path, many_rows: Path, options: Options, tree: Tree, when: str
) -> None:
    samples, parts = open_samples(many_rows), tmp_path / "parts"
    for number in (1, 2):
        ingest(samples, IngestConfig(), options(parts, part=Part(number=number, count=2)))

    def finish(out: Path) -> None:  # what `vlm-prep finish` calls
        if not out.exists():
            shutil.copytree(parts, out)
        ingest(samples, IngestConfig(), options(out))

    finish(tmp_path / "whole")
    for out in every_death(when, finish, tmp_path, CHANGES):
        finish(out)
        assert tree(out) == tree(tmp_path / "whole")


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_tokenize_killed_at_any_rename_ends_like_an_undisturbed_one(
    tmp_path: Path, options: Options, tree: Tree, when: str
) -> None:
    samples, config = open_samples(builtin_data(), datasets=["tool_talk"]), TokenizeConfig()
    tokenize(samples, PROCESSOR, config, options(tmp_path / "whole"))
    for out in every_death(when, lambda out: tokenize(samples, PROCESSOR, config, options(out)), tmp_path):
        tokenize(samples, PROCESSOR, config, options(out))
        assert tree(out) == tree(tmp_path / "whole")


def test_a_fresh_run_killed_at_any_change_leaves_nothing_that_reads_as_complete(
    tmp_path: Path, tokenized: Path, options: Options, tree: Tree
) -> None:
    def work(out: Path) -> None:
        if not out.exists():
            shutil.copytree(tmp_path / "old", out)
        pack(tokenized, PackConfig(pack_length=2048), options(out, fresh=True))

    pack(tokenized, PackConfig(pack_length=4096), options(tmp_path / "old"))
    pack(tokenized, PackConfig(pack_length=2048), options(tmp_path / "whole"))
    old, whole = tree(tmp_path / "old"), tree(tmp_path / "whole")
    for out in every_death("after", work, tmp_path, CHANGES):
        if (out / "manifest.json").exists():
            left = {name: digest for name, digest in tree(out).items() if not name.startswith("_work")}
            assert left in (old, whole)
        pack(tokenized, PackConfig(pack_length=2048), options(out, fresh=True))
        assert tree(out) == whole


@pytest.mark.parametrize("seed", [0, 1])
def test_a_command_killed_at_random_instants_ends_like_an_undisturbed_one(
    tmp_path: Path, many_rows: Path, options: Options, tree: Tree, seed: int
) -> None:
    instants = random.Random(seed)
    out = tmp_path / "killed"
    line = [VLM_PREP, "ingest", str(many_rows), "--out", str(out), "--workers", "2", "--quiet"]
    killed = 0
    for _ in range(6):
        run = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(out, run)
        time.sleep(instants.uniform(0, 0.25))
        run.kill()
        killed += run.wait() != 0
    assert killed
    ingest(open_samples(many_rows), IngestConfig(), options(out))
    ingest(open_samples(many_rows), IngestConfig(), options(tmp_path / "whole"))
    assert tree(out) == tree(tmp_path / "whole")


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


def test_an_interrupt_leaves_no_process_and_says_how_to_continue(tmp_path: Path, many_rows: Path) -> None:
    out = tmp_path / "out"
    line = [VLM_PREP, "ingest", str(many_rows), "--out", str(out), "--workers", "2"]
    run = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_for(out / "_work" / "plan.json", run)
    os.killpg(run.pid, signal.SIGINT)
    _, errors = run.communicate(timeout=20)  # ends only when the last process of the run has closed its stderr
    assert run.returncode == 130
    assert "run the same command again" in errors
    assert f"  vlm-prep ingest {many_rows} --out {out} --workers 2" in errors


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


def wait_for(path: Path, run: subprocess.Popen[str] | subprocess.Popen[bytes]) -> None:
    while not path.exists() and run.poll() is None:
        time.sleep(0.005)


# ---- what is left over ----


def killed_ingest(out: Path, options: Options, number: int) -> None:
    samples = open_samples(builtin_data())
    assert killed_at(number, "after", lambda out: ingest(samples, IngestConfig(), options(out)), out)


def test_unfinished_files_of_a_killed_run_are_removed(tmp_path: Path, options: Options) -> None:
    out = tmp_path / "out"
    killed_ingest(out, options, 1)
    (out / "_work" / "shards" / "task-000099-000.arrow.tmp").write_bytes(b"half")
    (out / "manifest.json.tmp").write_bytes(b"half")
    ingest(open_samples(builtin_data()), IngestConfig(), options(out))
    assert not list(out.rglob("*.tmp"))


def test_a_finishing_that_stopped_between_two_renames_is_completed(
    tmp_path: Path, many_rows: Path, options: Options, tree: Tree
) -> None:
    samples, config = open_samples(many_rows), TokenizeConfig(media="reference", fps=2.0)

    def run(out: Path) -> None:
        tokenize(samples, PROCESSOR, config, options(out))

    # the plan and what the first rows are; shard and record of 3 tasks; rows.parquet; then the final names of which 2
    # are given
    assert killed_at(11, "after", run, tmp_path / "out")
    assert len(list((tmp_path / "out" / "train").iterdir())) == 2
    run(tmp_path / "out")
    run(tmp_path / "whole")
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_a_reader_refuses_a_folder_whose_run_was_killed(tmp_path: Path, options: Options) -> None:
    killed_ingest(tmp_path / "out", options, 5)
    with pytest.raises(StoreError, match="unfinished") as caught:
        Store(tmp_path / "out")
    assert caught.value.hint
    assert "again" in caught.value.hint


def test_a_committed_shard_that_was_cut_since_is_found(tmp_path: Path, many_rows: Path, options: Options) -> None:
    samples, out = open_samples(many_rows), tmp_path / "out"
    assert killed_at(4, "after", lambda out: ingest(samples, IngestConfig(), options(out)), out)
    (shard,) = (out / "_work" / "shards").glob("*.arrow")
    os.truncate(shard, shard.stat().st_size - 1)
    with pytest.raises(StoreError, match="missing or damaged"):
        ingest(samples, IngestConfig(), options(out))
    ingest(samples, IngestConfig(), options(out, fresh=True))


def test_a_finished_run_is_not_done_again(tmp_path: Path, options: Options) -> None:
    out = tmp_path / "out"
    lines: list[str] = []
    ingest(open_samples(builtin_data()), IngestConfig(), options(out))
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    ingest(open_samples(builtin_data()), IngestConfig(), options(out, say=lines.append))
    assert any("is complete already" in line for line in lines)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


# ---- another run's folder ----


def test_other_settings_are_refused(tmp_path: Path, options: Options, tree: Tree) -> None:
    samples, out = open_samples(builtin_data()), tmp_path / "out"
    ingest(samples, IngestConfig(), options(out))
    before = tree(out)
    with pytest.raises(OutputError, match="holds another run") as caught:
        ingest(samples, IngestConfig(check_media="decode"), options(out))
    assert "`fresh`" in str(caught.value.hint)
    assert tree(out) == before


def test_other_settings_are_refused_while_the_run_is_unfinished(tmp_path: Path, options: Options) -> None:
    killed_ingest(tmp_path / "out", options, 2)
    with pytest.raises(OutputError, match="holds another run"):
        ingest(open_samples(builtin_data()), IngestConfig(check_media="decode"), options(tmp_path / "out"))


def test_a_changed_input_file_is_another_run(tmp_path: Path, options: Options) -> None:
    source = tmp_path / "rows.jsonl"
    rows = (builtin_data().parent / "tool_talk.json").read_bytes()
    source.write_bytes(rows)
    ingest(open_samples(source), IngestConfig(), options(tmp_path / "out"))
    source.write_bytes(rows.replace(b"Porto", b"Lyon!"))
    with pytest.raises(OutputError, match="holds another run"):
        ingest(open_samples(source), IngestConfig(), options(tmp_path / "out"))


@pytest.mark.parametrize("finished", [True, False])
def test_fresh_starts_over(tmp_path: Path, options: Options, tree: Tree, finished: bool) -> None:
    samples, out = open_samples(builtin_data()), tmp_path / "out"
    if finished:
        ingest(samples, IngestConfig(check_media="decode"), options(out))
    else:
        killed_ingest(out, options, 3)
    ingest(samples, IngestConfig(max_image_pixels=10_000_000), options(out, fresh=True))
    ingest(samples, IngestConfig(max_image_pixels=10_000_000), options(tmp_path / "whole"))
    assert tree(out) == tree(tmp_path / "whole")


def test_fresh_starts_over_where_another_version_wrote(tmp_path: Path, options: Options, tree: Tree) -> None:
    samples, out = open_samples(builtin_data()), tmp_path / "out"
    ingest(samples, IngestConfig(), options(out))
    before = tree(out)
    manifest = orjson.loads((out / "manifest.json").read_bytes())
    (out / "manifest.json").write_bytes(orjson.dumps({**manifest, "schema_version": 1, "of_then": []}))
    with pytest.raises(StoreError, match="schema version 1") as caught:
        ingest(samples, IngestConfig(), options(out))
    assert "`fresh`" in str(caught.value.hint)
    ingest(samples, IngestConfig(), options(out, fresh=True))
    assert tree(out) == before


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("name", ["notes.txt", "manifest.json", "_work/mine.txt", "train/picture.png"])
def test_a_folder_with_foreign_files_is_refused_and_left_alone(
    tmp_path: Path, options: Options, tree: Tree, name: str, fresh: bool
) -> None:
    file = tmp_path / "out" / name
    file.parent.mkdir(parents=True)
    file.write_text('{"manifest_version": 3}')
    before = tree(tmp_path / "out")
    with pytest.raises((OutputError, StoreError)) as caught:
        ingest(open_samples(builtin_data()), IngestConfig(), options(tmp_path / "out", fresh=fresh))
    assert caught.value.hint
    assert tree(tmp_path / "out") == before


@pytest.mark.parametrize("name", ["notes.txt", "train/picture.png", "mine/notes.txt"])
def test_fresh_does_not_delete_what_was_put_beside_a_store(
    tmp_path: Path, options: Options, tree: Tree, name: str
) -> None:
    samples, out = open_samples(builtin_data()), tmp_path / "out"
    ingest(samples, IngestConfig(), options(out))
    (out / name).parent.mkdir(exist_ok=True)
    (out / name).write_text("mine")
    before = tree(out)
    with pytest.raises(OutputError, match="no run of vlm-prep made"):
        ingest(samples, IngestConfig(check_media="decode"), options(out, fresh=True))
    assert tree(out) == before


def test_fresh_does_not_delete_the_store_it_reads(
    tmp_path: Path, tokenized: Path, options: Options, tree: Tree
) -> None:
    before = tree(tokenized)
    with pytest.raises(OutputError, match="output of `tokenize`"):
        pack(tokenized, PackConfig(pack_length=2048), options(tokenized, fresh=True))
    assert tree(tokenized) == before


def test_fresh_does_not_delete_the_ingested_store_it_ingests(
    ingested: Path, tmp_path: Path, command: Command, tree: Tree
) -> None:
    out = tmp_path / "samples"
    shutil.copytree(ingested, out)
    before = tree(out)
    result = command("ingest", out, "--out", out, "--fresh")
    assert result.returncode == 2
    assert tree(out) == before


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


# ---- folders that cannot be written ----


def test_an_output_that_is_a_file_is_refused(tmp_path: Path, options: Options) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(OutputError, match="is a file"):
        ingest(open_samples(builtin_data()), IngestConfig(), options(tmp_path / "out"))


def test_an_output_that_is_a_link_to_nothing_is_refused(tmp_path: Path, options: Options) -> None:
    (tmp_path / "out").symlink_to(tmp_path / "nowhere")
    with pytest.raises(OutputError, match="is a link to"):
        ingest(open_samples(builtin_data()), IngestConfig(), options(tmp_path / "out"))


def test_an_output_below_a_file_is_refused(tmp_path: Path, options: Options) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="cannot write"):
        ingest(open_samples(builtin_data()), IngestConfig(), options(tmp_path / "file" / "out"))


def test_an_output_that_may_not_be_written_is_refused(tmp_path: Path, options: Options) -> None:
    out = tmp_path / "out"
    out.mkdir(mode=0o555)
    if os.geteuid() == 0:
        out = Path("/proc/vlm-prep")  # root may write to any folder but not to this one
    with pytest.raises(OutputError, match="cannot write"):
        ingest(open_samples(builtin_data()), IngestConfig(), options(out))


def test_another_run_in_the_folder_is_refused_and_what_differs_is_said(tmp_path: Path, options: Any) -> None:
    out = tmp_path / "out"
    samples = open_samples(builtin_data())
    ingest(samples, IngestConfig(), options(out))
    with pytest.raises(OutputError, match=r"config\.check_media: 'header' then, 'decode' now"):
        ingest(samples, IngestConfig(check_media="decode"), options(out))
