"""Read rows of finished shards from memory maps, number lists as numpy views of the map.

A random row costs about 10 µs: its batch is found by bisection, list offsets are read from the Arrow buffers, and
nothing is copied (the arrays are read-only views; copy them into a batch once). Files open lazily, one map per
process, and hold no locks or threads, so a reader survives fork and can be made again under spawn.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from vlm_prep.core.errors import StoreError
from vlm_prep.core.fingerprint import digest_file
from vlm_prep.shards.manifest import Manifest, read_manifest
from vlm_prep.shards.writer import ShardInfo

MAKE_AGAIN = "run the command that made the store again: it makes this shard again"
DELETE_FIRST = "delete it and run the command that made the store again: it makes this shard again"
_END = b"\xff\xff\xff\xff\x00\x00\x00\x00"
"""The end of every Arrow stream."""


class ShardReader:
    """Rows of one shard by index.

    Args:
        path: the shard.
        info: what the manifest says of it.

    Raises:
        StoreError: the file is missing, or its size or end is not that of a whole shard.
    """

    def __init__(self, path: Path, info: ShardInfo) -> None:
        self.path, self.info = path, info
        if not path.is_file():
            raise StoreError(f"{path}: the manifest names this shard and it is missing", MAKE_AGAIN)
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            end = os.pread(file.fileno(), len(_END), max(0, size - len(_END)))
        if size != info.bytes:
            raise StoreError(
                f"{path}: {size} bytes, the manifest says {info.bytes}: the shard is damaged", MAKE_AGAIN
            )
        if end != _END:
            raise StoreError(f"{path}: does not end as a shard does: it is damaged", DELETE_FIRST)
        self._starts = np.cumsum([0, *(rows for _, rows in info.batches)]).tolist()
        self._batches: dict[int, pa.RecordBatch] = {}
        self._map: pa.MemoryMappedFile | None = None
        self._schema: pa.Schema | None = None

    def __len__(self) -> int:
        return self.info.rows

    @property
    def schema(self) -> pa.Schema:
        """The shard's Arrow schema."""
        self._open()
        return self._schema

    def _open(self) -> pa.MemoryMappedFile:
        if self._map is None:
            self._map = pa.memory_map(str(self.path))
            self._schema = pa.ipc.open_stream(self._map).schema
        return self._map

    def batch(self, index: int) -> pa.RecordBatch:
        """Return record batch `index`, without copying it."""
        found = self._batches.get(index)
        if found is None:
            source = self._open()
            source.seek(self.info.batches[index][0])
            found = self._read_batch(source, index)
            self._batches[index] = found
        return found

    def _read_batch(self, source: pa.MemoryMappedFile, index: int) -> pa.RecordBatch:
        try:
            found = pa.ipc.read_record_batch(pa.ipc.read_message(source), self._schema)
        except (pa.ArrowException, OSError) as error:
            raise StoreError(f"{self.path}: record batch {index} is damaged: {error}", DELETE_FIRST) from error
        if found.num_rows != self.info.batches[index][1]:
            raise StoreError(
                f"{self.path}: record batch {index} has {found.num_rows} rows, the manifest says "
                f"{self.info.batches[index][1]}: the shard is damaged or another one",
                DELETE_FIRST,
            )
        return found

    def row(self, index: int) -> dict[str, Any]:
        """Return row `index`: numpy views for number lists, Python values for the rest."""
        if not 0 <= index < self.info.rows:
            raise IndexError(f"{self.path.name}: row {index} of {self.info.rows}")
        number = bisect_right(self._starts, index) - 1
        batch = self.batch(number)
        local = index - self._starts[number]
        return {name: cell(batch.column(i), local) for i, name in enumerate(batch.schema.names)}

    def column(self, name: str) -> pa.ChunkedArray:
        """Return a whole column, without copying it."""
        position = self.schema.get_field_index(name)
        chunks = [self.batch(i).column(position) for i in range(len(self.info.batches))]
        return pa.chunked_array(chunks, type=self.schema.field(position).type)

    def verify(self) -> None:
        """Read the whole file and compare its checksum with the manifest's."""
        found = digest_file(self.path)
        if found != self.info.xxh3:
            raise StoreError(
                f"{self.path}: checksum {found}, the manifest says {self.info.xxh3}: the shard is damaged",
                DELETE_FIRST,
            )


def cell(column: pa.Array, index: int) -> Any:
    """Return one cell: a numpy view for list<number>, list<number[k]> and list<list<number>>, else a Python value."""
    data_type = column.type
    if not pa.types.is_list(data_type):
        return column[index].as_py()
    inner = data_type.value_type
    if pa.types.is_struct(inner) or pa.types.is_string(inner):
        return column[index].as_py()
    values = column[index].values
    if pa.types.is_fixed_size_list(inner):
        size = inner.list_size
        flat = values.flatten().to_numpy(zero_copy_only=True)
        return flat.reshape(-1, size)
    if pa.types.is_list(inner):
        if len(values) == 0:
            return np.empty((0, 0), inner.value_type.to_pandas_dtype())
        return values.flatten().to_numpy(zero_copy_only=True).reshape(len(values), -1)
    return values.to_numpy(zero_copy_only=True)


class Store:
    """A finished folder: its manifest and its shards, rows numbered through.

    Args:
        folder: a folder with a manifest.json.
        stage: the stage that must have made it, or None.
        split: only this split ("train", "rank-00000"), or None for all.
        verify: compare every shard's checksum first.

    Raises:
        StoreError: unfinished, damaged, or of another stage or version.
    """

    def __init__(
        self, folder: str | Path, *, stage: str | None = None, split: str | None = None, verify: bool = False
    ) -> None:
        self.folder = Path(folder)
        self.manifest: Manifest = read_manifest(self.folder, stage=stage)
        chosen = [(path, info) for path, info in self.manifest.shards() if split in (None, path.rpartition("/")[0])]
        self.shards = [ShardReader(self.folder / path, info) for path, info in chosen]
        self._starts = np.cumsum([0, *(len(shard) for shard in self.shards)]).tolist()
        if verify:
            for shard in self.shards:
                shard.verify()

    def __len__(self) -> int:
        return int(self._starts[-1])

    def locate(self, index: int) -> tuple[ShardReader, int]:
        """Return (shard, row in it) of row `index`."""
        if not 0 <= index < len(self):
            raise IndexError(f"{self.folder}: row {index} of {len(self)}")
        number = bisect_right(self._starts, index) - 1
        return self.shards[number], index - self._starts[number]

    def row(self, index: int) -> dict[str, Any]:
        """Return row `index` of the store, see `ShardReader.row`."""
        shard, local = self.locate(index)
        return shard.row(local)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield all rows in order."""
        for shard in self.shards:
            for index in range(len(shard)):
                yield shard.row(index)

    def lengths(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Return the number of tokens of every row, from the list offsets alone."""
        parts = [
            chunk.value_lengths().to_numpy() for shard in self.shards for chunk in shard.column("input_ids").chunks
        ]
        return np.concatenate(parts).astype(np.int64) if parts else np.empty(0, np.int64)
