"""Media stores: files by content in shards, each once, which rows of any number of other stores refer to.

`vlm-prep gather` makes one. A media of it is named by shard and row, as a cell of any Arrow file is (`row_media`):

    /data/media/train/data-00002-of-00007.arrow::1417/bytes

so that whatever reads a media reads it, and the digest beside the uri tells a store that was made anew. `Gathered` is
how a run with `media_store` finds it: by the uri that the file had when it was gathered.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from vlm_prep.core.errors import InputError, StoreError
from vlm_prep.core.remote import is_remote
from vlm_prep.media.row_media import cell_uri
from vlm_prep.shards.manifest import GATHERED
from vlm_prep.shards.reader import Store

OF_GATHERED = "media_of_stores"
"""Note of a media that was read from a media store."""
STALE = "media_stores_outdated"
"""Note of a file that has another size than when it was gathered: it is read itself."""


def hash_uri(uri: str) -> int:
    """Return the 64 bits by which a media store knows a uri."""
    return xxhash.xxh3_64_intdigest(uri.encode(errors="surrogateescape"))


@dataclass(frozen=True)
class Gathered:
    """Media stores, opened in each process when they are first asked.

    Args:
        folders: of the stores, absolute; what two of them have is taken from the first.
    """

    folders: tuple[str, ...] = ()
    _cache: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def __getstate__(self) -> tuple[str, ...]:
        return self.folders

    def __setstate__(self, folders: tuple[str, ...]) -> None:
        object.__setattr__(self, "folders", folders)
        object.__setattr__(self, "_cache", {})

    def place(self, uri: str) -> tuple[str, str | None]:
        """Return (uri to read, note): that of a media store where one has the file, else the same.

        Args:
            uri: of a file, as it was when it was gathered.
        """
        for folder in self.folders:
            found = _index(folder).find(uri)
            if found is None:
                continue
            place, size = found
            if _size_now(uri) in (None, size):
                return place, OF_GATHERED
            return uri, STALE
        return uri, None

    @property
    def files(self) -> frozenset[str]:
        """Real paths of the stores' shards, which rows may read wherever media are confined to."""
        return frozenset(
            os.path.realpath(str(shard.path)) for folder in self.folders for shard in _index(folder).store.shards
        )


NOTHING_GATHERED = Gathered()


def open_gathered(folders: Iterable[str] | None) -> Gathered:
    """Return the media stores of a run.

    Raises:
        StoreError: one is no finished media store.
        InputError: one lies on an object store.
    """
    for folder in folders or ():
        if is_remote(folder):
            raise InputError(f"{folder}: rows refer to media stores in folders", "`vlm-prep pull` it first")
    gathered = Gathered(tuple(os.path.abspath(folder) for folder in folders or ()))
    for folder in gathered.folders:
        _index(folder)
    return gathered


def open_media_store(folder: str | Path) -> Store:
    """Open a media store.

    Raises:
        StoreError: it is unfinished, damaged, or another stage's.
    """
    store = Store(folder, stage=GATHERED)
    for shard in store.shards[:1]:
        if not {"uris", "uri_hashes", "size", "digest", "bytes"} <= set(shard.schema.names):
            raise StoreError(f"{folder}: its shards are not those of a media store", "make it again")
    return store


class _Index:
    """Where each uri of a media store is: hashes in order, and the places that they stand for."""

    def __init__(self, folder: str) -> None:
        self.store = open_media_store(folder)
        parts = [_hashes_of(shard) for shard in self.store.shards]
        hashes = np.concatenate([part[0] for part in parts]) if parts else np.empty(0, np.uint64)
        rows = np.concatenate([part[1] for part in parts]) if parts else np.empty(0, np.int64)
        shards = np.repeat(np.arange(len(parts)), [len(part[0]) for part in parts])
        order = np.argsort(hashes, kind="stable")
        self._hashes, self._shards, self._rows = hashes[order], shards[order], rows[order]

    def find(self, uri: str) -> tuple[str, int] | None:
        wanted = np.uint64(hash_uri(uri))
        begin, end = np.searchsorted(self._hashes, wanted), np.searchsorted(self._hashes, wanted, side="right")
        for number in range(int(begin), int(end)):
            shard, row = self.store.shards[self._shards[number]], int(self._rows[number])
            held = shard.row(row, without=("bytes",))
            if uri in held["uris"]:
                return cell_uri(str(shard.path), row, ("bytes",)), int(held["size"])
        return None


def _hashes_of(shard: Any) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """The hashes of a shard's uris, and the row of each."""
    column = shard.column("uri_hashes").combine_chunks()
    lengths = column.value_lengths().to_numpy()
    return column.flatten().to_numpy(), np.repeat(np.arange(len(lengths)), lengths)


@lru_cache(maxsize=8)
def _index(folder: str) -> _Index:
    return _Index(folder)


def _size_now(uri: str) -> int | None:
    """The size of a file that is still where it was; None of what is gone, or of no file of its own."""
    try:
        return os.stat(uri).st_size
    except (OSError, ValueError):
        return None
