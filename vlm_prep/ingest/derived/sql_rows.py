"""Tables of SQLite, `rows.sqlite::table` (or the only one) → Parquet in the cache, rows in the order of their rowid.

A view, or a column that is computed, may have no end or hold more than a disk: a query has a time for its next row
that grows with the file, a value has at most 256 MiB, and all of them together what compressed text may have.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from vlm_prep.core.bounds import MOST_TIMES
from vlm_prep.core.errors import InputError
from vlm_prep.core.fields import did_you_mean
from vlm_prep.core.fingerprint import digest_json
from vlm_prep.core.remote import cache_folder
from vlm_prep.media.text_files import most_bytes

_MAGIC: Final = b"SQLite format 3\x00"
_TYPES: Final = {"integer": pa.int64(), "real": pa.float64(), "text": pa.string(), "blob": pa.binary()}
_BATCH_BYTES: Final = 16 << 20
_VALUE: Final = 64
"""Bytes of any value in memory, beside a text's own."""
_MOST_VALUE: Final = 256 << 20
_STEPS: Final = 100
"""Of SQLite's machine between two looks at the clock; one may make a long value."""
_SECONDS: Final = 60.0
_BYTES_A_SECOND: Final = 4 << 20
"""Time for the next rows: so long, and what reading the whole file takes a slow disk."""


def split_address(path: Path) -> tuple[Path, str | None] | None:
    """Return (database, table or None) of a source that is one, None for another."""
    text, _, table = str(path).partition("::")
    try:
        with open(text, "rb") as file:
            is_one = file.read(len(_MAGIC)) == _MAGIC
    except (OSError, ValueError):  # ValueError: a NUL in the path
        return None
    return (Path(text), table or None) if is_one else None


def as_parquet(database: Path, table: str | None) -> Path:
    """Return a Parquet file with the rows of a table.

    Raises:
        InputError: there is no such table, or a column holds values of several types.
    """
    stat = database.stat()
    key = digest_json([str(database), stat.st_size, stat.st_mtime_ns, table]).removeprefix("xxh3:")[:16]
    target = cache_folder() / "rows" / key / f"{database.stem}.parquet"
    if target.exists():
        return target
    try:
        connection = sqlite3.connect(f"{database.as_uri()}?mode=ro&immutable=1", uri=True)
        try:
            connection.execute("PRAGMA trusted_schema = OFF")  # its views call no function that has an effect
            connection.execute("PRAGMA cell_size_check = ON")
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MOST_VALUE)
            clock = _Clock(connection, _SECONDS + stat.st_size / _BYTES_A_SECOND)
            chosen = _chosen(database, connection, table)
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=".rows-") as folder:
                _write(database, connection, chosen, Path(folder) / target.name, clock)
                os.replace(Path(folder) / target.name, target)
        finally:
            connection.close()
    except (sqlite3.Error, pa.ArrowException, OSError, OverflowError, UnicodeError, MemoryError) as error:
        said = clock.said or error
        hint = "Select what is needed into a table." if clock.said else "Close what writes to it, or copy it."
        raise InputError(f"{database}: cannot be read as SQLite: {said}", hint) from error
    return target


def _chosen(database: Path, connection: sqlite3.Connection, table: str | None) -> str:
    query = "SELECT name FROM sqlite_master WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite_%' ORDER BY name"
    names = [str(name) for (name,) in connection.execute(query)]
    if table is None and len(names) == 1:
        return names[0]
    if table not in names:
        what = "has several tables" if table is None else f"has no table {table!r}"
        near = "" if table is None else did_you_mean(table, names)
        raise InputError(
            f"{database} {what}", f"Name one: {database.name}::TABLE; it has {', '.join(names) or 'none'}.{near}"
        )
    return table


class _Clock:
    """Ends a query that gives no rows for too long."""

    said = ""
    """Why one was ended."""

    def __init__(self, connection: sqlite3.Connection, seconds: float) -> None:
        self._seconds, self._end = seconds, 0.0
        self.begin()
        connection.set_progress_handler(self._is_over, _STEPS)

    def begin(self) -> None:
        """Begin anew, since rows came or another query begins."""
        self._end = time.monotonic() + self._seconds

    def _is_over(self) -> bool:
        if time.monotonic() > self._end:
            self.said = f"it gave no rows for {self._seconds:.0f} s, as a view without an end"
        return bool(self.said)


def _write(database: Path, connection: sqlite3.Connection, table: str, target: Path, clock: _Clock) -> None:
    name = _quoted(table)
    columns = [str(row[1]) for row in connection.execute(f"PRAGMA table_info({name})")]
    kinds = []
    for column in columns:
        clock.begin()
        kinds.append((column, _type(database, connection, name, column)))
    schema = pa.schema(kinds)
    try:
        rows = connection.execute(f"SELECT * FROM {name} ORDER BY rowid")
    except sqlite3.OperationalError:  # a view, or a table without rowids
        rows = connection.execute(f"SELECT * FROM {name}")
    most, size = most_bytes(database), 0
    with pq.ParquetWriter(target, schema) as writer:
        for batch, nbytes in _batches(rows, clock):
            size += nbytes
            if size > most:
                clock.said = f"its rows have more than {most:,} bytes, {MOST_TIMES} times its size"
                raise OverflowError
            made = [dict(zip(columns, row, strict=True)) for row in batch]
            writer.write_table(pa.Table.from_pylist(made, schema=schema))


def _batches(rows: sqlite3.Cursor, clock: _Clock) -> Iterator[tuple[list[tuple[Any, ...]], int]]:
    """Yield rows, so many that they take 16 MiB or a little more, and what they take."""
    batch: list[tuple[Any, ...]] = []
    size = 0
    clock.begin()
    for row in rows:
        batch.append(row)
        size += sum(_VALUE + (len(value) if isinstance(value, str | bytes) else 0) for value in row)
        clock.begin()
        if size >= _BATCH_BYTES:
            yield batch, size
            batch, size = [], 0
    if batch:
        yield batch, size


def _type(database: Path, connection: sqlite3.Connection, table: str, column: str) -> pa.DataType:
    query = f"SELECT DISTINCT typeof({_quoted(column)}) FROM {table}"
    found = {str(kind) for (kind,) in connection.execute(query)} - {"null"}
    if found <= {"integer", "real"} and len(found) == 2:
        return pa.float64()
    if len(found) > 1:
        raise InputError(
            f"{database}: the column {column!r} holds {' and '.join(sorted(found))}", "Cast it to one type."
        )
    return _TYPES[found.pop()] if found else pa.null()


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
