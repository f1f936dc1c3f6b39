"""Training from an object store by way of a bounded cache, against a real S3 server in its own process."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from s3 import Server
from torch.utils.data import DataLoader

from vlm_prep.shards.manifest import read_manifest
from vlm_prep.shards.transfer import push
from vlm_prep.stream import ShardDataset
from vlm_prep.stream.order import SHARDS


def fetches(server: Server, url: str) -> Counter[str]:
    """How often each shard was asked for."""
    path = re.escape(url.removeprefix("s3:/"))
    return Counter(re.findall(rf'"GET {path}/(\S+\.arrow)', server.log.read_text()))


def cached_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def first_ids(dataset: ShardDataset) -> list[int]:
    return [int(item["input_ids"][0]) for item in DataLoader(dataset, sampler=dataset.sampler(), batch_size=None)]


@pytest.fixture
def sent(stores: Any, bucket: str) -> Callable[..., tuple[Path, str]]:
    """`sent(rows, shards=...)`: a tokenized store in a folder, and on the object store."""

    def send(rows: Any, **settings: Any) -> tuple[Path, str]:
        path = stores.tokenized(rows, **settings)
        url = f"{bucket}/{path.name}"
        push(path, url, print)
        return path, url

    return send


@pytest.fixture
def many(sent: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, str]:
    """A store of five rounds of the order, four record batches in a shard."""
    monkeypatch.setattr("vlm_prep.shards.writer.BATCH_BYTES", 2 * 64)
    found: tuple[Path, str] = sent(4 * SHARDS * 6, shards=4 * SHARDS)
    return found


@pytest.mark.parametrize("rounds", [1, 2])
def test_factor(many, server, tmp_path, rounds):
    path, url = many
    largest = max(info.bytes for _, info in read_manifest(path).shards())
    dataset = ShardDataset(url, cache_dir=tmp_path / "c", cache_bytes=rounds * SHARDS * largest)
    t = time.time()
    for e in range(2):
        dataset.set_epoch(e)
        ids = first_ids(dataset)
        print(rounds, e, len(ids), time.time() - t, sum(fetches(server, url).values()) / (4 * SHARDS), cached_bytes(tmp_path / "c")/largest)

