"""Files inside a zip or tar, `photos.zip::a/b.jpg`: read in place, nothing is unpacked.

A zip is read by its directory; a tar has none, so its headers are walked once in each process. Members that are no
plain files (links, devices), encrypted, or larger than 2 GiB are rejects. A compressed tar cannot be read in places.
"""

from __future__ import annotations

import lzma
import os
import struct
import tarfile
import zipfile
import zlib
from functools import lru_cache
from typing import Final, Literal

from vlm_prep.core.errors import Reject, RejectReason
from vlm_prep.core.regular_files import open_descriptor, open_regular
from vlm_prep.core.tar_members import tar_members

_DAMAGE: Final = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, RuntimeError),
    *(ValueError, LookupError, OverflowError, struct.error),  # of names, sizes and places that are none
)
ArchiveKind = Literal["zip", "tar", "compressed"]
MOST_BYTES: Final = 2 << 30
_TAR_MAGIC: Final = slice(257, 262)
_COMPRESSED: Final = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd")


def archive_kind(path: str) -> ArchiveKind | None:
    """Tell a zip or tar by its first bytes; compressed for a `.tar.gz` and the like, None for anything else."""
    if not os.path.isfile(path):
        return None
    with open_regular(path) as file:
        head = file.read(512)
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return "zip"
    if head[_TAR_MAGIC] == b"ustar":
        return "tar"
    return "compressed" if ".tar." in os.path.basename(path) and head.startswith(_COMPRESSED) else None


def read_member(path: str, kind: ArchiveKind, name: str) -> bytes:
    """Return the bytes of a member.

    Raises:
        Reject: missing_key, empty_file or unreadable_file.
    """
    if kind == "compressed":
        message = f"{path}: a compressed tar cannot be read in places; unpack it, or compress nothing"
        raise Reject(RejectReason.UNREADABLE_FILE, message)
    stat = os.stat(path)
    where = (path, stat.st_ino, stat.st_size, stat.st_mtime_ns)
    try:
        data = _of_zip(where, name) if kind == "zip" else _of_tar(where, name)
    except _DAMAGE as error:
        what = type(error).__name__ if not str(error) else str(error).splitlines()[0][:200]
        raise Reject(RejectReason.UNREADABLE_FILE, f"{path}::{name}: {what}") from error
    except OSError as error:
        raise Reject(RejectReason.UNREADABLE_FILE, f"{path}: {error.strerror or error}") from error
    if not data:
        raise Reject(RejectReason.EMPTY_FILE, f"{path}::{name}: zero bytes")
    return data


_Where = tuple[str, int, int, int]


def _of_zip(where: _Where, name: str) -> bytes:
    members = _zip_members(where)
    info = members.get(_plain(name))
    if info is None:
        raise Reject(RejectReason.MISSING_KEY, f"{where[0]}: no member {name!r}")
    _require_size(where, name, info.file_size)
    with open_regular(where[0]) as file, zipfile.ZipFile(file) as archive:
        return archive.read(info)


@lru_cache(maxsize=16)
def _zip_members(where: _Where) -> dict[str, zipfile.ZipInfo]:
    with open_regular(where[0]) as file, zipfile.ZipFile(file) as archive:
        return {_plain(info.filename): info for info in archive.infolist() if not info.is_dir()}


def _of_tar(where: _Where, name: str) -> bytes:
    found = _tar_members(where).get(_plain(name))
    if found is None:
        raise Reject(RejectReason.MISSING_KEY, f"{where[0]}: no member {name!r}")
    offset, size = found
    _require_size(where, name, size)
    descriptor = open_descriptor(where[0])
    try:
        data = os.pread(descriptor, size, offset)
    finally:
        os.close(descriptor)
    if len(data) != size:
        raise Reject(RejectReason.UNREADABLE_FILE, f"{where[0]}::{name}: the archive ends before it")
    return data


@lru_cache(maxsize=16)
def _tar_members(where: _Where) -> dict[str, tuple[int, int]]:
    """Return name → (offset, size) of the plain files of a tar, in its order.

    Args:
        where: path, inode, size and time of the tar.

    Raises:
        tarfile.TarError: it is damaged.
    """
    found: dict[str, tuple[int, int]] = {}
    with open_regular(where[0]) as file:
        for _, info in tar_members(file):
            if info.isreg() and not info.issparse():
                found[_plain(info.name)] = (info.offset_data, info.size)
    return found


def _plain(name: str) -> str:
    return os.path.normpath(name).lstrip("/")


def _require_size(where: _Where, name: str, size: int) -> None:
    if size > MOST_BYTES:
        raise Reject(RejectReason.UNREADABLE_FILE, f"{where[0]}::{name}: {size:,} bytes, more than {MOST_BYTES:,}")
