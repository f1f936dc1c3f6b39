"""Read rows of finished shards from memory maps, number lists as numpy views of the map.

A random row costs about 5 µs: its batch is found by bisection, list offsets are read from the Arrow buffers, and
nothing is copied (the arrays are read-only views; copy them into a batch once). Opening a store lists its folders
and opens no shard: 10,000 shards take 0.1 s. Shards open when they are first read, some at a time (see `mapped`), and
hold no locks, threads or shared memory, so a reader survives fork, and a killed one leaves nothing behind.

What decides where Arrow looks for a row is compared with the manifest when a shard is mapped and when a batch is read
first (see `heads`), and the batch is validated, so that a damaged shard is an error and never a crash. What only a
checksum can tell, a changed token or pixel, is found by `verify`. A batch of a compressed shard is decompressed when a
row of it is read, and held for the next ones (see `mapped`); of a column that is read alone nothing is held.
On an object store the manifest alone is read at first; a shard is fetched when it is read, see `cache`.
"""

from __future__ import annotations

import functools
import os
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from vlm_prep.core.errors import StoreError
from vlm_prep.core.fingerprint import digest_file
from vlm_prep.core.media_places import opened
from vlm_prep.shards.cache import COPY_AGAIN, CachedShard
from vlm_prep.shards.columns import ColumnReaders, reader_makers
from vlm_prep.shards.heads import read_batch, read_schema, size_of
from vlm_prep.shards.layout import must_be_unchanged
from vlm_prep.shards.manifest import Manifest, must_hold_rows, read_manifest
from vlm_prep.shards.mapped import OpenShards, open_shards_of
from vlm_prep.shards.object_store import RemotePath, StorePath, store_path
from vlm_prep.shards.schema import MEDIA_COLUMN, has_media
from vlm_prep.shards.shard_info import ShardInfo
from vlm_prep.shards.shared import resolve

FEW_ROWS = 32  # in a record batch (of 16 MiB) whose rows are made together
MAKE_AGAIN = "run the command that made the store again: it makes this shard again"
DELETE_FIRST = "delete it and run the command that made the store again: it makes this shard again"


class ShardReader:
    """Rows of one shard by index.

    Args:
        path: the shard.
        info: what the manifest says of it.
        size: bytes of the file if they are known, so that nothing is opened yet; None looks, and at its end, too.
        opened: told when the shard is read, so that it may close others.
        cached: for a shard on an object store, which is not looked at before it is read.

    Raises:
        StoreError: the file is missing or its size is not the manifest's; when it is read first, its end is not that
            of a whole shard.
    """

    def __init__(
        self,
        path: StorePath,
        info: ShardInfo,
        *,
        size: int | None = None,
        opened: OpenShards | None = None,
        cached: CachedShard | None = None,
    ) -> None:
        self.path, self.info = path, info
        self._opened = OpenShards() if opened is None else opened
        self._cached = cached
        if isinstance(path, Path):
            self._check_size(path, size)
        self.close()
        if isinstance(path, Path) and size is None and path.suffix == ".arrow":
            self._open()
            self.close()

    def _check_size(self, path: Path, size: int | None) -> None:
        if size is None and path.is_file():
            size = path.stat().st_size
        if size is None:
            raise StoreError(f"{path}: the manifest names this shard and it is missing", MAKE_AGAIN)
        if size != self.info.bytes:
            what = f"{size} bytes, the manifest says {self.info.bytes}: the shard is damaged"
            raise StoreError(f"{path}: {what}", MAKE_AGAIN)

    def __len__(self) -> int:
        return self.info.rows

    @property
    def schema(self) -> pa.Schema:
        """The shard's Arrow schema."""
        self._open()
        return self._schema

    def close(self) -> None:
        """Let go of the map; views of it stay valid, and the next read opens it again."""
        self._map: pa.MemoryMappedFile | None = None
        self._schema: pa.Schema | None = None
        self._batches: dict[int, pa.RecordBatch] = {}
        self._readers: dict[int, ColumnReaders] = {}
        self._starts: list[int] = []
        self._names: dict[tuple[str, ...], list[str]] = {}
        self._made: dict[int, list[Any]] = {}

    def forget(self, number: int) -> None:
        """Let go of record batch `number`; views of it stay valid."""
        for kept in (self._readers, self._batches, self._made):
            kept.pop(number, None)

    def _open(self) -> pa.MemoryMappedFile:
        self._opened.used(self)
        if self._map is None:
            if self.path.suffix != ".arrow":
                raise StoreError(
                    f"{self.path} is no Arrow shard",
                    "stores in webdataset format are read with the webdataset library; pack to arrow for ShardDataset",
                )
            if self._cached is None:
                self._map = pa.memory_map(str(self.path))
            else:
                self._map = self._cached.open()
                self._opened.drop_evicted()
            try:
                self._schema = read_schema(self._map, self.info)
            except (pa.ArrowException, OSError, ValueError) as error:
                self._map = None
                raise StoreError(f"{self.path} is damaged: {error}", self._repair) from error
            self._has_media = has_media(self._schema)
            self._starts = [0, *accumulate(rows for _, rows in self.info.batches)]
        return self._map

    def batch(self, index: int) -> pa.RecordBatch:
        """Return record batch `index`, without copying it; a compressed one is the caller's to hold."""
        found = self._batches.get(index)
        if found is None:
            found = self._read_batch(index)
            if not self.info.compressed:
                self._batches[index] = found
            if self._cached is not None:
                self._cached.touch()  # now and then while it is read, not for each row
        return found

    def _read_batch(self, index: int, only: int | None = None) -> pa.RecordBatch:
        source = self._open()
        try:
            return read_batch(source, self.info, index, self._schema, only)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise StoreError(f"{self.path}: record batch {index} is damaged: {error}", self._repair) from error

    def row(self, index: int, without: Collection[str] = ()) -> dict[str, Any]:
        """Return row `index`: numpy views for number lists and binary, Python values for the rest.

        Args:
            index: of the row in the shard.
            without: columns to leave out.
        """
        if not 0 <= index < self.info.rows:
            raise IndexError(f"{self.path.name}: row {index} of {self.info.rows}")
        self._open()
        number = bisect_right(self._starts, index) - 1
        readers, local = self._readers.get(number) or self._columns(number), index - self._starts[number]
        try:
            found = {name: readers[name](local) for name in self._names.get(tuple(without)) or self._wanted(without)}
        except (ValueError, IndexError, TypeError) as error:
            raise StoreError(f"{self.path}, row {index} is damaged: {error}", self._repair) from error
        if self._has_media:
            found[MEDIA_COLUMN] = resolve(index, found[MEDIA_COLUMN], self._media)
        return found

    def made(self, index: int, make: Callable[[Callable[[], Any]], Any], without: Collection[str] = ()) -> Any:
        """Return what `make` makes of row `index`; None in a record batch of many rows.

        A batch of few, large rows is read at once: the copying of megabytes between two rows puts the reading of each
        out of the processor's cache, which makes it three times as slow.

        Args:
            index: of the row in the shard.
            make: given what reads a row. Called once for each row of the batch, so it must not raise.
            without: columns to leave out.
        """
        self._open()
        number = bisect_right(self._starts, index) - 1
        found = self._made.get(number)
        if found is None:
            rows = range(self._starts[number], self._starts[number + 1])
            few = rows if len(rows) <= FEW_ROWS else ()
            found = [make(functools.partial(self.row, row, without)) for row in few]
            self._made[number] = found
        return found[index - self._starts[number]] if found else None

    def _wanted(self, without: Collection[str]) -> list[str]:
        assert self._schema is not None
        names = self._names[tuple(without)] = [name for name in self._schema.names if name not in without]
        return names

    def _media(self, index: int) -> list[dict[str, Any]]:
        """Return the media of a row as they are stored."""
        if not 0 <= index < self.info.rows:
            raise StoreError(f"{self.path}: media of row {index} of {self.info.rows} are referred to", self._repair)
        number = bisect_right(self._starts, index) - 1
        media: list[dict[str, Any]] = self._columns(number)[MEDIA_COLUMN](index - self._starts[number])
        return media

    def _columns(self, number: int) -> ColumnReaders:
        found = self._readers.get(number)
        if found is None:
            batch = self.batch(number)
            found = self._readers[number] = ColumnReaders(reader_makers(self._schema), batch.column)
            self._opened.begun(self, number, batch.nbytes if self.info.compressed else 0)
        return found

    def column(self, name: str) -> pa.ChunkedArray:
        """Return a whole column, without copying it unless it is compressed."""
        position, alone = self.schema.get_field_index(name), self.info.compressed
        chunks = [
            self._read_batch(number, position).column(0) if alone else self.batch(number).column(position)
            for number in range(len(self.info.batches))
        ]
        return pa.chunked_array(chunks, type=self.schema.field(position).type)

    @property
    def _repair(self) -> str:
        return DELETE_FIRST if self._cached is None else f"delete {self._cached.file}: it is fetched again"

    @property
    def is_evicted(self) -> bool:
        """Whether it is on an object store and in no cache."""
        return self._cached is not None and not self._cached.file.exists()

    @property
    def is_cut(self) -> bool:
        """Whether the mapped file has another size than when it was mapped."""
        return self._map is not None and size_of(self._map) != self.info.bytes

    def verify(self) -> None:
        """Read the whole file (on an object store the object, not its copy) and compare its checksum."""
        remote = isinstance(self.path, RemotePath)
        try:
            found = self.path.digest() if isinstance(self.path, RemotePath) else digest_file(self.path)
        except FileNotFoundError as error:
            hint = COPY_AGAIN if remote else MAKE_AGAIN
            raise StoreError(f"{self.path}: the manifest names this shard and it is missing", hint) from error
        if found != self.info.xxh3:
            what = f"checksum {found}, the manifest says {self.info.xxh3}: the shard is damaged"
            raise StoreError(f"{self.path}: {what}", COPY_AGAIN if remote else DELETE_FIRST)


class Store:
    """A finished folder: its manifest and its shards, rows numbered through.

    Args:
        folder: a folder with a manifest.json, also on an object store.
        stage: the stage that must have made it, or None.
        split: only this split ("train", "rank_00000"), or None for all.
        verify: compare every file's checksum first; a shard's on an object store when it is read, also a cached one's.
        manifest: the folder's manifest if it was read already.
        open_shards: which shards are mapped, where several stores share a limit.

    Raises:
        StoreError: unfinished, damaged, or of another stage or version.
        InputError: the object store could not be asked, or its cache is smaller than a shard.
    """

    def __init__(
        self,
        folder: str | StorePath,
        *,
        stage: str | None = None,
        split: str | None = None,
        verify: bool = False,
        manifest: Manifest | None = None,
        open_shards: OpenShards | None = None,
    ) -> None:
        self.folder = opened(store_path(folder))
        self.manifest: Manifest = manifest or read_manifest(self.folder, stage=stage)
        if stage is None and manifest is None:
            must_hold_rows(self.folder, self.manifest.stage)
        self.open_shards = open_shards_of(self.folder, self.manifest) if open_shards is None else open_shards
        self._verify = verify
        self.shards = [
            shard for name in self.manifest.splits if split in (None, name) for shard in self._split_shards(name)
        ]
        self._starts: list[int] = [0, *accumulate(len(shard) for shard in self.shards)]
        if verify and manifest is None:
            must_be_unchanged(self.folder, self.manifest)
        for shard in self.shards if verify and isinstance(self.folder, Path) else ():
            shard.verify()

    @property
    def bytes_fetched(self) -> list[int]:
        """The sizes of the shards that are fetched when they are read, largest first; none of a local folder."""
        return sorted((shard.info.bytes for shard in self.shards if isinstance(shard.path, RemotePath)), reverse=True)

    def _split_shards(self, split: str) -> list[ShardReader]:
        """The shards of a split; one listing of its folder says whether all are there and whole."""
        folder, infos = self.folder / split, self.manifest.splits[split]
        if isinstance(folder, RemotePath):
            cache = replace(folder.cache, verify=folder.cache.verify or self._verify)
            folder = RemotePath(folder.url, cache)
            return [self._remote_shard(folder, split, info) for info in infos]
        sizes = {}
        if infos and folder.is_dir():
            with os.scandir(folder) as entries:
                sizes = {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
        return [
            ShardReader(folder / info.name, info, size=sizes.get(info.name), opened=self.open_shards) for info in infos
        ]

    def _remote_shard(self, folder: RemotePath, split: str, info: ShardInfo) -> ShardReader:
        path = folder / info.name
        cached = CachedShard(
            cache=folder.cache,
            url=path.url,
            fingerprint=self.manifest.fingerprint,
            split=split,
            info=info,
        )
        return ShardReader(path, info, opened=self.open_shards, cached=cached)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def locate(self, index: int) -> tuple[ShardReader, int]:
        """Return (shard, row in it) of row `index`."""
        if not 0 <= index < len(self):
            raise IndexError(f"{self.folder}: row {index} of {len(self)}")
        number = bisect_right(self._starts, index) - 1
        return self.shards[number], index - self._starts[number]

    def row(self, index: int, without: Collection[str] = ()) -> dict[str, Any]:
        """Return row `index` of the store, see `ShardReader.row`."""
        shard, local = self.locate(index)
        return shard.row(local, without)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield all rows in order."""
        for shard in self.shards:
            for index in range(len(shard)):
                yield shard.row(index)

    def lengths(self, name: str = "input_ids") -> np.ndarray[Any, np.dtype[np.int64]]:
        """Return the entries of a list column in every row (by default its tokens), from the list offsets alone."""
        parts = [chunk.value_lengths().to_numpy() for shard in self.shards for chunk in shard.column(name).chunks]
        return np.concatenate([np.empty(0, np.int64), *parts]).astype(np.int64)
