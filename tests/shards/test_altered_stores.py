"""Every changed byte of a store is noticed, and what is no shard is not taken for one."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import orjson
import pyarrow as pa
import pytest

from vlm_prep.core.errors import OutputError, StoreError
from vlm_prep.engine.claim import take_over
from vlm_prep.engine.ownership import RunPlan, read_plan
from vlm_prep.engine.tasks import Record
from vlm_prep.shards.manifest import Manifest, read_manifest
from vlm_prep.shards.reader import Store
from vlm_prep.shards.shard_info import ShardInfo
from vlm_prep.shards.store_check import damaged_files, wrong_accounts
from vlm_prep.shards.writer import ShardWriter


@pytest.fixture
def store(tokenized: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tokenized, tmp_path / "tok"))


def test_every_changed_byte_of_a_manifest_is_noticed(tokenized: Path, tmp_path: Path) -> None:
    whole = (tokenized / "manifest.json").read_bytes()
    missed = []
    for place in range(len(whole)):
        (tmp_path / "manifest.json").write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        try:
            read_manifest(tmp_path)
        except StoreError:
            continue
        missed.append(place)
    # a line end before its own checksum turned into another blank: the content is what it was, and `verify` tells
    assert len(missed) <= 3


def as_json(manifest: Manifest) -> str:
    return json.dumps(manifest.to_json(), default=str)


def test_a_manifest_is_read_as_it_was_written(tokenized: Path) -> None:
    data = json.loads((tokenized / "manifest.json").read_bytes())
    data.pop("checksum")
    assert json.loads(as_json(read_manifest(tokenized))) == data


def flipped(path: Path, place: int, mask: int) -> None:
    with open(path, "r+b") as file:
        file.seek(place)
        byte = file.read(1)[0] ^ mask
        file.seek(place)
        file.write(bytes([byte]))


def test_a_changed_byte_of_the_schema_or_of_a_header_is_an_error(store: Path) -> None:
    shard = store / "train" / "data-00000-of-00001.arrow"
    info = read_manifest(store).splits["train"][0]
    start = info.batches[0][0]
    for place in [*range(0, start, 37), *range(start, start + 600, 11)]:
        for mask in (0x01, 0x02, 0x80):
            flipped(shard, place, mask)
            with pytest.raises(StoreError, match=shard.name):
                Store(store).row(0)
            flipped(shard, place, mask)
    assert Store(store).row(0)["sample_id"]


def test_the_manifest_covers_every_file_beside_the_shards(store: Path) -> None:
    manifest = read_manifest(store)
    assert damaged_files(store, manifest) + wrong_accounts(store, manifest) == []
    for path in sorted(store.rglob("*")):
        if path.is_dir():
            continue
        flipped(path, path.stat().st_size // 2, 0x04)
        try:
            found = damaged_files(store, read_manifest(store))
        except StoreError as error:
            found = [error.message]
        assert any(path.name in line for line in found), path
        flipped(path, path.stat().st_size // 2, 0x04)


@pytest.mark.parametrize(
    "kind",
    [
        pa.dictionary(pa.int32(), pa.string()),
        pa.dense_union([pa.field("a", pa.int32())]),
        pa.list_view(pa.int32()),
        pa.string_view(),
        pa.struct([("a", pa.month_day_nano_interval())]),
        pa.decimal128(9),
        pa.uuid(),
    ],
    ids=str,
)
def test_a_shard_of_columns_that_no_shard_has_is_refused(tmp_path: Path, kind: pa.DataType) -> None:
    path = tmp_path / "data-00000-of-00001.arrow"
    schema = pa.schema([("input_ids", kind)])
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema):
        pass
    data = path.read_bytes()
    info = ShardInfo(name=path.name, rows=0, tokens=0, bytes=len(data), xxh3="", batches=())
    from vlm_prep.shards.reader import ShardReader

    with pytest.raises(StoreError, match="which no shard has"):
        ShardReader(path, info)


def test_rows_of_an_earlier_version_can_be_written_again(tmp_path: Path) -> None:
    """Their media lack the fields that came later."""
    from vlm_prep.shards.reader import ShardReader
    from vlm_prep.shards.schema import MEDIA

    earlier = pa.schema([("media", pa.list_(pa.struct(list(MEDIA.value_type)[:12])))])
    item = dict.fromkeys(field.name for field in earlier.field("media").type.value_type)
    item |= {"kind": "image", "files": [{"uri": "a.png", "digest": "x", "bytes": b"1234"}]}
    with ShardWriter(tmp_path / "one.arrow", earlier) as writer:
        writer.write({"media": [item]}, size=1, tokens=0)
        first = writer.commit()
    row = ShardReader(tmp_path / "one.arrow", first).row(0)
    with ShardWriter(tmp_path / "two.arrow", earlier) as writer:
        writer.write(row, size=1, tokens=0)
        second = writer.commit()
    assert bytes(ShardReader(tmp_path / "two.arrow", second).row(0)["media"][0]["files"][0]["bytes"]) == b"1234"
    assert first.xxh3 == second.xxh3


def test_media_that_refer_to_a_row_that_is_not_there_are_an_error(tmp_path: Path) -> None:
    from vlm_prep.shards.reader import ShardReader
    from vlm_prep.shards.schema import MEDIA

    item = dict.fromkeys(field.name for field in MEDIA.value_type)
    item |= {"kind": "image", "files": [{"uri": "", "digest": "", "bytes": None}]}
    item["same_as"] = {"rows_before": 5, "media": 0}
    with ShardWriter(tmp_path / "data-00000-of-00001.arrow", pa.schema([("media", MEDIA)])) as writer:
        writer.write({"media": [item]}, size=1, tokens=0)
        info = writer.commit()
    with pytest.raises(StoreError, match="are referred to"):
        ShardReader(tmp_path / info.name, info).row(0)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'{"stage": 1}', b'{"tasks": -1}', b"\xff\xfe"])
def test_a_damaged_plan_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "_work").mkdir()
    (tmp_path / "_work" / "plan.json").write_bytes(content)
    with pytest.raises(OutputError, match=r"plan\.json is damaged"):
        read_plan(tmp_path)


@pytest.mark.parametrize("name", ["../../../x.arrow", "/etc/passwd", "task-1-1.exe"])
def test_a_record_that_names_another_file_moves_nothing(tmp_path: Path, name: str) -> None:
    workspace = take_over(tmp_path / "out", RunPlan(stage="ingest", fingerprint="xxh3:0", identity={}))
    shard = {"name": name, "rows": 0, "tokens": 0, "bytes": 0, "xxh3": "xxh3:" + "0" * 32, "batches": []}
    record = {"task": 0, "split": "train", "shards": [shard], "rejects": [], "counts": {}, "facts": {}, "poison": []}
    (workspace.done / "task-000000.json").write_bytes(orjson.dumps(record))
    from vlm_prep.engine.tasks import Task

    with pytest.raises(StoreError, match=r"task-000000\.json is damaged"):
        workspace.records([Task(index=0, start=0, stop=1)])
    workspace.release()
    with pytest.raises(ValueError, match="no task makes"):
        Record.from_json({**record, "shards": [], "split": "../x"})


@pytest.mark.parametrize("content", [b"", b"{", b'{"host": 1, "pid": "x"}', b'{"host": [], "pid": 1e300}', b"\xff"])
def test_a_damaged_lock_does_not_stop_a_run(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "out" / "_work").mkdir(parents=True)
    (tmp_path / "out" / "_work" / "lock").write_bytes(content)
    take_over(tmp_path / "out", RunPlan(stage="ingest", fingerprint="xxh3:0", identity={})).release()


def test_a_fifo_in_place_of_a_shard_is_no_shard(store: Path) -> None:
    shard = store / "train" / "data-00000-of-00001.arrow"
    shard.unlink()
    os.mkfifo(shard)
    with pytest.raises(StoreError, match="missing"):
        Store(store)
