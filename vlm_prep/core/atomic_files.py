"""Files that are absent or whole, whenever the process or the machine stops.

A file is written under a temporary name, forced to disk and renamed, and its folder is forced to disk.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from vlm_prep.core.errors import OutputError


def sync_file(path: Path) -> None:
    """Force a file's bytes to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Force a folder's entries (renames) to disk."""
    sync_file(path)


def process_mark(process: int | None = None) -> str:
    """Return what tells a process (this one by default) from those on other machines that share a folder."""
    return f"{socket.gethostname()}-{process or os.getpid()}"


def write_bytes_atomically(path: Path, data: bytes, *, shared: bool = False, create: bool = False) -> None:
    """Write a small file so that it is either absent or whole.

    Args:
        path: the file.
        data: its content.
        shared: another process may write the same file at the same time; each then needs a temporary name of its own.
        create: leave a file that is there as it is.
    """
    mark = f".{process_mark()}" if shared or create else ""
    temporary = path.with_name(f"{path.name}{mark}.tmp")
    try:
        _must_be_replaceable(path)
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if create:
            _link(temporary, path)
        else:
            os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


def _must_be_replaceable(path: Path) -> None:
    """Refuse what is there and is no file: a rename would put one in the place of /dev/null, where it is allowed to.

    Raises:
        OSError: it is a device, a pipe or a socket.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return  # nothing is there, or it cannot be reached, which writing tells
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError(errno.EINVAL, "it is a device or a pipe, not a file")


def _link(temporary: Path, path: Path) -> None:
    """Give a file its final name unless that is taken: of many processes that do so at once one succeeds."""
    with contextlib.suppress(FileExistsError):
        os.link(temporary, path)
    temporary.unlink()


def write_table_atomically(path: Path, table: pa.Table) -> None:
    """Write a Parquet file so that it is either absent or whole."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        _must_be_replaceable(path)
        pq.write_table(table, temporary, compression="zstd")
        sync_file(temporary)
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
