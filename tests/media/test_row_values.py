"""Rows of tables that are small and become much: a reject of that row, and the others are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vlm_prep.core.errors import InputError, Reject
from vlm_prep.core.records import Rejected
from vlm_prep.ingest.source import open_samples
from vlm_prep.media import table_rows
from vlm_prep.media.files import read_bytes

TALK = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
TURNS = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


def write(path: Path, **columns: pa.Array) -> Path:
    rows = len(next(iter(columns.values())))
    batch = pa.record_batch({"messages": pa.array([TURNS] * rows, TALK), **columns})
    with pa.ipc.new_file(path, batch.schema) as out:
        out.write_batch(batch)
    return path


def in_a_list(values: pa.Array, place: int = 1, rows: int = 3) -> pa.Array:
    """Rows of which one lists all values, and the others none."""
    offsets = [0] * (place + 1) + [len(values)] * (rows - place)
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values)


def nulls() -> pa.Array:
    fixed = pa.FixedSizeListArray.from_arrays(pa.nulls(1_000_000_000), 1_000_000_000)
    return in_a_list(fixed)


def shown_often() -> pa.Array:
    zeros = pa.array([0] * 3000, pa.int32())
    views = pa.ListViewArray.from_arrays(zeros, pa.array([100_000] * 3000, pa.int32()), pa.array([1] * 100_000))
    return in_a_list(views)


def long_text() -> pa.Array:
    text = pa.array(["x" * 1_000_000])
    return in_a_list(pa.DictionaryArray.from_arrays(pa.array([0] * 20_000, pa.int32()), text))


def lists_by_number() -> pa.Array:
    dictionary = pa.array([[1] * 10_000])
    return in_a_list(pa.DictionaryArray.from_arrays(pa.array([0] * 3000, pa.int32()), dictionary))


def one_after_the_other() -> pa.Array:
    return in_a_list(pa.RunEndEncodedArray.from_arrays(pa.array([3000], pa.int32()), pa.array([[1] * 10_000])))


@pytest.mark.parametrize("made", [nulls, shown_often, long_text, lists_by_number, one_after_the_other])
def test_a_row_that_becomes_too_much_is_rejected_and_the_others_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: Any
) -> None:
    path = write(tmp_path / "rows.arrow", x=made())
    assert path.stat().st_size < 5_000_000
    monkeypatch.setattr("vlm_prep.core.bounds.at_most.__wrapped__.__defaults__", (300 << 20,))
    monkeypatch.setattr("vlm_prep.media.row_values.MOST_VALUES", 10_000_000)
    first, second, third = open_samples(path).read(0, 3)
    assert isinstance(second, Rejected) and second.reason == "bad_row", second
    assert "its values take more than" in second.message or "values, more than" in second.message
    assert not isinstance(first, Rejected) and not isinstance(third, Rejected)
    table_rows._tables.clear()


def test_a_list_of_nothing_in_a_parquet_file_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlm_prep.media.row_values.MOST_VALUES", 10_000_000)
    path = tmp_path / "rows.parquet"
    nothing = in_a_list(pa.nulls(20_000_000, pa.int8()))
    pq.write_table(pa.table({"messages": pa.array([TURNS] * 3, TALK), "x": nothing}), path, compression="zstd")
    assert path.stat().st_size < 10_000
    found = list(open_samples(path).read(0, 3))
    assert [isinstance(each, Rejected) for each in found] == [False, True, False]
    table_rows._tables.clear()


def test_of_a_cell_only_the_media_becomes_a_value(tmp_path: Path) -> None:
    image = pa.StructArray.from_arrays(
        [pa.array([b"abc"] * 3), pa.FixedSizeListArray.from_arrays(pa.nulls(1_500_000_000), 500_000_000)],
        ["bytes", "beside"],
    )
    path = write(tmp_path / "rows.arrow", image=image)
    assert read_bytes(f"{path}::1/image") == b"abc"
    with pytest.raises(Reject, match="nothing at '1/image/beside'"):
        read_bytes(f"{path}::1/image/beside")
    table_rows._tables.clear()


def test_more_rows_than_can_be_counted_are_refused(tmp_path: Path) -> None:
    batch = pa.record_batch({"messages": pa.nulls(1_234_567)})
    for number, writer in enumerate((pa.ipc.new_file, pa.ipc.new_stream)):
        path = tmp_path / f"{number}.arrow"
        with writer(path, batch.schema) as out:
            for _ in range(3):
                out.write_batch(batch)
        said, more = (count.to_bytes(8, "little") for count in (1_234_567, 1 << 62))
        path.write_bytes(path.read_bytes().replace(said, more))
        with pytest.raises(InputError, match=f"it says {3 << 62} rows"):
            open_samples(path)
