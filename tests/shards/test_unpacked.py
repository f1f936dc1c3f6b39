"""What a compressed shard says that it becomes is somebody else's word, and is looked at before it is unpacked."""

from __future__ import annotations

import shutil
import struct
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vlm_prep.core import bounds
from vlm_prep.core.errors import StoreError
from vlm_prep.core.fingerprint import digest_file
from vlm_prep.shards.heads import head_digests
from vlm_prep.shards.layout import read_rejects
from vlm_prep.shards.manifest import read_manifest, write_manifest
from vlm_prep.shards.reader import ShardReader, Store
from vlm_prep.shards.schema import REJECTS
from vlm_prep.shards.shard_info import ShardInfo
from vlm_prep.shards.store_check import damaged_files
from vlm_prep.shards.unpacked import BatchHead
from vlm_prep.shards.writer import ShardWriter
from vlm_prep.stream import ShardDataset

SCHEMA = pa.schema([("input_ids", pa.list_(pa.int32())), ("conversation", pa.string())])


def written(path: Path, rows: int = 3, *, compress: Any = "zstd") -> ShardInfo:
    with ShardWriter(path, SCHEMA, compress=compress) as writer:
        for number in range(rows):
            ids = np.arange(1000, dtype=np.int32) + number
            writer.write({"input_ids": ids, "conversation": "Hm. " * 200}, size=5000, tokens=1000)
        return writer.commit()


def claims_more(path: Path, becomes: int) -> None:
    """Let every compressed buffer of a shard say that it becomes so many bytes."""
    data, place = bytearray(path.read_bytes()), 0
    with pa.memory_map(str(path)) as source:
        for message in pa.ipc.MessageReader.open_stream(source):
            start = data.index(message.metadata.to_pybytes(), place) + message.metadata.size
            place = start + message.body.size
            if message.type == "record batch":
                for offset, length in BatchHead(memoryview(message.metadata))._places:
                    if length:
                        struct.pack_into("<q", data, start + offset, becomes)
    path.write_bytes(data)


def agreed(path: Path, info: ShardInfo) -> ShardInfo:
    """What a manifest of whoever means harm says of a shard."""
    heads = head_digests(path, [offset for offset, _ in info.batches])
    return replace(info, heads=heads, xxh3=digest_file(path), bytes=path.stat().st_size)


@pytest.mark.parametrize("compress", ["lz4", "zstd"])
def test_a_batch_that_becomes_too_much_is_refused_before_it_is_unpacked(tmp_path: Path, compress: str) -> None:
    path = tmp_path / "a.arrow"
    info = written(path, compress=compress)
    claims_more(path, 3 << 30)
    most = pa.default_memory_pool().max_memory()
    for said in (info, agreed(path, info)):
        reader = ShardReader(path, said)
        for read in (partial(reader.row, 0), partial(reader.column, "input_ids"), partial(reader.batch, 0)):
            with pytest.raises(StoreError, match=r"record batch 0 is damaged: .* bytes become .*, more than 1,073,741"):
                read()
    assert pa.default_memory_pool().max_memory() < max(most, 1 << 30)


def test_no_command_unpacks_what_becomes_too_much(compressed: Path, tmp_path: Path) -> None:
    """Nor does `verify` behind the batches that the manifest names."""
    store = Path(shutil.copytree(compressed, tmp_path / "tok"))
    manifest = read_manifest(store)
    name, info = next(iter(manifest.shards()))
    claims_more(store / name, 3 << 30)
    split = name.partition("/")[0]
    infos = [agreed(store / name, info), *manifest.splits[split][1:]]
    write_manifest(store, replace(manifest, splits={**manifest.splits, split: infos}))
    most = pa.default_memory_pool().max_memory()
    assert any(name in line and "become" in line for line in damaged_files(store, read_manifest(store)))
    for read in (lambda: ShardDataset(store)[0], lambda: list(Store(store).rows()), lambda: Store(store).lengths()):
        with pytest.raises(StoreError, match="bytes become"):
            read()
    assert pa.default_memory_pool().max_memory() < max(most, 1 << 30)


def test_a_shard_is_compressed_if_the_manifest_says_so(tmp_path: Path) -> None:
    """Else what it becomes would be held as if it were mapped, and threads of Arrow's would unpack it."""
    path = tmp_path / "a.arrow"
    info = replace(written(path), compressed=False)
    with pytest.raises(StoreError, match="is compressed, unlike what the manifest says"):
        ShardReader(path, info).row(0)


def test_what_readers_would_refuse_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "_ANYWAY", 1000)
    monkeypatch.setattr(bounds, "MOST_TIMES", 1)
    with pytest.raises(StoreError, match=r"a\.arrow: .* bytes become .*, more than") as said:
        written(tmp_path / "a.arrow")
    assert said.value.hint == "do without `compress`"
    assert list(tmp_path.iterdir()) == []


def test_every_changed_byte_of_a_head_is_an_error_or_what_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a.arrow"
    info = written(path)
    start, whole = info.batches[0][0], path.read_bytes()
    length = int.from_bytes(whole[start + 4 : start + 8], "little")
    for place in range(start, start + 8 + length):
        for mask in (0x01, 0x80, 0xFF):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ mask]) + whole[place + 1 :])
            try:
                said = agreed(path, info)
                assert len(ShardReader(path, said).column("input_ids")) == 3
            except (StoreError, ValueError):
                continue


def test_rejects_that_become_gigabytes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """2 KB of Parquet: 50,000 rows whose message is one of a megabyte."""
    none = np.zeros(50_000, np.int32)
    columns = {
        field.name: pa.array(none.astype(np.int64))
        if field.type == pa.int64()
        else pa.DictionaryArray.from_arrays(none, ["x" * (1_000_000 if field.name == "message" else 1)])
        for field in REJECTS
    }
    pq.write_table(pa.table(columns), tmp_path / "rejects.parquet", compression="zstd", store_schema=False)
    monkeypatch.setattr(bounds, "TABLE_BYTES", 256 << 20)
    with pytest.raises(StoreError, match=r"rejects\.parquet is damaged: its rows take more than"):
        read_rejects(tmp_path)
