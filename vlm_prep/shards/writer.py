"""Write rows into shard files such that a file under its final name is whole.

A shard is written under a temporary name, flushed and fsynced, reopened and counted, then renamed, and the folder is
fsynced. fsync of a 64 MB shard costs 30-40 ms, the checksum 12 GB/s: nothing next to tokenization.

Rows are gathered into record batches of about 16 MiB (of 2 MiB where they are compressed, as one row then asks for the
whole batch; see `mapped` for what a reader holds), cut by bytes in row order, so the bytes of a shard depend on
its rows alone. Integer lists are gathered as numpy arrays and become Arrow buffers in one concatenation per batch:
building them through Python lists would cost more than tokenizing (40 ns a token).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vlm_prep.core.atomic_files import process_mark, sync_file, sync_folder
from vlm_prep.core.errors import StoreError
from vlm_prep.core.fingerprint import digest_file
from vlm_prep.core.media_settings import Compression
from vlm_prep.core.scratch import Scratch
from vlm_prep.shards.heads import count_rows, head_digests
from vlm_prep.shards.schema import MEDIA_COLUMN, has_media
from vlm_prep.shards.shard_info import ShardInfo
from vlm_prep.shards.shared import SharedMedia, payload_bytes

BATCH_BYTES = 16 << 20
COMPRESSED_BATCH_BYTES = 2 << 20
SHARD_BYTES = 256 << 20
MOST_BYTES = (1 << 31) - 1
Row = Mapping[str, Any]


def _lengths_to_offsets(lengths: Sequence[int]) -> NDArray[np.int32]:
    offsets = np.zeros(len(lengths) + 1, dtype=np.int32)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def _numbers(column: Sequence[NDArray[Any]], value_type: pa.DataType) -> pa.Array:
    """Build a list column from one 1-D array per row."""
    dtype = value_type.to_pandas_dtype()
    flat = np.concatenate(column).astype(dtype, copy=False) if column else np.empty(0, dtype)
    return pa.ListArray.from_arrays(_lengths_to_offsets([len(row) for row in column]), pa.array(flat, value_type))


def _vectors(column: Sequence[NDArray[Any]], inner: pa.FixedSizeListType) -> pa.Array:
    """Build a list<number[k]> column from one (n, k) array per row."""
    size, dtype = inner.list_size, inner.value_type.to_pandas_dtype()
    flat = np.concatenate([row.reshape(-1, size) for row in column]).astype(dtype, copy=False)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1), inner.value_type), size)
    return pa.ListArray.from_arrays(_lengths_to_offsets([len(row) for row in column]), vectors)


def _number_lists(column: Sequence[NDArray[Any]], value_type: pa.DataType) -> pa.Array:
    """Build a list<list<number>> column from one 2-D array per row."""
    inner = _numbers([line for row in column for line in row], value_type)
    return pa.ListArray.from_arrays(_lengths_to_offsets([len(row) for row in column]), inner)


def _structs(items: Sequence[Row], data_type: pa.StructType, scratch: Scratch) -> pa.Array:
    """Build an array of structs from dicts, field by field; None is null.

    pyarrow's own conversion of nested dicts looks every key up for every value and costs three times as much.
    """
    known = [item is not None for item in items]
    fields = [
        _nested([item.get(field.name) if item is not None else None for item in items], field.type, scratch)
        for field in data_type
    ]
    mask = None if all(known) else pa.array([not each for each in known])
    return pa.StructArray.from_arrays(fields, fields=list(data_type), mask=mask)


def _nested(values: Sequence[Any], data_type: pa.DataType, scratch: Scratch) -> pa.Array:
    """Build an array of structs, of lists of structs, or of what pyarrow converts by itself."""
    if pa.types.is_struct(data_type):
        return _structs(values, data_type, scratch)
    if pa.types.is_list(data_type) and pa.types.is_struct(data_type.value_type):
        lists = [value or () for value in values]
        offsets = _lengths_to_offsets([len(each) for each in lists])
        mask = pa.array([value is None for value in values]) if None in values else None
        inner = _structs([item for each in lists for item in each], data_type.value_type, scratch)
        return pa.ListArray.from_arrays(pa.array(offsets), inner, mask=mask)
    return _binary(values, scratch) if pa.types.is_binary(data_type) else pa.array(values, data_type)


def _binary(values: Sequence[bytes | NDArray[np.uint8] | None], scratch: Scratch) -> pa.Array:
    """Build a binary column; None is null.

    Raises:
        StoreError: they have 2 GiB or more together.
    """
    lengths = [0 if value is None else len(value) for value in values]
    ends = list(accumulate(lengths))
    if ends and ends[-1] > MOST_BYTES:
        raise StoreError(
            f"the media of a row have {ends[-1]:,} bytes together; a column of an Arrow batch holds {MOST_BYTES:,}",
            "pack to a shorter `pack_length`, or store less of each media (`media=reference`)",
        )
    data = scratch.take(ends[-1] if ends else 0)
    for value, end, length in zip(values, ends, lengths, strict=True):
        if length:
            data[end - length : end] = value if isinstance(value, np.ndarray) else np.frombuffer(value or b"", np.uint8)
    nulls = [value is None for value in values]
    present = np.packbits(np.logical_not(nulls), bitorder="little") if any(nulls) else None
    parts = [present, _lengths_to_offsets(lengths), data]
    buffers = [None if part is None else pa.py_buffer(part) for part in parts]
    return pa.Array.from_buffers(pa.binary(), len(values), buffers, sum(nulls))


def _column_builder(data_type: pa.DataType, scratch: Scratch) -> Callable[[Sequence[Any]], pa.Array]:
    """Choose how a column of `data_type` is built from one value per row."""
    if not pa.types.is_list(data_type):
        return lambda values: pa.array(values, data_type)
    inner = data_type.value_type
    if pa.types.is_struct(inner):  # media, of this or of an earlier version
        return lambda values: _nested(values, data_type, scratch)
    if pa.types.is_integer(inner) or pa.types.is_floating(inner):
        return lambda values: _numbers(values, inner)
    if pa.types.is_fixed_size_list(inner):
        return lambda values: _vectors(values, inner)
    if pa.types.is_list(inner):
        return lambda values: _number_lists(values, inner.value_type)
    return lambda values: pa.array(values, data_type)


class ShardWriter:
    """Writes one shard. Use as a context manager; nothing appears under the final name before `commit`.

    Args:
        path: final path; meanwhile `<path>.<host>-<process>.tmp` is written, a name that no worker of a killed run
            which lives on for a moment can have, nor one on another machine.
        schema: one of `schema.py`.
        share: store a media that several rows have once, see `shared`.
        compress: how the buffers of record batches are compressed.
    """

    def __init__(self, path: Path, schema: pa.Schema, *, share: bool = False, compress: Compression = "none") -> None:
        self.path = path
        self._temporary = path.with_name(f"{path.name}.{process_mark()}.tmp")
        self._schema = schema
        self._scratch = Scratch()
        self._builders = {field.name: _column_builder(field.type, self._scratch) for field in schema}
        self._rows: list[Row] = []
        self._number = 0
        self._has_media = has_media(schema)
        self.shared = SharedMedia(share=share)
        self._pending_bytes = 0
        self._batches: list[tuple[int, int]] = []
        self._tokens = 0
        self._sink = pa.OSFile(str(self._temporary), "wb")
        self._compressed = compress != "none"
        options = pa.ipc.IpcWriteOptions(compression=compress if self._compressed else None, use_threads=False)
        self._stream = pa.ipc.new_stream(self._sink, schema, options=options)

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        self._sink.close()
        self._temporary.unlink(missing_ok=True)

    @property
    def bytes(self) -> int:
        """Bytes written and gathered so far, about."""
        return int(self._sink.tell()) + self._pending_bytes

    def write(self, row: Row, *, size: int, tokens: int) -> None:
        """Add a row.

        Args:
            row: a value for each column of the schema; numpy arrays for number lists.
            size: about how many bytes the row takes beside its media; decides where batches are cut.
            tokens: tokens in the row, for the manifest.
        """
        if self._has_media:
            row = {**row, MEDIA_COLUMN: self.shared.share(self._number, row[MEDIA_COLUMN])}
            size += sum(payload_bytes(struct) for struct in row[MEDIA_COLUMN])
        self._rows.append(row)
        self._number += 1
        self._pending_bytes += size
        self._tokens += tokens
        if self._pending_bytes >= (COMPRESSED_BATCH_BYTES if self._compressed else BATCH_BYTES):
            self._flush()

    def _flush(self) -> None:
        if not self._rows:
            return
        self._scratch.reset()
        columns = [self._builders[field.name]([row[field.name] for row in self._rows]) for field in self._schema]
        # pyarrow writes the schema message together with the first batch
        offset = int(self._sink.tell()) or self._schema.serialize().size
        self._batches.append((offset, len(self._rows)))
        self._stream.write_batch(pa.RecordBatch.from_arrays(columns, schema=self._schema))
        self._rows, self._pending_bytes = [], 0

    def commit(self) -> ShardInfo:
        """Finish the file, check it, give it its final name, and return what the manifest should say of it."""
        self._flush()
        rows = sum(count for _, count in self._batches)
        self._stream.close()
        self._sink.close()
        sync_file(self._temporary)
        try:
            counted = count_rows(self._temporary)
        except ValueError as error:
            raise StoreError(f"{self.path.name}: {error}", "do without `compress`") from error
        if counted != rows:
            raise StoreError(f"{self.path.name}: wrote {rows} rows and read back {counted}", "check the disk")
        info = ShardInfo(
            name=self.path.name,
            rows=rows,
            tokens=self._tokens,
            bytes=self._temporary.stat().st_size,
            xxh3=digest_file(self._temporary),
            batches=tuple(self._batches),
            heads=head_digests(self._temporary, [offset for offset, _ in self._batches]),
            compressed=self._compressed,
        )
        os.replace(self._temporary, self.path)
        sync_folder(self.path.parent)
        return info
