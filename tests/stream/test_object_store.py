"""Training from an object store by way of a bounded cache, against a real S3 server in its own process."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from s3 import Server
from stream.cached import GIB, Sent, files, firsts, open_at, requests

from vlm_prep.core.errors import InputError, StoreError
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
