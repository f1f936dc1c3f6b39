"""A run on a Ray cluster of several nodes ends like one on this machine, also when nodes and workers are lost."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import vlm_prep.ingest.ingest_run as ingest_run
from vlm_prep.builtin import builtin_data
from vlm_prep.core.errors import InputError
from vlm_prep.core.settings import IngestConfig
from vlm_prep.engine.stage import RunOptions
from vlm_prep.ingest.ingest_run import ingest
from vlm_prep.ingest.source import open_samples
from vlm_prep.shards.layout import read_rejects

Options = Callable[..., RunOptions]
Tree = Callable[[Path], dict[str, str]]
Command = Callable[..., subprocess.CompletedProcess[str]]
PLANTED = str(Path(__file__).parent / "planted")
MEMORY = 80 << 20


def test_that_ray_is_missing_is_said(tmp_path: Path, options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match="needs the ray package") as caught:
        ingest(open_samples(builtin_data()), IngestConfig(), options(tmp_path / "out", workers=1, engine="ray"))
    assert caught.value.hint == "pip install 'vlm-prep[ray]'"


def test_an_address_without_the_engine_is_refused(tmp_path: Path, command: Command) -> None:
    result = command("ingest", builtin_data(), "--out", tmp_path / "out", "--ray-address", "auto")
    assert result.returncode == 2
    assert "--engine ray" in result.stderr


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A cluster of three nodes; the first does no work."""
    utils = pytest.importorskip("ray.cluster_utils", reason="ray is not installed: pip install 'vlm-prep[ray]'")
    # nodes import the poisonous jobs by name
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [PLANTED, os.environ.get("PYTHONPATH")])))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.syspath_prepend(PLANTED)
    head = {"num_cpus": 0, "object_store_memory": MEMORY, "include_dashboard": False}
    made = utils.Cluster(initialize_head=True, head_node_args=head)
    try:
        for _ in range(2):
            made.add_node(num_cpus=1, object_store_memory=MEMORY)
        yield made
    finally:
        made.shutdown()


def hands() -> list[int]:
    """Return the processes of the actors whose raylet is a child of this process."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if folder.joinpath("cmdline").read_bytes().startswith(b"ray::Hand") and _is_ours(int(folder.name)):
                found.append(int(folder.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return sorted(found)


def _is_ours(process: int) -> bool:
    while process > 1 and process != os.getpid():
        process = int(Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[1])
    return process == os.getpid()


def rows(folder: Path, count: int, poison: str) -> Path:
    """Write rows with a picture, one of which crashes its decoder."""
    shutil.copy(builtin_data().parent / "photos" / "chelsea.jpg", folder / "good.jpg")
    messages = [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "A cat."}]
    with (folder / "rows.jsonl").open("w") as file:
        for number in range(count):
            image = poison if number == count - 5 else "good.jpg"
            file.write(json.dumps({"messages": messages, "images": [image]}) + "\n")
    return folder / "rows.jsonl"


def test_a_node_and_a_worker_that_are_lost_cost_nothing_and_poison_costs_its_row(
    cluster: Any, tmp_path: Path, options: Options, tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    import poison_media

    class_of = {"poisoned": poison_media.PoisonedIngestJob, "slow": poison_media.SlowPoisonedIngestJob}
    (tmp_path / "data").mkdir()
    source = rows(tmp_path / "data", 1300, poison_media.write_poison(tmp_path / "data", "crash"))  # six tasks
    out = tmp_path / "out"
    lines: list[str] = []
    killed: list[str] = []

    def lose() -> None:
        wait_for(lambda: len(hands()) == 2 and any((out / "_work" / "attempts").glob("*/*.tmp")))
        os.kill(hands()[0], signal.SIGKILL)
        killed.append("worker")
        wait_for(lambda: any((out / "_work" / "done").iterdir()))
        cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
        killed.append("node")

    monkeypatch.setattr(ingest_run, "IngestJob", class_of["slow"])
    losing = threading.Thread(target=lose, daemon=True)
    losing.start()
    on_ray = {"engine": "ray", "ray_address": cluster.address, "workers": 2, "say": lines.append}
    ingest(open_samples(source), IngestConfig(), options(out, **on_ray))
    losing.join(timeout=10)
    assert killed == ["worker", "node"]
    assert [(each["line"], each["reason"]) for each in read_rejects(out)] == [(1296, "worker_crashed")]
    assert any("row 1295 is rejected, worker_crashed" in line for line in lines)
    monkeypatch.setattr(ingest_run, "IngestJob", class_of["poisoned"])
    ingest(open_samples(source), IngestConfig(), options(tmp_path / "whole", workers=1))
    assert tree(out) == tree(tmp_path / "whole")


def test_the_command_starts_a_cluster_of_its_own(
    tmp_path: Path, many_rows: Path, command: Command, options: Options, tree: Tree
) -> None:
    pytest.importorskip("ray", reason="ray is not installed: pip install 'vlm-prep[ray]'")
    line = ["ingest", many_rows, "--out", tmp_path / "out", "--engine", "ray", "--workers", 2]
    result = command(*line)
    assert result.returncode == 0, result.stderr
    ingest(open_samples(many_rows), IngestConfig(), options(tmp_path / "whole"))
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def wait_for(condition: Callable[[], object]) -> None:
    """Wait until something holds; a folder that is not there yet does not."""
    while True:
        try:
            if condition():
                return
        except FileNotFoundError:
            pass
        time.sleep(0.02)
