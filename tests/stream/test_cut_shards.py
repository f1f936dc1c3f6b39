"""A shard that is cut while a process has it mapped: the next batch is an error that names it, not a dead process.

What remains is what was handed out: a view of bytes that are gone ends the process that touches it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vlm_prep.core.errors import StoreError
from vlm_prep.shards.mapped import LOOK_AGAIN, OpenShards
from vlm_prep.shards.reader import Store
from vlm_prep.stream import ShardDataset

READS = """
import sys, time
from torch.utils.data import DataLoader
from vlm_prep.core.errors import StoreError
from vlm_prep.stream import ShardDataset
dataset = ShardDataset(sys.argv[1], shuffle=False, on_bad=sys.argv[2])
batches = iter(DataLoader(dataset, batch_size=2, sampler=dataset.sampler(), collate_fn=list))
items = next(batches)
print("reading", flush=True)
sys.stdin.readline()
if sys.argv[3] == "view":
    print(items[0]["input_ids"].sum(), flush=True)
time.sleep(0.4)
try:
    for items in batches:
        print(len(items), dataset.skipped, flush=True)
except StoreError as error:
    print(error, flush=True)
"""


def read_while(path: Path, cut: Path, size: int, *, on_bad: str = "raise", then: str = "batch") -> tuple[int, str]:
    """Return how a process ends, and what it says, of which a mapped file is cut to `size` bytes after a batch."""
    line = [sys.executable, "-c", READS, str(path), on_bad, then]
    process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "reading\n"
    os.truncate(cut, size)
    said, _ = process.communicate("go on\n", timeout=120)
    return process.returncode, said


def first_shard(path: Path) -> Path:
    return min(path.glob("*/data-*.arrow"))


@pytest.mark.parametrize("left", [0, 700])
@pytest.mark.parametrize("layout", ["samples", "ranks", "index"])
def test_the_batch_after_a_cut_names_the_shard(stores: Any, layout: str, left: int) -> None:
    source = stores.tokenized(24)
    made = {
        "samples": lambda: source,
        "ranks": lambda: stores.ranks(12, 2),
        "index": lambda: stores.index(12, 2, source),
    }
    path = made[layout]()
    cut = first_shard(source if layout == "index" else path)
    whole = cut.stat().st_size
    status, said = read_while(path, cut, left)
    assert status == 0
    assert f"{'/'.join(cut.parts[-3:])} is damaged: {left} bytes, the manifest says {whole}" in said


def test_rows_of_other_shards_are_read_on(stores: Any) -> None:
    path = stores.tokenized(8, shards=2)
    status, said = read_while(path, first_shard(path), 0, on_bad="skip")
    assert (status, said.splitlines()) == (0, ["0 2", "2 2", "2 2"])


def test_a_view_of_bytes_that_are_gone_ends_its_process(stores: Any) -> None:
    path = stores.tokenized(8, shards=2)
    status, said = read_while(path, first_shard(path), 0, then="view")
    assert (status, said) == (-signal.SIGBUS, "")


def test_a_record_batch_that_is_begun_after_a_cut_is_an_error(tokenized: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(tokenized, tmp_path / "tok"))
    shard = Store(path).shards[0]
    assert shard.schema is not None  # mapped
    os.truncate(first_shard(path), 0)
    with pytest.raises(StoreError, match="0 bytes, the manifest says"):
        shard.row(0)


def test_a_shard_that_is_replaced_stays_as_it_was_for_who_has_it_mapped(stores: Any, tmp_path: Path) -> None:
    path = stores.tokenized(8, shards=2)
    dataset = ShardDataset(path, shuffle=False)
    before = dataset[0]["input_ids"].tolist()
    (tmp_path / "new").write_bytes(b"another")
    os.replace(tmp_path / "new", first_shard(path))
    assert [item["input_ids"].tolist() for item in dataset.__getitems__([0])] == [before]


class Mapped:
    """A shard that says whether it was cut, and counts how often it is asked."""

    is_evicted = False

    def __init__(self) -> None:
        self.asked = 0

    @property
    def is_cut(self) -> bool:
        self.asked += 1
        return False

    def close(self) -> None:
        """Nothing is mapped."""

    def forget(self, number: int) -> None:
        """Nothing is held."""


def test_files_are_looked_at_a_few_times_a_second_however_small_batches_are(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 1000.0
    monkeypatch.setattr("vlm_prep.shards.mapped.time.monotonic", lambda: clock)
    opened, shard = OpenShards(), Mapped()
    opened.used(shard)
    for _ in range(10_000):
        opened.drop_cut()
        clock += LOOK_AGAIN / 1000
    assert 10 <= shard.asked <= 11
