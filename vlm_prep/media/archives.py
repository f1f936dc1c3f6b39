"""Files inside a zip or tar, `photos.zip::a/b.jpg`: read in place, nothing is unpacked.

A zip is read by its directory; a tar has none, so its headers are walked once in each process. Members that are no
plain files (links, devices), encrypted, or larger than 2 GiB are rejects; so is a name that several members with
different contents have. What a member becomes is as large as the archive says, at most. A compressed tar cannot be
read in places, and neither can an archive in an archive.
"""

from __future__ import annotations

import bz2
import lzma
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterable
from functools import lru_cache
from typing import BinaryIO, Final, Literal, TypeVar

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
    state = os.stat(path)
    where = (path, state.st_ino, state.st_size, state.st_mtime_ns)
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
_Member = TypeVar("_Member")
_Named = dict[str, _Member | list[_Member]]
"""Members by name; of a name that several have all of them."""


def _named(members: Iterable[tuple[str, _Member]]) -> _Named[_Member]:
    found: _Named[_Member] = {}
    for written, member in members:
        name = _plain(written)
        if name not in found:
            found[name] = member
        elif isinstance(others := found[name], list):
            others.append(member)
        else:
            found[name] = [others, member]
    return found


def _find(where: _Where, name: str, members: _Named[_Member]) -> list[_Member]:
    found = members.get(_plain(name))
    if found is None:
        what = f"no plain file {name!r} in it (links and archives in archives are not followed)"
        raise Reject(RejectReason.MISSING_KEY, f"{where[0]}: {what}")
    return found if isinstance(found, list) else [found]


def _require_one(where: _Where, name: str, contents: set[bytes]) -> bytes:
    """Return what all members of a name hold."""
    if len(contents) > 1:
        what = "several files of this name, with different contents: give each its own"
        raise Reject(RejectReason.UNREADABLE_FILE, f"{where[0]}::{name}: {what}")
    return contents.pop()


def _of_zip(where: _Where, name: str) -> bytes:
    found = _find(where, name, _zip_members(where))
    for info in found:
        _require_size(where, name, info.file_size)
    with open_regular(where[0]) as file, zipfile.ZipFile(file) as archive:
        return _require_one(where, name, {_unpacked(file, archive, info) for info in found})


def _unpacked(file: BinaryIO, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """Return what a member holds, never more than it is said to; the library unpacks bzip2 and LZMA to any size first.

    Raises:
        zipfile.BadZipFile: it is damaged, or larger than it is said to be.
    """
    if info.compress_type not in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        with archive.open(info) as member:
            return member.read(info.file_size)
    with archive.open(info):
        pass  # its header is the directory's, and it is not encrypted
    file.seek(info.header_offset)
    lengths = struct.unpack("<HH", file.read(30)[26:])
    file.seek(sum(lengths), os.SEEK_CUR)
    packed = file.read(info.compress_size)
    if info.compress_type == zipfile.ZIP_BZIP2:
        data = bz2.BZ2Decompressor().decompress(packed, info.file_size + 1)
    else:
        data = _lzma(packed, info.file_size).decompress(packed[9:], info.file_size + 1)
    if len(data) != info.file_size or zlib.crc32(data) != info.CRC:
        raise zipfile.BadZipFile(f"it is not the {info.file_size:,} bytes that it is said to be")
    return data


def _lzma(packed: bytes, size: int) -> lzma.LZMADecompressor:
    """Return what unpacks a member by the five bytes of properties that zips have (APPNOTE 5.8.8): it remembers no
    more than the member is large, whatever they say."""
    if packed[2:4] != b"\x05\x00" or len(packed) < 9:
        raise zipfile.BadZipFile("its LZMA header is damaged")
    rest, lc = divmod(packed[4], 9)
    pb, lp = divmod(rest, 5)
    remembered = min(int.from_bytes(packed[5:9], "little"), size)
    options = {"id": lzma.FILTER_LZMA1, "dict_size": max(remembered, 4096), "lc": lc, "lp": lp, "pb": pb}
    return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[options])


@lru_cache(maxsize=16)
def _zip_members(where: _Where) -> _Named[zipfile.ZipInfo]:
    with open_regular(where[0]) as file, zipfile.ZipFile(file) as archive:
        return _named((info.filename, info) for info in archive.infolist() if _is_plain(info))


def _is_plain(info: zipfile.ZipInfo) -> bool:
    """Whether a member is a file; the type of a link or a device, of which it holds a text, is noted as Unix has it.
    Whatever system is said to have made the zip, as PKZIP says FAT of what it makes on Unix; 0 where there is none."""
    return not info.is_dir() and stat.S_IFMT(info.external_attr >> 16) in (0, stat.S_IFREG)


def _of_tar(where: _Where, name: str) -> bytes:
    found = _find(where, name, _tar_members(where))
    return _require_one(where, name, {_in_tar(where, name, *each) for each in found})


def _in_tar(where: _Where, name: str, offset: int, size: int) -> bytes:
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
def _tar_members(where: _Where) -> _Named[tuple[int, int]]:
    """Return name → (offset, size) of the plain files of a tar, in its order.

    Args:
        where: path, inode, size and time of the tar.

    Raises:
        tarfile.TarError: it is damaged.
    """
    with open_regular(where[0]) as file:
        plain = (info for _, info in tar_members(file) if info.isreg() and not info.issparse())
        return _named((info.name, (info.offset_data, info.size)) for info in plain)


def _plain(name: str) -> str:
    return os.path.normpath(name).lstrip("/")


def _require_size(where: _Where, name: str, size: int) -> None:
    if size > MOST_BYTES:
        raise Reject(RejectReason.UNREADABLE_FILE, f"{where[0]}::{name}: {size:,} bytes, more than {MOST_BYTES:,}")
