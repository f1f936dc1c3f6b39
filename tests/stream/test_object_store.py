"""Training from an object store by way of a bounded cache, against a real S3 server in its own process."""

from __future__ import annotations

import logging
import os
import pickle
import re
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from s3 import Server
from torch.utils.data import DataLoader

from vlm_prep.core.errors import InputError, OutputError, StoreError
from vlm_prep.core.pack_settings import PackConfig
from vlm_prep.engine.stage import RunOptions
from vlm_prep.pack.pack_run import pack
from vlm_prep.shards.cache import ShardCache
from vlm_prep.shards.manifest import read_manifest
from vlm_prep.shards.object_store import RemotePath
from vlm_prep.shards.reader import Store
from vlm_prep.shards.transfer import push
from vlm_prep.stream import MixedDataset, ShardDataset
from vlm_prep.stream.order import SHARDS
from vlm_prep.stream.run_state import State

GIB = 1 << 30
Sent = Callable[..., tuple[Path, str]]
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


def requests(server: Server, url: str, kind: str = "GET", end: str = "") -> Counter[str]:
    """How often each object of a store was asked for."""
    path = re.escape(url.removeprefix("s3:/"))
    return Counter(re.findall(rf'"{kind} {path}/([^ ?]+{end}) ', server.log.read_text()))


def firsts(dataset: ShardDataset, **settings: Any) -> list[int]:
    """The first token of each row of an epoch."""
    loader = DataLoader(dataset, sampler=dataset.sampler(), batch_size=2, collate_fn=list, **settings)
    return [int(item["input_ids"][0]) for batch in loader for item in batch]


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def open_at(path: str, folder: Path, **settings: Any) -> ShardDataset:
    return ShardDataset(path, **{"pixels": False, "cache_dir": folder, "cache_bytes": GIB, **settings})


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "shards"


@pytest.fixture
def sent(stores: Any, bucket: str) -> Sent:
    """`sent(rows, shards=...)`: a tokenized store in a folder, and on the object store."""

    def send(rows: Any, **settings: Any) -> tuple[Path, str]:
        path = stores.tokenized(rows, **settings)
        push(path, f"{bucket}/{path.name}", print)
        return path, f"{bucket}/{path.name}"

    return send


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


# ---- the same rows ----


def test_rows_and_states_are_those_of_the_folder(sent: Sent, cache: Path) -> None:
    path, url = sent(41, shards=5)
    here, there = ShardDataset(path, pixels=False, seed=3), open_at(url, cache, seed=3)
    assert there.fingerprint == here.fingerprint
    for epoch in range(2):
        here.set_epoch(epoch)
        there.set_epoch(epoch)
        assert firsts(there) == firsts(here)
    there.resume(State.from_json(here.state_at(1, 30).to_json()))
    here.resume(here.state_at(1, 30))
    assert firsts(there) == firsts(here)


def test_loader_workers_share_a_cache(sent: Sent, cache: Path, server: Server) -> None:
    path, url = sent(24, shards=6)
    dataset = open_at(url, cache)
    dataset[0]  # this process has a connection of its own already
    expected = firsts(ShardDataset(path, pixels=False))
    assert firsts(dataset, num_workers=2) == expected
    sent_to_a_process = pickle.loads(pickle.dumps(dataset))
    sent_to_a_process.set_epoch(0)
    assert firsts(sent_to_a_process) == expected
    assert set(requests(server, url, end="arrow").values()) == {1}


def test_packs_by_rank_and_by_index(stores: Any, bucket: str, cache: Path) -> None:
    tokenized = stores.tokenized(16)
    packed, index = stores.ranks(8, 2), stores.index(8, 2, tokenized)
    for path in (tokenized, packed, index):
        push(path, f"{bucket}/{path.name}", print)
        assert firsts(open_at(f"{bucket}/{path.name}", cache)) == firsts(ShardDataset(path, pixels=False))


def test_a_mix_of_a_folder_and_an_object_store(sent: Sent, stores: Any, cache: Path) -> None:
    other, (path, url) = stores.tokenized(9, name="other", fingerprint="xxh3:other"), sent(14)
    here = MixedDataset([other, path], [1, 2], pixels=False)
    there = MixedDataset([other, url], [1, 2], pixels=False, cache_dir=cache, cache_bytes=GIB)
    assert there.fingerprint == here.fingerprint
    assert firsts(there) == firsts(here)


# ---- what is fetched, and kept ----


def test_opening_asks_for_the_manifest_alone(sent: Sent, cache: Path, server: Server) -> None:
    _, url = sent(60, shards=30)
    before = server.log.read_text().count("\n")
    dataset = open_at(url, cache)
    assert (len(dataset), dataset.row_at(0, 7) >= 0) == (60, True)
    asked = [line.split()[6] for line in server.log.read_text().splitlines()[before:]]
    assert len(asked) <= 2 and {path.rpartition("/")[2] for path in asked} == {"manifest.json"}
    assert not cache.exists()


def test_an_epoch_over_a_store_larger_than_the_cache_fetches_each_shard_once(
    sent: Sent, cache: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlm_prep.shards.writer.BATCH_BYTES", 2 * 64)  # three batches a shard: windows straddle rounds
    path, url = sent(3 * SHARDS * 6, shards=3 * SHARDS)
    size = sum(sorted(info.bytes for _, info in read_manifest(path).shards())[-2 * SHARDS :])
    dataset = open_at(url, cache, cache_bytes=size)
    seen = []
    for pick in dataset.sampler():
        seen.append(dataset[pick]["sample_id"])
        if len(seen) % 16 == 0:
            assert sum(file.stat().st_size for file in files(cache)) <= size
    assert len(set(seen)) == dataset.n_rows
    counts = requests(server, url, end="arrow")
    assert (len(counts), set(counts.values())) == (3 * SHARDS, {1})


def test_a_cache_that_is_too_small_for_the_order_is_refused(
    sent: Sent, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, url = sent(140, shards=140)
    sizes = sorted((info.bytes for _, info in read_manifest(path).shards()), reverse=True)
    # a shard is a block here, so a window of 64 blocks takes 64 shards
    with pytest.raises(InputError, match=f"{sum(sizes[:64]):,} bytes at a time") as caught:
        open_at(url, cache, cache_bytes=sum(sizes[:64]) - 1)
    assert f"cache_bytes={sum(sizes[:128])}" in str(caught.value.hint)
    with caplog.at_level(logging.WARNING):
        open_at(url, cache, cache_bytes=sum(sizes[:128]))
        assert not caplog.records
        open_at(url, cache, cache_bytes=sum(sizes[:64]))
        assert "more than once an epoch" in caplog.text
    open_at(url, cache, cache_bytes=sum(sizes[:2]), shuffle=False)
    with pytest.raises(InputError, match="its largest shard"):
        open_at(url, cache, cache_bytes=sizes[0] - 1, shuffle=False)


def test_a_rank_of_the_planned_world_needs_room_for_its_own_packs(
    stores: Any, bucket: str, cache: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{bucket}/packed"
    push(stores.ranks(16, 4), url, print)
    sizes = sorted(info.bytes for _, info in read_manifest(url).shards())
    for world_size, needed in ((1, sum(sizes)), (2, sum(sizes[2:])), (4, sizes[3]), (3, sum(sizes))):
        open_at(url, cache, rank=0, world_size=world_size, cache_bytes=max(needed, sizes[3]))
        if needed > sizes[3]:
            with pytest.raises(InputError, match=f"{needed:,} bytes at a time"):
                open_at(url, cache, rank=0, world_size=world_size, cache_bytes=needed - 1)
    firsts(open_at(url, cache, rank=2, world_size=4, cache_bytes=sizes[3]))
    assert set(requests(server, url, end="arrow")) == {"rank_00002/data-00000-of-00001.arrow"}
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(InputError, match=f"{sum(sizes[2:]):,} bytes at a time"):
        open_at(url, cache, rank=0, world_size=4, cache_bytes=sizes[3])


def test_packing_needs_a_cache_that_holds_the_whole_store(
    sent: Sent, cache: Path, tmp_path: Path, options: Callable[..., RunOptions]
) -> None:
    path, url = sent(8, shards=4)
    size = sum(info.bytes for _, info in read_manifest(path).shards())
    source = RemotePath(url, ShardCache(folder=cache, bytes=size - 1))
    with pytest.raises(InputError, match=f"packing reads from all of its {size:,} bytes") as caught:
        pack(source, PackConfig(pack_length=64), options(tmp_path / "out"))
    assert "`cache_bytes`" in str(caught.value.hint) and "pull" in str(caught.value.hint)


def test_rows_outlive_their_shard_in_the_cache_and_the_disk_gets_its_room_back(sent: Sent, cache: Path) -> None:
    path, url = sent(40, shards=20)
    size = 2 * max(info.bytes for _, info in read_manifest(path).shards())
    store = Store(RemotePath(url, ShardCache(folder=cache, bytes=size)))
    rows = [store.row(index) for index in range(40)]
    assert [int(row["input_ids"][0]) for row in rows] == [100 * number for number in range(40)]
    assert len(files(cache)) == len(store.open_shards) == 2
    del rows
    if Path("/proc/self/maps").exists():
        mapped = {line for line in Path("/proc/self/maps").read_text().splitlines() if str(cache) in line}
        assert not [line for line in mapped if line.endswith("(deleted)")]


def test_the_least_recently_used_go_first_and_strangers_stay(sent: Sent, cache: Path) -> None:
    path, url = sent(8, shards=4)
    size = sum(sorted(info.bytes for _, info in read_manifest(path).shards())[-2:])
    cache.mkdir()
    (cache / "mine.txt").write_text("mine" * size)
    first, second, third, _ = Store(RemotePath(url, ShardCache(folder=cache, bytes=size))).shards
    for shard in (first, second):
        shard.row(0)
    first.close()
    first.row(0)
    third.row(0)
    assert [shard.is_evicted for shard in (first, second, third)] == [False, True, False]
    assert (cache / "mine.txt").exists()


def test_a_store_put_in_the_place_of_another_is_not_mixed_up_with_it(
    sent: Sent, stores: Any, cache: Path, server: Server, make_sample: Any
) -> None:
    _, url = sent(6)
    old = open_at(url, cache, shuffle=False)
    kept = old.__getstate__()
    assert firsts(old)[0] == 0
    server.files.rm(url, recursive=True)
    other = stores.tokenized([make_sample(number + 7) for number in range(6)], name="other", fingerprint="xxh3:new")
    push(other, url, print)
    assert firsts(open_at(url, cache, shuffle=False))[0] == 700
    with pytest.raises(StoreError, match="replaced while it was in use"):
        old.__setstate__(kept)


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
