"""Rows of tables are made into Python values some at a time; each is the row that it is when it is read alone."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vlm_prep.media import table_rows
from vlm_prep.media.table_rows import open_table, read_row

ROWS = 300


@pytest.fixture(params=["parquet", "arrow"])
def table(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, list[dict[str, Any]]]:
    """A file in several groups or batches, and its rows."""
    rows = [
        {
            "id": row,
            "nested": [{"a": None if row % 3 else row, "b": [row]}],
            "text": "x" * (row % 7),
            "data": b"\0" * row,
        }
        for row in range(ROWS)
    ]
    path = tmp_path / f"rows.{request.param}"
    write(path, pa.Table.from_pylist(rows))
    return path, rows


def write(path: Path, table: pa.Table) -> None:
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=130)
        return
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=130)


def test_rows_are_the_same_in_order_and_in_any_order(table: tuple[Path, list[dict[str, Any]]]) -> None:
    path, rows = table
    assert [read_row(str(path), row) for row in range(ROWS)] == rows
    order = random.Random(0).choices(range(ROWS), k=200)
    assert [read_row(str(path), row) for row in order] == [rows[row] for row in order]


def test_few_rows_are_made_where_they_are_not_read_in_order(table: tuple[Path, list[dict[str, Any]]]) -> None:
    path, _ = table
    read_row(str(path), 200)
    assert len(open_table(str(path)).ahead[1]) == 1
    read_row(str(path), 201)
    assert len(open_table(str(path)).ahead[1]) > 1


def test_large_rows_are_made_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_rows, "_AHEAD_BYTES", 1000)
    write(tmp_path / "a.parquet", pa.table({"data": [b"x" * 600] * 4}))
    for row in range(4):
        assert read_row(str(tmp_path / "a.parquet"), row) == {"data": b"x" * 600}
        assert len(open_table(str(tmp_path / "a.parquet")).ahead[1]) == 1


def test_a_value_that_python_cannot_hold_is_the_fault_of_its_own_row(tmp_path: Path) -> None:
    days = pa.array([0, 1, 10**8, 3], pa.int32()).cast(pa.date32())
    write(tmp_path / "a.arrow", pa.table({"day": days}))
    read = [read_row(str(tmp_path / "a.arrow"), row)["day"].day for row in (0, 1)]
    with pytest.raises((ValueError, OverflowError)):
        read_row(str(tmp_path / "a.arrow"), 2)
    assert [*read, read_row(str(tmp_path / "a.arrow"), 3)["day"].day] == [1, 2, 4]


def test_a_file_that_was_replaced_gives_its_own_rows(table: tuple[Path, list[dict[str, Any]]]) -> None:
    path, rows = table
    assert [read_row(str(path), row) for row in (0, 1)] == rows[:2]
    other = path.with_name(f"other{path.suffix}")
    write(other, pa.Table.from_pylist([{**row, "id": -row["id"]} for row in rows]))
    os.replace(other, path)
    assert read_row(str(path), 2)["id"] == -2
