"""Tables of SQLite, `rows.sqlite::table` (or the only one) → Parquet in the cache, rows in the order of their rowid."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from vlm_prep.core.errors import InputError
from vlm_prep.core.fields import did_you_mean
from vlm_prep.core.fingerprint import digest_json
from vlm_prep.core.remote import cache_folder

_MAGIC: Final = b"SQLite format 3\x00"
_TYPES: Final = {"integer": pa.int64(), "real": pa.float64(), "text": pa.string(), "blob": pa.binary()}
_ROWS: Final = 256


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
            chosen = _chosen(database, connection, table)
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=".rows-") as folder:
                _write(database, connection, chosen, Path(folder) / target.name)
                os.replace(Path(folder) / target.name, target)
        finally:
            connection.close()
    except (sqlite3.Error, pa.ArrowException, OSError, OverflowError, UnicodeError) as error:
        raise InputError(
            f"{database}: cannot be read as SQLite: {error}", "Close what writes to it, or copy it."
        ) from error
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


def _write(database: Path, connection: sqlite3.Connection, table: str, target: Path) -> None:
    name = _quoted(table)
    columns = [str(row[1]) for row in connection.execute(f"PRAGMA table_info({name})")]
    schema = pa.schema([(column, _type(database, connection, name, column)) for column in columns])
    try:
        rows = connection.execute(f"SELECT * FROM {name} ORDER BY rowid")
    except sqlite3.OperationalError:  # a view, or a table without rowids
        rows = connection.execute(f"SELECT * FROM {name}")
    with pq.ParquetWriter(target, schema) as writer:
        while batch := rows.fetchmany(_ROWS):
            writer.write_table(
                pa.Table.from_pylist([dict(zip(columns, row, strict=True)) for row in batch], schema=schema)
            )


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
