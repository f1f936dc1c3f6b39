"""The bytes behind a uri (`/a/b.jpg`, `s3://bucket/b.jpg`, `/a/db.lmdb::key` or `/a/rows.parquet::17/audio`, see
`row_media`), and digests that need not read all of them.

A digest over size, first 64 KiB and last 64 KiB finds a replaced, cut or re-encoded file for the price of the two
reads that the header and the completeness check need anyway; reading every byte of millions of pictures just to hash
them would cost more than tokenizing them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache

import xxhash

from vlm_prep.core.errors import Reject, RejectReason
from vlm_prep.core.fingerprint import digest_bytes, digest_file
from vlm_prep.core.media_places import found_beside
from vlm_prep.core.regular_files import open_descriptor, open_regular
from vlm_prep.core.remote import is_remote, read_remote, read_remote_ends
from vlm_prep.media.archives import archive_kind, read_member
from vlm_prep.media.lmdb_file import LmdbFile
from vlm_prep.media.mock_media import MADE, is_made, make_media
from vlm_prep.media.row_media import read_cell, rows_kind

END_BYTES = 64 << 10
LONGEST_PATH = 4096
"""Characters; systems open no longer one. What is longer is a text that was taken for a path."""
SEPARATOR = "::"
MEDIA_STORES = "VLM_PREP_MEDIA_STORES"
"""Variable of the environment: folders of media stores (`media.gathered`) that lie elsewhere than when rows were made
to refer to them."""


@dataclass(frozen=True, slots=True)
class Ends:
    """The first and last 64 KiB of a file; for a file of up to 128 KiB together all of it."""

    size: int
    head: bytes
    tail: bytes

    @property
    def last(self) -> bytes:
        """The end of the file, also when it is so small that it lies in `head`."""
        return self.tail or self.head


def split_uri(uri: str) -> tuple[str, str | None]:
    """Return (path, key in it or None). A path that exists as written is a path, even with `::` in it; of media that
    are made when they are read the key is all there is."""
    if is_made(uri):
        return uri[: len(MADE)], uri[len(MADE) :]
    if SEPARATOR not in uri or is_remote(uri) or os.path.exists(uri):
        return uri, None
    # a key may hold `::` and so may a folder: the LMDB or data file is the first prefix that is one, else the shortest
    position = first = uri.index(SEPARATOR)
    while position >= 0 and not _holds_keys(uri[:position]):
        position = uri.find(SEPARATOR, position + 1, LONGEST_PATH)
    position = first if position < 0 else position
    return uri[:position], uri[position + len(SEPARATOR) :]


def local_path(uri: str) -> str | None:
    """Return the path of a file that libraries can open themselves; None where there is none, only bytes."""
    path, key = split_uri(uri)
    return path if key is None and not is_remote(uri) else None


def _holds_keys(path: str) -> bool:
    return os.path.isfile(path) or os.path.isfile(os.path.join(path, "data.mdb"))


def read_bytes(uri: str) -> bytes:
    """Return all bytes behind `uri`.

    Raises:
        Reject: missing_file, missing_key, empty_file or unreadable_file.
    """
    path, key = split_uri(uri)
    if key is not None:
        return _read_key(path, key)
    try:
        if is_remote(uri):
            data = read_remote(uri)
        else:
            with open_regular(path) as file:
                data = file.read()
    except (OSError, ValueError) as error:
        raise _os_reject(uri, error) from error
    if not data:
        raise Reject(RejectReason.EMPTY_FILE, f"{uri}: zero bytes")
    return data


def read_ends(uri: str) -> Ends:
    """Return the first and last 64 KiB behind `uri`. Raises as `read_bytes`."""
    path, key = split_uri(uri)
    if key is not None:
        return ends_of(_read_key(path, key))
    try:
        size, head, tail = read_remote_ends(uri, END_BYTES) if is_remote(uri) else _local_ends(path)
    except (OSError, ValueError) as error:
        raise _os_reject(uri, error) from error
    if not size:
        raise Reject(RejectReason.EMPTY_FILE, f"{uri}: zero bytes")
    return Ends(size, head, tail)


def _local_ends(path: str) -> tuple[int, bytes, bytes]:
    descriptor = open_descriptor(path)
    try:
        size = os.fstat(descriptor).st_size
        head = os.pread(descriptor, END_BYTES, 0)
        tail = os.pread(descriptor, END_BYTES, max(END_BYTES, size - END_BYTES)) if size > END_BYTES else b""
    finally:
        os.close(descriptor)
    return size, head, tail


def ends_of(data: bytes) -> Ends:
    """Return the ends of bytes that are in memory already."""
    tail = data[max(END_BYTES, len(data) - END_BYTES) :] if len(data) > END_BYTES else b""
    return Ends(len(data), data[:END_BYTES], tail)


def digest_ends(ends: Ends) -> str:
    """Return `xxh3-ends:<hex>` over the size (8 bytes, little endian), the first and the last 64 KiB."""
    state = xxhash.xxh3_128(ends.size.to_bytes(8, "little"))
    state.update(ends.head)
    state.update(ends.tail)
    return f"xxh3-ends:{state.hexdigest()}"


def digest_matches(data: bytes, digest: str) -> bool:
    """Whether `data` has `digest`, of either kind (`xxh3:` over all bytes, `xxh3-ends:` over the ends)."""
    if is_of_ends(digest):
        return digest_ends(ends_of(data)) == digest
    return digest_bytes(data) == digest


def digest_whole(uri: str, path: str) -> str:
    """Return `xxh3:<hex>` over all bytes of a file.

    Raises:
        Reject: it is gone, or cannot be read.
    """
    try:
        os.close(open_descriptor(path))  # a pipe, a device: of what has no end
        return digest_file(path)
    except (OSError, ValueError) as error:
        raise _os_reject(uri, error) from error


def is_of_ends(digest: str) -> bool:
    """Whether a digest is of a file's ends only."""
    return digest.startswith("xxh3-ends:")


def _os_reject(uri: str, error: OSError | ValueError) -> Reject:
    # ValueError: a NUL in the path, which no file system has
    if isinstance(error, FileNotFoundError | NotADirectoryError | ValueError):
        return Reject(RejectReason.MISSING_FILE, f"{uri}: no such file")
    return Reject(RejectReason.UNREADABLE_FILE, f"{uri}: {error.strerror or error}")


def _read_key(path: str, key: str) -> bytes:
    if path == MADE:
        return make_media(path + key)
    path = moved(path)
    if not os.path.exists(path):
        raise Reject(RejectReason.MISSING_FILE, f"{path}: no such LMDB, archive or data file")
    if (archive := archive_kind(path)) is not None:
        return read_member(path, archive, key)
    kind = rows_kind(path)
    return _read_lmdb(path, key) if kind is None else read_cell(path, kind, key)


def moved(path: str) -> str:
    """Return where a shard of a media store lies on this machine; a digest beside each uri says whether it is that."""
    if os.path.exists(path) or not path.endswith(".arrow"):
        return path
    places = os.environ.get(MEDIA_STORES)
    if not places:
        return found_beside(path) or path
    name = os.path.join(*path.split(os.sep)[-2:])
    return next(
        (found for place in places.split(os.pathsep) if os.path.exists(found := os.path.join(place, name))),
        found_beside(path) or path,
    )


def _read_lmdb(path: str, key: str) -> bytes:
    try:
        data = _opened(path).get(key.encode(errors="surrogateescape"))
    except OSError as error:
        raise _os_reject(path, error) from error
    except ValueError as error:
        raise Reject(RejectReason.UNREADABLE_FILE, f"{path}: {error}") from error
    if data is None:
        raise Reject(RejectReason.MISSING_KEY, f"{path}: no key {key!r}")
    if not data:
        raise Reject(RejectReason.EMPTY_FILE, f"{path}{SEPARATOR}{key}: zero bytes")
    return data


@lru_cache(maxsize=64)
def _opened(path: str) -> LmdbFile:
    """Return an LMDB: a folder that holds data.mdb, or a plain file."""
    return LmdbFile(os.path.join(path, "data.mdb") if os.path.isdir(path) else path)
