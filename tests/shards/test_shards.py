"""What is written is what is read, and what is damaged is found."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from items import plain_media

from vlm_prep.core.atomic_files import write_bytes_atomically
from vlm_prep.core.errors import OutputError, StoreError
from vlm_prep.core.processor_record import TensorRecord
from vlm_prep.shards.layout import is_store_entry
from vlm_prep.shards.manifest import read_manifest
from vlm_prep.shards.mapped import OpenShards
from vlm_prep.shards.reader import ShardReader, Store
from vlm_prep.shards.schema import packed_schema, plan_schema, sample_schema, tokenized_schema
from vlm_prep.shards.shard_info import ShardInfo
from vlm_prep.shards.writer import BATCH_BYTES, ShardWriter

TENSORS: list[TensorRecord] = [
    {"name": "image_grid_thw", "kind": "image", "dtype": "int64", "shape": [3]},
    {"name": "video_grid_thw", "kind": "video", "dtype": "int64", "shape": [3]},
    {"name": "second_per_grid_ts", "kind": "video", "dtype": "float32", "shape": []},
]
SCHEMA = tokenized_schema(TENSORS)


def media(kind: str, *files: bytes | None, **fields: Any) -> dict[str, Any]:
    return {
        "kind": kind,
        "files": [{"uri": f"/{i}", "digest": f"xxh3:{i}", "bytes": data} for i, data in enumerate(files)],
        "height": 4,
        "width": 6,
        "frame_list": False,
        "frame_indices": None,
        "fps": None,
        "total_frames": None,
        "samples": None,
        "sampling_rate": None,
        "tensors": None,
        "same_as": None,
        "segment": None,
        "times": None,
        "decoder": None,
        "scaled": None,
        **fields,
    }


def document(number: int, length: int, *items: dict[str, Any]) -> dict[str, Any]:
    images = [item for item in items if item["kind"] == "image"]
    videos = [item for item in items if item["kind"] == "video"]
    return {
        "sample_id": f"set/{number}",
        "dataset": "set",
        "input_ids": np.arange(length, dtype=np.int32) + number,
        "labels": np.full(length, -100, np.int32),
        "image_grid_thw": np.full((len(images), 3), 2, np.int32),
        "video_grid_thw": np.arange(3 * len(videos), dtype=np.int32).reshape(-1, 3),
        "second_per_grid_ts": np.full(len(videos), 0.5, np.float32),
        "media": list(items),
        "conversation": '{"messages":[{"role":"user","content":"\u4f60\u597d"}]}',
    }


DOCUMENTS = [
    document(0, 3),
    document(1, 0),
    document(2, 5, media("image", b"\x00\xff"), media("video", b"v", frame_indices=[0, 7], fps=25.0, total_frames=9)),
    document(3, 2, media("video", b"a", b"b", frame_list=True, frame_indices=[])),
    document(4, 1, media("image", None)),
]


def write(
    path: Path, rows: list[dict[str, Any]], schema: pa.Schema = SCHEMA, *, size: int = 100, compress: Any = "none"
) -> ShardInfo:
    with ShardWriter(path, schema, compress=compress) as writer:
        for row in rows:
            writer.write(row, size=size, tokens=len(row.get("input_ids", ())))
        return writer.commit()


def assert_same(found: Any, wanted: Any) -> None:
    if isinstance(wanted, np.ndarray):
        assert isinstance(found, np.ndarray)
        assert found.dtype == wanted.dtype
        np.testing.assert_array_equal(found, wanted)
    elif isinstance(wanted, dict):
        assert found.keys() == wanted.keys()
        for name, value in wanted.items():
            assert_same(found[name], value)
    else:
        assert plain_media(found) == wanted


@pytest.mark.parametrize("compress", ["none", "lz4", "zstd"])
@pytest.mark.parametrize("size", [100, BATCH_BYTES], ids=["one batch", "a batch for each row"])
def test_tokenized_rows_come_back_as_they_were_written(tmp_path: Path, size: int, compress: str) -> None:
    info = write(tmp_path / "a.arrow", DOCUMENTS, size=size, compress=compress)
    reader = ShardReader(tmp_path / "a.arrow", info)
    assert len(reader) == len(DOCUMENTS)
    for index, row in reversed(list(enumerate(DOCUMENTS))):
        assert_same(reader.row(index), row)
    assert reader.column("input_ids").to_pylist() == [row["input_ids"].tolist() for row in DOCUMENTS]
    assert ShardInfo.from_json(json.loads(json.dumps(info.to_json()))) == info


@pytest.mark.parametrize("compress", ["lz4", "zstd"])
def test_compressed_rows_are_few_bytes_and_few_of_them_are_held(
    tmp_path: Path, compress: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run of placeholders takes nothing; batches are small, as a row asks for a whole one, and those held are few."""
    placeholders = np.full(100_000, 151_655, np.int32)
    rows = [document(number, 0) | {"input_ids": placeholders + number, "labels": placeholders} for number in range(12)]
    info = write(tmp_path / "a.arrow", rows, size=800_000, compress=compress)
    assert info.bytes < 12 * 800_000 / 100
    assert [count for _, count in info.batches] == [3, 3, 3, 3]
    monkeypatch.setattr("vlm_prep.shards.mapped.MOST_HELD", 6_000_000)
    opened = OpenShards()
    reader = ShardReader(tmp_path / "a.arrow", info, opened=opened)
    before, most = pa.total_allocated_bytes(), 0
    for _ in range(2):
        for index in (0, 4, 8, 11, 1):
            assert reader.row(index)["input_ids"][-1] == 151_655 + index
            most = max(most, pa.total_allocated_bytes() - before)
    assert 2_400_000 < most < 3 * 2_500_000
    reader.column("labels")
    assert pa.total_allocated_bytes() - before <= most


@pytest.mark.parametrize("compress", ["lz4", "zstd"])
def test_a_changed_byte_of_what_is_compressed_is_an_error_or_a_value(tmp_path: Path, compress: str) -> None:
    """Never a crash: lengths of buffers, frames and checksums of the codec all lie in the body."""
    path = tmp_path / "a.arrow"
    info = write(path, DOCUMENTS, compress=compress)
    whole, errors, places = path.read_bytes(), 0, range(info.batches[0][0] + 3000, info.bytes - 8, 5)
    for place in places:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x81]) + whole[place + 1 :])
        reader = ShardReader(path, info)
        try:
            for index in range(len(DOCUMENTS)):
                str(reader.row(index))
        except StoreError:
            errors += 1
    assert errors > len(places) // 3


@pytest.mark.parametrize("kind", ["mrope", "plain"])
def test_packed_rows_come_back_as_they_were_written(tmp_path: Path, kind: str) -> None:
    shape = (3, 6) if kind == "mrope" else (6,)
    rows: list[dict[str, Any]] = [
        {
            "pack_id": number,
            "sample_ids": ["a/0", "a/1#1"][: number + 1],
            "input_ids": np.arange(6, dtype=np.int32),
            "labels": np.arange(6, dtype=np.int32),
            "position_ids": np.arange(np.prod(shape), dtype=np.int32).reshape(shape) + number,
            "seq_lens": np.asarray([2, 4], np.int32),
            "image_grid_thw": np.full((number, 3), 4, np.int32),
            "media": [media("image", b"x")] * number,
            "media_counts": np.asarray([number, 0], np.int32),
        }
        for number in range(2)
    ]
    schema = packed_schema(TENSORS[:1], positions=kind)
    reader = ShardReader(tmp_path / "a.arrow", write(tmp_path / "a.arrow", rows, schema))
    for index, row in enumerate(rows):
        assert_same(reader.row(index), row)


def test_plan_and_sample_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    plan = {"pack_id": 7, "rank": 1, "rows": np.asarray([2**40, 0], np.int64)}
    sample = {"sample_id": "a/0", "dataset": "a", "source": "a.jsonl", "line": 2**33, "conversation": "", "media": "[]"}
    for row, schema in ((plan, plan_schema()), (sample, sample_schema())):
        reader = ShardReader(tmp_path / "a.arrow", write(tmp_path / "a.arrow", [row], schema))
        assert_same(reader.row(0), row)


def test_the_manifest_counts_rows_tokens_bytes_and_batches(tmp_path: Path) -> None:
    info = write(tmp_path / "a.arrow", DOCUMENTS, size=BATCH_BYTES // 2)
    assert (info.rows, info.tokens, info.bytes) == (5, 11, (tmp_path / "a.arrow").stat().st_size)
    assert [rows for _, rows in info.batches] == [2, 2, 1]
    assert ShardInfo.from_json(json.loads(json.dumps(info.to_json()))) == info


def test_batch_offsets_are_where_a_stock_reader_finds_the_batches(tmp_path: Path) -> None:
    info = write(tmp_path / "a.arrow", DOCUMENTS, size=BATCH_BYTES)
    with pa.memory_map(str(tmp_path / "a.arrow")) as source:
        stream = pa.ipc.open_stream(source)
        starts = []
        for _ in info.batches:
            starts.append(source.tell())
            stream.read_next_batch()
    assert [offset for offset, _ in info.batches] == starts


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = (write(tmp_path / name, DOCUMENTS) for name in ("a.arrow", "b.arrow"))
    assert first.xxh3 == second.xxh3


def test_a_shard_without_rows_reads_as_empty(tmp_path: Path) -> None:
    info = write(tmp_path / "a.arrow", [])
    reader = ShardReader(tmp_path / "a.arrow", info)
    assert (len(reader), info.batches, len(reader.column("input_ids"))) == (0, (), 0)


@pytest.mark.parametrize("index", [-1, 5])
def test_a_row_that_does_not_exist_is_an_index_error(tmp_path: Path, index: int) -> None:
    reader = ShardReader(tmp_path / "a.arrow", write(tmp_path / "a.arrow", DOCUMENTS))
    with pytest.raises(IndexError):
        reader.row(index)


def test_arrays_are_views_of_the_file_and_cannot_be_written(tmp_path: Path) -> None:
    ids = ShardReader(tmp_path / "a.arrow", write(tmp_path / "a.arrow", DOCUMENTS)).row(0)["input_ids"]
    assert not ids.flags.owndata
    assert not ids.flags.writeable


def test_an_exception_in_the_middle_leaves_no_file(tmp_path: Path) -> None:
    def fails_after_a_row() -> None:
        with ShardWriter(tmp_path / "a.arrow", SCHEMA) as writer:
            writer.write(DOCUMENTS[0], size=BATCH_BYTES, tokens=3)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails_after_a_row()
    assert not list(tmp_path.iterdir())


def test_a_row_that_does_not_fit_the_schema_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(KeyError), ShardWriter(tmp_path / "a.arrow", SCHEMA) as writer:
        writer.write({"sample_id": "a"}, size=BATCH_BYTES, tokens=0)
    assert not list(tmp_path.iterdir())


def test_a_small_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    write_bytes_atomically(tmp_path / "a", b"old")
    (tmp_path / "a.tmp").mkdir()  # writing the temporary file fails
    with pytest.raises(OutputError):
        write_bytes_atomically(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old"


# ---- damage ----


@pytest.fixture
def store(packed: Path, tmp_path: Path) -> Path:
    """A copy of a packed store of two ranks, one shard each."""
    shutil.copytree(packed, tmp_path / "store")
    return tmp_path / "store"


def shard_of(store: Path, rank: int = 0) -> Path:
    return store / f"rank_{rank:05d}" / "data-00000-of-00001.arrow"


def test_a_whole_store_verifies(store: Path) -> None:
    assert len(Store(store, verify=True)) == sum(1 for _ in Store(store).rows())


def test_a_truncated_shard_is_found_on_opening(store: Path) -> None:
    os.truncate(shard_of(store), shard_of(store).stat().st_size - 1)
    with pytest.raises(StoreError, match=r"rank_00000/data-00000-of-00001\.arrow.*damaged") as caught:
        Store(store)
    assert caught.value.hint


def test_a_missing_shard_is_found_on_opening(store: Path) -> None:
    shard_of(store, 1).unlink()
    with pytest.raises(StoreError, match=r"rank_00001/data-00000-of-00001\.arrow.*missing"):
        Store(store)


def test_a_flipped_bit_is_found_by_verify(store: Path) -> None:
    data = bytearray(shard_of(store, 1).read_bytes())
    data[len(data) // 2] ^= 1
    shard_of(store, 1).write_bytes(data)
    Store(store)
    with pytest.raises(StoreError, match=r"rank_00001.*checksum") as caught:
        Store(store, verify=True)
    assert caught.value.hint


def test_swapped_shards_are_found(store: Path) -> None:
    first, second = shard_of(store, 0), shard_of(store, 1)
    first.rename(store / "aside")
    second.rename(first)
    (store / "aside").rename(second)
    with pytest.raises(StoreError, match="rank_0000"):
        Store(store, verify=True)


def test_one_split_can_be_read_alone(store: Path) -> None:
    by_rank = [len(Store(store, split=f"rank_{rank:05d}")) for rank in range(2)]
    assert by_rank == read_manifest(store).totals["packs_by_rank"]


def test_a_folder_without_a_manifest_is_no_store(store: Path) -> None:
    (store / "manifest.json").unlink()
    with pytest.raises(StoreError, match="not a vlm-prep store") as caught:
        Store(store)
    assert caught.value.hint


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"{}", b'{"schema_version": 3}'])
def test_a_damaged_manifest_is_named(store: Path, content: bytes) -> None:
    (store / "manifest.json").write_bytes(content)
    with pytest.raises(StoreError, match=r"manifest\.json is damaged") as caught:
        Store(store)
    assert caught.value.hint


def test_a_manifest_of_a_newer_version_is_refused(store: Path) -> None:
    manifest = json.loads((store / "manifest.json").read_bytes())
    manifest["schema_version"] += 1
    (store / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(StoreError, match="schema version 4") as caught:
        Store(store)
    assert caught.value.hint


def test_a_store_of_another_stage_is_refused(store: Path) -> None:
    with pytest.raises(StoreError, match="output of `pack`, `tokenize` is needed") as caught:
        Store(store, stage="tokenize")
    assert caught.value.hint


def test_everything_in_a_store_is_known_as_a_stores(store: Path, tokenized: Path, ingested: Path) -> None:
    for folder in (store, tokenized, ingested):
        assert all(is_store_entry(path) for path in folder.iterdir())


def test_lengths_are_those_of_the_rows(tokenized: Path) -> None:
    store = Store(tokenized)
    assert store.lengths().tolist() == [len(row["input_ids"]) for row in store.rows()]
