"""A row that crashes, hangs or bloats its worker is rejected by name; a worker that is killed costs no row."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest

import vlm_prep.ingest.ingest_run as ingest_run
import vlm_prep.pack.pack_run as pack_run
import vlm_prep.tokenize.tokenize_run as tokenize_run
from vlm_prep.builtin import builtin_data
from vlm_prep.core.errors import ExactnessError, InputError, StoreError, VlmPrepError
from vlm_prep.core.pack_settings import PackConfig
from vlm_prep.core.settings import IngestConfig, TokenizeConfig
from vlm_prep.engine.stage import RunOptions, Stage, run_stage
from vlm_prep.engine.tasks import Assignment, split_rows
from vlm_prep.ingest.ingest_run import ingest
from vlm_prep.ingest.source import open_samples
from vlm_prep.pack.pack_run import pack
from vlm_prep.shards.layout import read_rejects
from vlm_prep.shards.manifest import read_manifest
from vlm_prep.shards.reader import Store
from vlm_prep.tokenize.tokenize_run import tokenize

PROCESSOR = "builtin:qwen2.5-vl-mini"
Options = Callable[..., RunOptions]
Tree = Callable[[Path], dict[str, str]]
REASONS = {"crash": "worker_crashed", "grow": "out_of_memory", "killed": "out_of_memory"}
QUICK = {"abort": "worker_crashed", "ask": "out_of_memory", "crash": "worker_crashed"}
ROWS = {"crash": 70, "grow": 141, "killed": 212}
"""Where the poison is among 283 rows, which are two tasks."""
LIMITS: dict[str, Any] = {"sample_timeout": 60.0, "worker_memory": 400 << 20, "max_reject_rate": 1.0}


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of the decoder that dies, importable in workers."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "planted"))
    import poison_media

    return poison_media


def rows_with(folder: Path, kinds: list[str], good: int, planted: Any) -> Path:
    """Write a source in which `good` good rows stand around each poisonous one."""
    shutil.copy(builtin_data().parent / "photos" / "chelsea.jpg", folder / "good.jpg")
    names: list[str] = []
    for kind in kinds:
        names += ["good.jpg"] * good + [planted.write_poison(folder, kind)]
    names += ["good.jpg"] * good
    messages = [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "A cat."}]
    lines = [json.dumps({"messages": messages, "images": [name]}) for name in names]
    (folder / "rows.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return folder / "rows.jsonl"


@pytest.fixture
def poisoned(tmp_path: Path, planted: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """283 rows with one row of each kind of poison, for `ingest`."""
    (tmp_path / "data").mkdir()
    monkeypatch.setattr(ingest_run, "IngestJob", planted.PoisonedIngestJob)
    return rows_with(tmp_path / "data", list(REASONS), 70, planted)


def test_each_poisonous_row_is_rejected_and_the_others_are_written_with_any_number_of_workers(
    poisoned: Path, tmp_path: Path, options: Options, tree: Tree
) -> None:
    for workers in (1, 3):
        out = tmp_path / str(workers)
        ingest(open_samples(poisoned), IngestConfig(), options(out, workers=workers, **LIMITS))
        assert tree(out) == tree(tmp_path / "1")
    rejects = read_rejects(tmp_path / "1")
    assert {(each["sample_id"], each["line"], each["reason"]) for each in rejects} == {
        (f"rows/{ROWS[kind]}", ROWS[kind] + 1, reason) for kind, reason in REASONS.items()
    }
    store = Store(tmp_path / "1", verify=True)
    assert [row["sample_id"] for row in store.rows()] == [
        f"rows/{number}" for number in range(283) if number not in ROWS.values()
    ]


def test_a_row_that_hangs_in_native_code_is_rejected_after_its_time(
    tmp_path: Path, planted: Any, monkeypatch: pytest.MonkeyPatch, options: Options, tree: Tree
) -> None:
    monkeypatch.setattr(ingest_run, "IngestJob", planted.PoisonedIngestJob)
    source = rows_with(tmp_path, ["spin"], 130, planted)
    for workers in (1, 2):
        run = options(tmp_path / str(workers), workers=workers, sample_timeout=1.0)
        ingest(open_samples(source), IngestConfig(), run)
    assert [(each["sample_id"], each["reason"]) for each in read_rejects(tmp_path / "1")] == [("rows/130", "timeout")]
    assert read_manifest(tmp_path / "1").totals["rows_written"] == 260
    assert tree(tmp_path / "1") == tree(tmp_path / "2")


_POISONED_INGEST = """
import sys
sys.path.insert(0, sys.argv[1])
import poison_media
import vlm_prep.ingest.ingest_run as run
from pathlib import Path
from vlm_prep.core.settings import IngestConfig
from vlm_prep.engine.stage import RunOptions, Stage, run_stage
from vlm_prep.engine.tasks import Assignment, split_rows
from vlm_prep.ingest.source import open_samples
if __name__ == "__main__":
    run.IngestJob = poison_media.PoisonedIngestJob
    limits = dict(sample_timeout=60.0, worker_memory=400 << 20, max_reject_rate=1.0)
    run.ingest(open_samples(sys.argv[2]), IngestConfig(), RunOptions(out=Path(sys.argv[3]), workers=1, **limits))
"""


def killed_ingest(source: Path, out: Path, when: Callable[[], bool]) -> None:
    """Ingest poison in a process of its own and kill it once `when` holds."""
    planted = str(Path(__file__).parent / "planted")
    run = subprocess.Popen([sys.executable, "-c", _POISONED_INGEST, planted, str(source), str(out)])
    while not when() and run.poll() is None:
        time.sleep(0.002)
    run.kill()
    run.wait()


def has_files(folder: Path, number: int) -> bool:
    return len(list(folder.glob("*.json"))) >= number


def test_what_was_found_is_not_met_again_after_a_kill(
    tmp_path: Path, planted: Any, monkeypatch: pytest.MonkeyPatch, options: Options, tree: Tree
) -> None:
    monkeypatch.setattr(ingest_run, "IngestJob", planted.PoisonedIngestJob)
    source, met, found = rows_with(tmp_path, list(QUICK), 64, planted), tmp_path / "met", tmp_path / "out/_work/poison"
    ingest(open_samples(source), IngestConfig(), options(tmp_path / "whole", workers=1, **LIMITS))
    assert Counter(met.read_text().split()) == dict.fromkeys(QUICK, 2)
    met.unlink()
    for number in (1, 2):
        killed_ingest(source, tmp_path / "out", partial(has_files, found, number))
    known = {int(path.stem.removeprefix("row-")) for path in found.glob("*.json")}
    assert known
    met.unlink()
    ingest(open_samples(source), IngestConfig(), options(tmp_path / "out", workers=2, **LIMITS))
    again = set(met.read_text().split()) if met.exists() else set()
    assert again.isdisjoint(kind for number, kind in enumerate(QUICK) if 65 * number + 64 in known)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_a_pack_that_kills_its_worker_stops_the_run_and_is_named(
    tokenized: Path, tmp_path: Path, planted: Any, monkeypatch: pytest.MonkeyPatch, options: Options
) -> None:
    monkeypatch.setattr(pack_run, "PackJob", planted.PoisonedPackJob)
    with pytest.raises(StoreError, match=r"pack of photo_talk/.* crashed the worker \(SIGSEGV\)"):
        pack(tokenized, PackConfig(pack_length=2048), options(tmp_path / "out", workers=1))


# ---- kills from outside ----


def workers_of(server: int) -> list[int]:
    """The live workers of a forkserver."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == server and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


class Killer(threading.Thread):
    """Kills workers of this process's forkserver at random instants."""

    def __init__(self, seed: int, most: int) -> None:
        super().__init__(daemon=True)
        self._instants, self._left = random.Random(seed), most
        self.killed = 0
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(self._instants.uniform(0.02, 0.5)) and self.killed < self._left:
            server = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
            for pid in workers_of(server)[:1] if server else []:
                os.kill(pid, signal.SIGKILL)
                self.killed += 1

    def stop(self) -> None:
        self._over.set()
        self.join()


@pytest.fixture
def killer() -> Iterator[Killer]:
    thread = Killer(seed=1, most=8)
    yield thread
    thread.stop()


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_killed_from_outside_cost_no_row(
    tmp_path: Path,
    many_rows: Path,
    planted: Any,
    monkeypatch: pytest.MonkeyPatch,
    killer: Killer,
    options: Options,
    tree: Tree,
    workers: int,
) -> None:
    ingest(open_samples(many_rows), IngestConfig(), options(tmp_path / "whole"))
    monkeypatch.setattr(ingest_run, "IngestJob", planted.SlowIngestJob)
    killer.start()
    ingest(open_samples(many_rows), IngestConfig(), options(tmp_path / "out", workers=workers))
    killer.stop()
    assert killer.killed
    assert read_rejects(tmp_path / "out") == []
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_a_killed_forkserver_is_replaced(
    tmp_path: Path, many_rows: Path, planted: Any, monkeypatch: pytest.MonkeyPatch, options: Options, tree: Tree
) -> None:
    ingest(open_samples(many_rows), IngestConfig(), options(tmp_path / "whole"))
    monkeypatch.setattr(ingest_run, "IngestJob", planted.SlowIngestJob)

    def kill_server() -> None:
        while not list((tmp_path / "out").glob("_work/shards/*")):
            time.sleep(0.01)
        os.kill(forkserver._forkserver._forkserver_pid, signal.SIGKILL)  # type: ignore[attr-defined]

    thread = threading.Thread(target=kill_server)
    thread.start()
    ingest(open_samples(many_rows), IngestConfig(), options(tmp_path / "out", workers=2))
    thread.join()
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_a_worker_that_never_lives_ends_the_run_with_a_message(
    tmp_path: Path, planted: Any, monkeypatch: pytest.MonkeyPatch, options: Options
) -> None:
    monkeypatch.setattr(ingest_run, "IngestJob", planted.StillbornIngestJob)
    with pytest.raises(VlmPrepError, match="no row is to blame") as caught:
        ingest(open_samples(builtin_data()), IngestConfig(), options(tmp_path / "out", workers=2))
    assert caught.value.hint


def test_a_memory_limit_below_what_a_worker_starts_with_is_refused(tmp_path: Path, options: Options) -> None:
    run = options(tmp_path / "out", workers=1, worker_memory=1 << 20)
    with pytest.raises(InputError, match="before its first row"):
        ingest(open_samples(builtin_data()), IngestConfig(), run)


def test_no_process_is_left_when_a_run_has_ended(tmp_path: Path, many_rows: Path, options: Options) -> None:
    ingest(open_samples(many_rows), IngestConfig(), options(tmp_path / "out", workers=2))
    assert multiprocessing.active_children() == []


def test_what_is_done_while_a_run_checks_its_beginning_counts_only_if_that_does_not_fail(
    tmp_path: Path, many_rows: Path, planted: Any, options: Options
) -> None:
    job = planted.DoubtfulIngestJob(open_samples(many_rows), IngestConfig())
    out = tmp_path / "out"
    stage = Stage(
        name="ingest",
        identity={"stage": "ingest"},
        tasks=split_rows(640, 256),
        job=job,
        describe=lambda records, splits: pytest.fail("the run goes on"),
        again={},
        begin=Assignment(task=split_rows(640, 64)[0], folder=out, method="check_start", arguments=(1.0,)),
    )
    with pytest.raises(ExactnessError):
        run_stage(stage, options(out, workers=2))
    assert list((out / "_work" / "shards").iterdir())
    assert list((out / "_work" / "done").iterdir()) == []


# ---- tokenize, last: from here on the forkserver imports torch ----


def test_a_poisonous_row_of_a_tokenize_is_rejected_also_where_the_run_begins_with_it(
    tmp_path: Path, planted: Any, monkeypatch: pytest.MonkeyPatch, options: Options, tree: Tree
) -> None:
    monkeypatch.setattr(tokenize_run, "TokenizeJob", planted.PoisonedTokenizeJob)
    source = rows_with(tmp_path, ["abort"], 2, planted)
    limits = {**LIMITS, "worker_memory": 8 << 30}
    for workers in (1, 2):
        tokenize(
            open_samples(source),
            PROCESSOR,
            TokenizeConfig(),
            options(tmp_path / str(workers), workers=workers, **limits),
        )
    assert {(each["sample_id"], each["reason"]) for each in read_rejects(tmp_path / "1")} == {
        ("rows/2", "worker_crashed")
    }
    assert read_manifest(tmp_path / "1").totals["rows_written"] == 4
    assert tree(tmp_path / "1") == tree(tmp_path / "2")


def test_a_row_that_ends_the_worker_that_compares_it_at_the_end_is_rejected(
    tmp_path: Path, planted: Any, monkeypatch: pytest.MonkeyPatch, options: Options
) -> None:
    monkeypatch.setattr(tokenize_run, "TokenizeJob", planted.DiesComparingJob)
    source = rows_with(tmp_path, [], 5, planted)
    limits = {**LIMITS, "worker_memory": 8 << 30}
    tokenize(open_samples(source), PROCESSOR, TokenizeConfig(), options(tmp_path / "out", workers=1, **limits))
    rejects = [(each["sample_id"], each["reason"]) for each in read_rejects(tmp_path / "out")]
    assert rejects == [("rows/3", "worker_crashed")]
    assert read_manifest(tmp_path / "out").totals["rows_written"] == 4
