"""How much of a store is held ready in a process: mapped shards, and record batches that were looked into."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from pathlib import Path
from typing import Protocol

from vlm_prep.core.errors import InputError
from vlm_prep.shards.manifest import Manifest
from vlm_prep.shards.object_store import StorePath

MOST_OPEN = 128
"""Shards of a store mapped at a time in a process, far below the usual limit of 1,024 open files. A view keeps its
shard's map until it is let go, also when the shard was closed."""
MOST_READ = 512
"""Record batches of a store whose offsets are held as Python's numbers, several times a shuffle's window of blocks."""
MOST_HELD = 256 << 20
"""Bytes of decompressed record batches that are held: two windows of a shuffle's blocks, which are of 2 MiB there."""

LOOK_AGAIN = 0.2
"""Seconds after which the sizes of mapped files are asked for again: 128 of them take up to 0.2 ms."""


class Shard(Protocol):
    """What is held of a shard."""

    @property
    def is_evicted(self) -> bool:
        """Whether it is on an object store and in no cache."""

    @property
    def is_cut(self) -> bool:
        """Whether the mapped file has another size than when it was mapped."""

    def close(self) -> None:
        """Let go of the map."""

    def forget(self, number: int) -> None:
        """Let go of record batch `number`."""


class OpenShards:
    """The shards that are mapped, least recently used first; opening one more closes the first."""

    def __init__(self, most: int = MOST_OPEN) -> None:
        self._most = most
        self._open: OrderedDict[int, Shard] = OrderedDict()
        self._last: Shard | None = None
        self._read: deque[tuple[Shard, int, int]] = deque()
        self._held = 0
        self._look = 0.0

    def __len__(self) -> int:
        return len(self._open)

    def used(self, shard: Shard) -> None:
        """Note that `shard` is being read."""
        if shard is self._last:
            return
        self._last = shard
        self._open[id(shard)] = shard
        self._open.move_to_end(id(shard))
        if len(self._open) > self._most:
            self._open.popitem(last=False)[1].close()

    def begun(self, shard: Shard, batch: int, held: int) -> None:
        """Note that a shard's record batch is read for the first time; the one that was begun MOST_READ before it is
        forgotten, and made ready again if it is read again. So are earlier ones once MOST_HELD bytes are held.

        Args:
            shard: the shard.
            batch: number of the batch in it.
            held: bytes of memory that the batch takes beside the map.
        """
        self._read.append((shard, batch, held))
        self._held += held
        while len(self._read) > MOST_READ or (self._held > MOST_HELD and len(self._read) > 1):
            earlier, number, given = self._read.popleft()
            self._held -= given
            earlier.forget(number)

    def drop_evicted(self) -> None:
        """Close shards that have left their cache: as long as they are mapped they take the disk's room."""
        self._close([key for key, shard in self._open.items() if shard.is_evicted])

    def drop_cut(self) -> None:
        """Close shards whose files were cut since: to touch what is gone ends a process (SIGBUS). Whoever reads such a
        shard next opens it again, and is told its name and size. Asked for before each batch; mostly it is too early.
        """
        now = time.monotonic()
        if now >= self._look:
            self._look = now + LOOK_AGAIN
            self._close([key for key, shard in self._open.items() if shard.is_cut])

    def _close(self, keys: list[int]) -> None:
        self._last = None
        for key in keys:
            self._open.pop(key).close()


def open_shards_of(folder: StorePath, manifest: Manifest) -> OpenShards:
    """Return how many of a store's shards may be mapped: of an object store's no more than its cache holds.

    Raises:
        InputError: the cache is smaller than a shard.
    """
    largest = max((info.bytes for _, info in manifest.shards()), default=0)
    if isinstance(folder, Path) or not largest:
        return OpenShards()
    if largest > folder.cache.bytes:
        raise InputError(
            f"{folder}: its largest shard has {largest:,} bytes, cache_bytes is {folder.cache.bytes:,}",
            "give a larger one",
        )
    return OpenShards(min(MOST_OPEN, folder.cache.bytes // largest))
