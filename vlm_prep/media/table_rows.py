"""Rows of Parquet and Arrow files by number, in bounded memory.

Ingest reads rows in order, training (payload `reference`) reads single cells anywhere. Both go through one table a file
and process: a Parquet row group is decoded forward in batches of about 16 MiB and the last batch is kept, so that the
media of a row just read costs no second decoding; Arrow files are mapped and nothing is copied but the row asked for,
unless they are compressed: then one record batch is kept.
A single cell of a Parquet file costs the decoding of its column from the start of its row group: little where writers
cut groups of some ten MiB, as `datasets` does for media. Where they do not, payload `encoded` (the default) reads each
group once. A page is the least that Parquet decodes, and writers put up to 1024 rows into one: a group of 300 MB in one
page took 600 MB, in pages of 8 rows 50 MB. So memory is bounded by the file's row groups, never by the file; and what
files of some hundred bytes become (a dictionary's one long text, 40,000 times) by `core.bounds`.
"""

from __future__ import annotations

import os
import sys
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import accumulate
from typing import Any, Final, Literal, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from vlm_prep.core.bounds import TABLE_BYTES, at_most
from vlm_prep.core.errors import InputError
from vlm_prep.core.regular_files import open_regular
from vlm_prep.core.visible import excerpt
from vlm_prep.media.row_values import values_of
from vlm_prep.shards.heads import must_be_valid

TableKind = Literal["parquet", "arrow"]
BATCH_BYTES: Final = 16 << 20
_OPEN_TABLES: Final = 4
_BUFFER: Final = 4 << 20
_AHEAD: Final = 64
_AHEAD_BYTES: Final = 4 << 20
"""Rows that are made into Python values at once, and what they may take."""
_PROBE: Final = 64
"""Rows that tell how large rows of a group become."""
_MAGIC: Final[tuple[tuple[bytes, TableKind], ...]] = (
    (b"PAR1", "parquet"),
    (b"ARROW1", "arrow"),
    (b"\xff\xff\xff\xff", "arrow"),
)


class Table(Protocol):
    """The rows of one file."""

    ahead: tuple[int, list[dict[str, Any]]]
    """Rows that are Python values already, and the number of the first."""

    def __len__(self) -> int: ...

    def batch(self, row: int, column: str | None) -> tuple[pa.RecordBatch, int]:
        """Return a batch that holds `row`, and its place in it; of one column, or of all (None)."""


def table_kind(path: str) -> TableKind | None:
    """Tell a Parquet or an Arrow file by its first bytes; None for other files, folders and what cannot be read."""
    try:
        with open_regular(path) as file:
            head = file.read(8)
    except OSError:
        return None
    return next((kind for magic, kind in _MAGIC if head.startswith(magic)), None)


def open_table(path: str) -> Table:
    """Return the table of a file, opened once in this process until the file changes.

    Raises:
        InputError: the file is gone, or not a whole Parquet or Arrow file.
    """
    try:
        stat = os.stat(path)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
    key = stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns
    if key not in _tables:
        with _reading(path):
            _tables[key] = _ParquetTable(path) if table_kind(path) == "parquet" else _ArrowTable(path)
        while len(_tables) > _OPEN_TABLES:
            _tables.popitem(last=False)
    _tables.move_to_end(key)
    return _tables[key]


def read_row(path: str, row: int) -> dict[str, Any]:
    """Return a row as Python values, media as bytes.

    Raises:
        InputError: the file is gone, damaged, or has no such row.
        ValueError: a value that Python cannot hold (text that is not UTF-8, a date beyond the year 9999).
    """
    table = open_table(path)
    start, rows = table.ahead
    if not 0 <= row - start < len(rows):
        batch, place = _batch(path, row, None)
        start, rows = row, _rows_ahead(batch, place, follows=row == start + len(rows))
        table.ahead = start, rows
    return rows[row - start]


def _rows_ahead(batch: pa.RecordBatch, place: int, *, follows: bool) -> list[dict[str, Any]]:
    """Return the values of a row and, where rows are read one after the other, of some behind it: Arrow makes Python
    values of many rows several times as fast as of one."""
    one = batch.slice(place, 1)
    some = batch.slice(place, _AHEAD) if follows else one
    if follows and some.nbytes <= _AHEAD_BYTES:
        with suppress(ValueError, OverflowError):  # of one of them; which it is, the rows say one by one
            return values_of(some)
    return values_of(one)


def read_scalar(path: str, row: int, column: str) -> pa.Scalar:
    """Return one cell as an Arrow scalar, which a caller turns into Python values as far as it needs them.

    Raises:
        InputError: the file is gone, damaged, or has no such row.
        KeyError: it has no such column.
    """
    batch, place = _batch(path, row, column)
    return batch.column(column)[place]


def _batch(path: str, row: int, column: str | None) -> tuple[pa.RecordBatch, int]:
    table = open_table(path)
    if not 0 <= row < len(table):
        raise InputError(f"{path}: no row {row}, it has {len(table)}; it was changed after it was read")
    with _reading(path):
        return table.batch(row, column)


@contextmanager
def _reading(path: str) -> Iterator[None]:
    try:
        yield
    except MemoryError as error:
        raise InputError(
            f"{path}: a batch of its rows takes more than {TABLE_BYTES >> 30} GiB of memory",
            "Write it with smaller row groups and record batches, or JSON lines (.jsonl).",
        ) from error
    except (pa.ArrowException, OSError, SystemError, UnicodeDecodeError) as error:
        # SystemError: a length below 0, as pyarrow says it; UnicodeDecodeError: names of columns
        lines = str(error).splitlines() or [type(error).__name__]
        raise InputError(
            f"{path}: cannot be read as a {'Parquet' if table_kind(path) == 'parquet' else 'Arrow'} file: {lines[0]}",
            "The file is damaged or not finished: write or download it again, or read rows from JSON lines (.jsonl).",
        ) from error


class _ParquetTable:
    _walk: _Walk | None = None

    def __init__(self, path: str) -> None:
        # buffered: without, a row group's whole column lies in memory
        self._file = pq.ParquetFile(path, buffer_size=_BUFFER, pre_buffer=False)
        self.ahead: tuple[int, list[dict[str, Any]]] = 0, []
        metadata = self._file.metadata
        groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        counts = [group.num_rows for group in groups]
        if min(counts, default=0) < 0 or sum(counts) != metadata.num_rows:
            raise pa.ArrowInvalid(f"it says {metadata.num_rows} rows, and its row groups have {sum(counts)}")
        self._names = _distinct(self._file.schema_arrow)
        self._starts: list[int] = [0, *accumulate(counts)]
        self._sizes = [_rows_of(BATCH_BYTES, group.num_rows, group.total_byte_size) for group in groups]

    def __len__(self) -> int:
        return self._starts[-1]

    def batch(self, row: int, column: str | None) -> tuple[pa.RecordBatch, int]:
        if column is not None and column not in self._names:
            raise KeyError(column)
        walk = self._walk
        if walk is None or walk.column not in (None, column) or not walk.start <= row < walk.stop:
            walk = self._walk_to(row, column)
        return walk.batch, row - walk.start

    def _walk_to(self, row: int, column: str | None) -> _Walk:
        group, walk = bisect_right(self._starts, row) - 1, self._walk
        if walk is None or walk.column != column or walk.group != group or row < walk.start:
            self._walk = None  # its batch is given back before the next one is made
            walk = _Walk(self._file, group, self._starts[group], column, self._sizes[group])
        with at_most():
            walk.seek(row)
        self._walk = walk
        return walk


def _distinct(schema: pa.Schema) -> set[str]:
    """Return the names of columns; a row as a dictionary would hold the last of two that share one."""
    names = set(schema.names)
    if len(names) < len(schema.names):
        twice = next(name for place, name in enumerate(schema.names) if name in schema.names[:place])
        raise pa.ArrowInvalid(f"two columns are named {excerpt(twice)}")
    return names


def _rows_of(size: int, rows: int, of: int) -> int:
    """How many of `rows` rows that have `of` bytes together have `size` bytes."""
    return max(1, min(rows, size * rows // max(1, of)))


class _Walk:
    """The batches of one row group, from its start."""

    def __init__(self, file: pq.ParquetFile, group: int, start: int, column: str | None, size: int) -> None:
        self.column, self.group = column, group
        self.start = self.stop = start
        self.batch: pa.RecordBatch = None
        self._file, self._size, self._batches = file, size, iter(())

    def _begin(self) -> None:
        """What a row takes is not what it took in the file: a text that many rows share is there once."""
        size = self._size
        if size > _PROBE:
            first = next(self._batches_of(_PROBE), None)
            size = size if first is None else min(size, _rows_of(BATCH_BYTES, size, first.nbytes * size // _PROBE))
        self._batches = self._batches_of(size)

    def _batches_of(self, size: int) -> Iterator[pa.RecordBatch]:
        found: Iterator[pa.RecordBatch] = self._file.iter_batches(
            batch_size=size,
            row_groups=[self.group],
            columns=None if self.column is None else [self.column],
            use_threads=False,
        )
        return found

    def seek(self, row: int) -> None:
        if self.batch is None:
            self._begin()
        while row >= self.stop:
            self.batch = next(self._batches, None)
            if self.batch is None:
                raise pa.ArrowInvalid(f"row group {self.group} ends before row {row}")
            self.start, self.stop = self.stop, self.stop + len(self.batch)


class _ArrowTable:
    """Its batches are validated before a row is read: Arrow believes lengths and offsets, and a wrong one crashes."""

    def __init__(self, path: str) -> None:
        source = pa.memory_map(path)
        self._reader: pa.RecordBatchFileReader | None = None
        with at_most():
            try:
                self._reader = pa.ipc.open_file(source)
                self._batches, lengths = self._kept(self._reader)
            except pa.ArrowInvalid:
                self._reader = None
                source.seek(0)
                self._batches = list(pa.ipc.open_stream(source))
                lengths = list(map(len, self._batches))
        for each in self._batches[:1] if self._reader is None else (self._reader,):
            _distinct(each.schema)
        self.ahead: tuple[int, list[dict[str, Any]]] = 0, []
        self._starts = [0, *accumulate(lengths)]
        if len(self._starts) > 1 and self._starts[-1] > sys.maxsize:
            raise pa.ArrowInvalid(f"it says {self._starts[-1]} rows")
        self._is_valid: set[int] = set()
        self._last: tuple[int, pa.RecordBatch] | None = None

    @staticmethod
    def _kept(reader: pa.RecordBatchFileReader) -> tuple[list[pa.RecordBatch], list[int]]:
        """Return the batches, none if their buffers are no parts of the file, and their lengths."""
        batches, lengths, before = [], [], pa.total_allocated_bytes()
        for number in range(reader.num_record_batches):
            batch = reader.get_batch(number)
            lengths.append(len(batch))
            if pa.total_allocated_bytes() - before <= BATCH_BYTES:
                batches.append(batch)
            else:
                batches.clear()
            del batch  # or two would lie in memory
        return (batches if len(batches) == len(lengths) else []), lengths

    def __len__(self) -> int:
        return self._starts[-1]

    def _at(self, number: int) -> pa.RecordBatch:
        if self._batches or self._reader is None:
            return self._batches[number]
        if self._last is None or self._last[0] != number:
            self._last = None  # given back before the next one is made
            with at_most():
                self._last = number, self._reader.get_batch(number)
        return self._last[1]

    def batch(self, row: int, column: str | None) -> tuple[pa.RecordBatch, int]:
        number = bisect_right(self._starts, row) - 1
        batch = self._at(number)
        if number not in self._is_valid:
            must_be_valid(batch)
            self._is_valid.add(number)
        if column is not None and column not in batch.schema.names:
            raise KeyError(column)
        return batch, row - self._starts[number]


_tables: OrderedDict[tuple[int, int, int, int], Table] = OrderedDict()

# a child of a fork opens its own
os.register_at_fork(after_in_child=_tables.clear)
