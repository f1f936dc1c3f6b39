"""What a run takes of a machine: one thread a worker; and what it does when a disk is full or a folder goes away."""

from __future__ import annotations

import gc
import json
import os
import resource
import shutil
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vlm_prep.builtin import builtin_data
from vlm_prep.core.errors import InputError, OutputError
from vlm_prep.core.settings import IngestConfig, TokenizeConfig
from vlm_prep.engine.local import Limits, local_executor
from vlm_prep.engine.stage import RunOptions
from vlm_prep.engine.tasks import Assignment, Task
from vlm_prep.ingest.ingest_run import ingest
from vlm_prep.ingest.source import open_samples
from vlm_prep.tokenize import tokenize_run
from vlm_prep.tokenize.tokenize_job import TokenizeJob

PROCESSOR = "builtin:qwen2.5-vl-mini"
Options = Callable[..., RunOptions]
Tree = Callable[[Path], dict[str, str]]
VLM_PREP = str(Path(sys.executable).with_name("vlm-prep"))


def test_a_worker_has_one_thread_to_compute_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, many_rows: Path
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "planted"))
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    import poison_media

    job = poison_media.ThreadsTokenizeJob(open_samples(many_rows), PROCESSOR, TokenizeConfig(fps=2.0))
    found: list[Any] = []
    assignment = Assignment(task=Task(index=0, start=0, stop=40), folder=tmp_path, method="threads")
    with local_executor(job, workers=1, limits=Limits(), scratch=tmp_path / "alone", found=found.append) as executor:
        executor.run([assignment], lambda assignment, result: found.append(result), lambda rows, tokens, rejects: None)
    assert found[0]["torch"] == 1
    # itself, and what the allocators of Arrow and the video decoder keep: none of them grows with the cores
    assert found[0]["tasks"] <= 4
    assert os.environ["OMP_NUM_THREADS"] == "7"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_full_disk_is_said_and_the_rerun_continues(
    small_disk: Path, tmp_path: Path, many_rows: Path, options: Options, tree: Tree, workers: int
) -> None:
    ingest(open_samples(many_rows), IngestConfig(), options(tmp_path / "whole"))
    out, ballast = small_disk / "out", small_disk / "ballast"
    ballast.write_bytes(bytes(700 << 10))
    with pytest.raises(OutputError, match="No space left") as caught:
        ingest(open_samples(many_rows), IngestConfig(), options(out, workers=workers))
    assert "make room" in str(caught.value.hint)
    ballast.unlink()
    ingest(open_samples(many_rows), IngestConfig(), options(out, workers=workers))
    assert tree(out) == tree(tmp_path / "whole")


def test_a_quota_on_file_sizes_is_said(tmp_path: Path, many_rows: Path) -> None:
    line = [VLM_PREP, "ingest", str(many_rows), "--out", str(tmp_path / "out"), "--workers", "2", "--quiet"]
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (64 << 10, 64 << 10))  # noqa: E731
    result = subprocess.run(line, capture_output=True, text=True, preexec_fn=limit, check=False)
    assert result.returncode == 2
    assert "File too large" in result.stderr
    assert "Traceback" not in result.stderr
    assert subprocess.run(line, capture_output=True, check=False).returncode == 0


def test_an_input_that_vanishes_stops_the_run_and_the_rerun_continues(tmp_path: Path, options: Options) -> None:
    source = Path(shutil.copy(builtin_data().parent / "tool_talk.json", tmp_path / "rows.json"))
    samples = open_samples(source)
    source.rename(tmp_path / "elsewhere")
    with pytest.raises((InputError, OutputError)) as caught:
        ingest(samples, IngestConfig(), options(tmp_path / "out"))
    assert str(source) in str(caught.value)
    (tmp_path / "elsewhere").rename(source)
    ingest(open_samples(source), IngestConfig(), options(tmp_path / "out"))


def test_an_input_that_changes_while_it_is_read_stops_the_run(tmp_path: Path, options: Options) -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    source = tmp_path / "rows.jsonl"
    source.write_text((json.dumps({"messages": messages}) + "\n") * 600)
    samples = open_samples(source)
    samples.identity()
    os.truncate(source, source.stat().st_size // 2)
    with pytest.raises(InputError, match="became shorter"):
        ingest(samples, IngestConfig(), options(tmp_path / "out"))
    assert not (tmp_path / "out" / "manifest.json").exists()


@pytest.fixture(params=[False, True], ids=["", "frozen"])
def frozen(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whether this program keeps the collector from what it holds, itself."""
    if request.param:
        gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("frozen")
def test_a_run_in_this_process_leaves_nothing_that_the_collector_may_not_take(tmp_path: Path, options: Options) -> None:
    held: list[weakref.ref[Any]] = []

    class Watched(TokenizeJob):
        def setup(self, *loaded: Any) -> None:
            super().setup(*loaded)
            held.append(weakref.ref(self.encoder))

    before = gc.get_freeze_count()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenize_run, "TokenizeJob", Watched)
        tokenize_run.tokenize(
            open_samples(builtin_data()), PROCESSOR, TokenizeConfig(fps=2.0), options(tmp_path / "out")
        )
    assert gc.get_freeze_count() <= before
    gc.collect()
    assert [encoder() for encoder in held] == [None]
