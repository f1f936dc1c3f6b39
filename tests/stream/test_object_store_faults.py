"""Reading from an object store beside damage, refusals, full disks, and processes that die while they fetch."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from s3 import Server
from stream.cached import Sent, files, firsts, open_at, requests

from vlm_prep.core.errors import InputError, OutputError, StoreError
from vlm_prep.shards.manifest import read_manifest
from vlm_prep.stream import ShardDataset

READ = """
import sys
from pathlib import Path
import vlm_prep.shards.cache as cache
from vlm_prep.shards.reader import Store
from vlm_prep.shards.object_store import RemotePath
cache.PART_BYTES = 1 << 16
rows = Store(RemotePath(sys.argv[1], cache.ShardCache(folder=Path(sys.argv[2]), bytes=1 << 30))).rows()
print(sum(int(row["input_ids"][-1]) for row in rows))
"""
MIXED = """
import random, sys
from pathlib import Path
from vlm_prep.engine.stage import RunOptions
from vlm_prep.pack.pack_run import pack
from vlm_prep.shards.cache import ShardCache
from vlm_prep.shards.reader import Store
from vlm_prep.shards.object_store import RemotePath
store = Store(RemotePath(sys.argv[1], ShardCache(folder=Path(sys.argv[2]), bytes=int(sys.argv[3]))))
order = random.Random(int(sys.argv[4])).sample(range(len(store)), len(store))
print(all(store.row(index)["input_ids"][0] == 100 * index for index in order))
"""


@pytest.fixture
def big(sent: Sent, make_sample: Callable[..., dict[str, Any]]) -> tuple[Path, str]:
    """A store of one shard of 4 MB, which the child `READ` fetches in 61 parts."""
    return sent([make_sample(0, 500_000)], shards=1)


def start(url: str, cache: Path) -> subprocess.Popen[str]:
    """Start a process that reads the whole store."""
    return subprocess.Popen([sys.executable, "-c", READ, url, str(cache)], stdout=subprocess.PIPE, text=True)


def wait_for_a_part(cache: Path) -> Path:
    """Return the temporary file of a fetch once some of it was written."""
    while True:
        for path in cache.glob("*.tmp"):
            if path.stat().st_blocks:
                return path
        time.sleep(0.001)


# ---- damage ----


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:-8] + bytes(8), "checksum .* the manifest says"),
        (lambda data: data[:-1], "bytes, the manifest says"),
        (None, "the manifest names this shard and it is missing"),
    ],
)
def test_an_object_that_is_not_the_manifests_is_refused_and_not_kept(
    sent: Sent, server: Server, cache: Path, change: Any, message: str
) -> None:
    path, url = sent(4, shards=1)
    (shard,) = (path / "train").glob("*.arrow")
    server.files.rm(f"{url}/train/{shard.name}")
    if change is not None:
        server.files.pipe(f"{url}/train/{shard.name}", change(shard.read_bytes()))
    with pytest.raises(StoreError, match=message) as caught:
        open_at(url, cache)[0]
    assert f"{url}/train/{shard.name}" in caught.value.message and "push" in str(caught.value.hint)
    assert not files(cache)


def test_a_copy_that_the_disk_damaged_is_fetched_again(sent: Sent, cache: Path, server: Server) -> None:
    path, url = sent(4, shards=1)
    expected = firsts(ShardDataset(path, pixels=False))
    assert firsts(open_at(url, cache)) == expected
    (copy,) = files(cache)
    os.truncate(copy, copy.stat().st_size - 1)
    assert firsts(open_at(url, cache)) == expected
    data = bytearray(copy.read_bytes())
    data[-20] ^= 1  # of a text: a header or an offset would be an error without verify, too
    copy.write_bytes(data)
    firsts(open_at(url, cache))
    assert sum(requests(server, url, end="arrow").values()) == 2
    assert firsts(open_at(url, cache, verify=True)) == expected
    assert sum(requests(server, url, end="arrow").values()) == 3


def test_a_missing_object_is_a_bad_row_and_a_refusal_is_not(sent: Sent, cache: Path, server: Server) -> None:
    _, url = sent(4, shards=2)
    server.files.rm(f"{url}/train/data-00000-of-00002.arrow")
    dataset = open_at(url, cache, on_bad="skip", shuffle=False)
    assert (firsts(dataset), dataset.skipped) == ([200, 300], 2)

    server.deny()
    try:
        with pytest.raises(InputError, match="Access Key Id") as caught:
            firsts(dataset)
    finally:
        server.allow()
    assert "check credentials" in str(caught.value.hint)


def test_an_address_that_was_made_a_path_is_told(cache: Path) -> None:
    with pytest.raises(InputError, match="slashes"):
        open_at(Path("s3://bucket/tok"), cache)  # type: ignore[arg-type]


def test_a_folder_that_cannot_be_a_cache_is_named(sent: Sent, tmp_path: Path) -> None:
    _, url = sent(4)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file") as caught:
        open_at(url, tmp_path / "file")[0]
    assert "cache_dir" in str(caught.value.hint)


def test_a_full_disk_is_told(big: tuple[Path, str], cache: Path) -> None:
    # a file of at most 1 MB is what the kernel grants of a disk to this process
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))  # noqa: E731
    line = [sys.executable, "-c", READ, big[1], str(cache)]
    run = subprocess.run(line, capture_output=True, text=True, preexec_fn=limit)
    assert "OutputError" in run.stderr and "another cache_dir" in run.stderr
    assert not files(cache)


def test_no_credentials_no_store_and_no_server_are_told(
    bucket: str, sent: Sent, tmp_path: Path, cache: Path, command: Any
) -> None:
    _, url = sent(4)
    bare = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    alone = {**bare, "HOME": str(tmp_path), "AWS_EC2_METADATA_DISABLED": "true", "AWS_MAX_ATTEMPTS": "1"}
    keys = {name: os.environ[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    nowhere = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
    for given in ({"AWS_ENDPOINT_URL": os.environ["AWS_ENDPOINT_URL"]}, {**keys, **nowhere}):
        result = command("stats", url, env={**alone, **given})
        assert result.returncode == 2 and "check credentials" in result.stderr and "AWS_ENDPOINT_URL" in result.stderr
        assert "Traceback" not in result.stderr
    for missing in (f"{bucket}/none", "s3://nosuchbucketanywhere/tok"):
        with pytest.raises(StoreError, match="holds no finished store"):
            open_at(missing, cache)


# ---- many processes, and dead ones ----


def test_processes_that_want_the_same_shard_fetch_it_once(big: tuple[Path, str], cache: Path, server: Server) -> None:
    _, url = big
    runs = [start(url, cache) for _ in range(2)]
    assert [run.communicate()[0].split() for run in runs] == [["499999"]] * 2
    (copy,) = files(cache)
    (count,) = requests(server, url, end="arrow").values()
    assert count <= copy.stat().st_size / (1 << 16) + 2


def test_a_fetch_that_was_killed_is_taken_over(big: tuple[Path, str], cache: Path) -> None:
    _, url = big
    first = start(url, cache)
    left_over = wait_for_a_part(cache)
    second = start(url, cache)
    first.kill()
    first.wait()
    assert second.communicate()[0].split() == ["499999"]
    assert not left_over.exists() and len(files(cache)) == 1


def test_what_a_killed_fetch_left_is_removed_by_the_next(big: tuple[Path, str], sent: Sent, cache: Path) -> None:
    run = start(big[1], cache)
    left_over = wait_for_a_part(cache)
    run.kill()
    run.wait()
    assert left_over.exists()
    _, url = sent(4, name="other", shards=1)
    open_at(url, cache)[0]
    assert len(files(cache)) == 1 and not left_over.exists()


def test_a_fetch_that_stopped_holds_up_nobody(
    big: tuple[Path, str], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, url = big
    run = start(url, cache)
    wait_for_a_part(cache)
    run.send_signal(signal.SIGSTOP)
    monkeypatch.setattr("vlm_prep.shards.cache.STALLED_SECONDS", 0.2)
    assert int(open_at(url, cache)[0]["input_ids"][-1]) == 499_999
    assert len(files(cache)) == 2
    run.send_signal(signal.SIGCONT)
    assert run.communicate()[0].split() == ["499999"]
    assert len(files(cache)) == 1


def test_the_bound_holds_when_processes_fetch_different_shards(
    sent: Sent, cache: Path, make_sample: Callable[..., dict[str, Any]]
) -> None:
    path, url = sent([make_sample(number, 20_000) for number in range(24)], shards=24)
    largest = max(info.bytes for _, info in read_manifest(path).shards())
    line = [sys.executable, "-c", MIXED, url, str(cache), str(6 * largest)]
    runs = [subprocess.Popen([*line, str(number)], stdout=subprocess.PIPE, text=True) for number in range(2)]
    most = 0
    while any(run.poll() is None for run in runs):
        most = max(most, sum(map(bytes_on_disk, files(cache) if cache.exists() else [])))
        time.sleep(0.001)
    assert [run.communicate()[0] for run in runs] == ["True\n"] * 2
    # what was listed first may be gone by the time the last file is looked at; a file takes whole blocks
    assert 3 * largest < most <= 7 * (largest + 4096)


def bytes_on_disk(path: Path) -> int:
    try:
        return path.stat().st_blocks * 512
    except FileNotFoundError:
        return 0
