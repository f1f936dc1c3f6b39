"""In what state media files are, told without reading them: sizes, times and inodes, as `make` and `git` look at files.

A file whose size, time of change of content and of inode, and inode are what they were was not written since: the
time of the inode's change is the kernel's own and set by no tool. A file whose state differs may still hold the
same bytes (it was copied or touched); who needs to know reads them.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterable
from functools import lru_cache

import xxhash

from vlm_prep.core.remote import is_remote
from vlm_prep.media.files import split_uri
from vlm_prep.shards.row_ledger import NO_FILES, UNKNOWN

_MISSING = b"missing"
Stats = dict[str, bytes]
"""What was found of files so far, by path."""


def state_of(uris: Iterable[str], own: frozenset[str], known: Stats) -> int:
    """Return a number that stands for the state of files: NO_FILES without any, UNKNOWN where it cannot be told.

    Args:
        uris: of the media of a row.
        own: real paths of the source's data files, whose rows are looked at otherwise.
        known: states that were found, and are found, of paths; an LMDB or a picture of many rows is asked for once.
    """
    states = []
    for uri in uris:
        path = split_uri(uri)[0] if "::" in uri else uri
        found = known.get(path)
        if found is None:
            if is_remote(uri):
                return UNKNOWN
            found = known[path] = _stat(path, own)
        if found:
            states += [uri.encode(errors="surrogateescape"), found]
    return (xxhash.xxh3_64_intdigest(b"".join(states)) >> 2) + 1 if states else NO_FILES


@lru_cache(maxsize=8)
def _inodes(paths: frozenset[str]) -> frozenset[tuple[int, int]]:
    """Return the devices and inodes of files, by which a path to them is known without following its links."""
    return frozenset((found.st_dev, found.st_ino) for found in map(os.stat, filter(os.path.exists, paths)))


def _stat(path: str, own: frozenset[str]) -> bytes:
    """Return the state of a file; nothing of one that the source's rows lie in."""
    try:
        found = os.stat(path)
        if stat.S_ISDIR(found.st_mode):  # an LMDB
            found = os.stat(os.path.join(path, "data.mdb"))
    except (OSError, ValueError):
        return _MISSING
    if own and (found.st_dev, found.st_ino) in _inodes(own):
        return b""
    return struct.pack("<QqqQ", found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
