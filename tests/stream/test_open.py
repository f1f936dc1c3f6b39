"""Opening many shards costs nothing, few are open at a time, and a killed run leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlm_prep.shards.mapped import OpenShards
from vlm_prep.shards.reader import Store
from vlm_prep.stream import ShardDataset

KILLED = """
import sys, time
from torch.utils.data import DataLoader
from vlm_prep.stream import ShardDataset
dataset = ShardDataset(sys.argv[1])
loader = DataLoader(dataset, batch_size=2, sampler=dataset.sampler(), num_workers=2, collate_fn=list)
next(iter(loader))
print("reading", flush=True)
time.sleep(60)
"""


def maps_of(folder: Path) -> int:
    """How many files of a folder this process has mapped."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return len({line.split()[-1] for line in lines if str(folder) in line})


def files_of(folder: Path) -> int:
    """How many files of a folder this process has open."""
    links = (f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd"))
    return sum(str(folder) in os.readlink(link) for link in links if os.path.lexists(link))


needs_proc = pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")


@needs_proc
def test_opening_a_store_opens_no_shard(stores: Any) -> None:
    path = stores.tokenized(60, shards=20)
    dataset = ShardDataset(path)
    assert (maps_of(path), files_of(path), len(dataset)) == (0, 0, 60)


@needs_proc
def test_few_shards_are_open_however_many_are_read(stores: Any) -> None:
    path = stores.tokenized(60, shards=20)
    store = Store(path, open_shards=OpenShards(most=3))
    for index in range(60):
        store.row(index)
        assert maps_of(path) <= 3 and files_of(path) <= 3
    assert len(store.open_shards) == 3


def test_a_row_outlives_the_closing_of_its_shard(stores: Any) -> None:
    store = Store(stores.tokenized(40, shards=20), open_shards=OpenShards(most=1))
    rows = [store.row(index) for index in range(40)]
    assert [int(row["input_ids"][0]) for row in rows] == [100 * number for number in range(40)]


@needs_proc
def test_the_ranks_of_a_packed_store_share_the_limit(stores: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlm_prep.shards.mapped.OpenShards.__init__.__defaults__", (2,))
    path = stores.ranks(8, 4)
    dataset = ShardDataset(path)
    for index in range(8):
        dataset[index]
        assert maps_of(path) <= 2


def test_rows_are_views_of_the_map(stores: Any) -> None:
    ids = Store(stores.tokenized(4)).row(3)["input_ids"]
    assert not ids.flags.owndata and not ids.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        ids[0] = 1


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs /dev/shm")
def test_a_killed_run_leaves_no_shared_memory_and_its_store_opens_again(stores: Any) -> None:
    path = stores.tokenized(40)
    before = set(os.listdir(path)) | set(os.listdir(path / "train"))
    run = subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None and run.stdout.readline() == "reading\n"
    workers = _children(run.pid)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    for pid in workers:
        _wait_gone(pid)
    assert not [name for name in os.listdir("/dev/shm") for pid in (run.pid, *workers) if f"_{pid}_" in name]
    assert set(os.listdir(path)) | set(os.listdir(path / "train")) == before
    assert len(np.unique([ShardDataset(path)[i]["sample_id"] for i in range(40)])) == 40


def _children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]


def _wait_gone(pid: int) -> None:
    """Wait until an orphaned worker, whose watchdog looks every few seconds, has ended."""
    for _ in range(200):
        status = Path(f"/proc/{pid}/status")
        if not status.exists() or "Z (zombie)" in status.read_text():
            return
        time.sleep(0.1)
    raise AssertionError(f"worker {pid} lives on")
