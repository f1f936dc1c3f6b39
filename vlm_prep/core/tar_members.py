"""The members of a tar that somebody else wrote, in its order, none kept.

A header may state a size below zero, which leads the reader back to a header it has been at, for ever (CVE-2025-8194);
numbers in extended headers may be none.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from typing import BinaryIO


def tar_members(file: BinaryIO) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """Yield the members of a tar that is not compressed, with the archive that reads them.

    Raises:
        tarfile.TarError: it is damaged.
    """
    last = -1
    with _opened(file) as archive:
        while (info := _next(archive)) is not None:
            if info.offset <= last:
                raise tarfile.ReadError("a header leads back to one before it")
            last = info.offset
            archive.members = []  # type: ignore[attr-defined]  # it would keep them all
            yield archive, info


def _opened(file: BinaryIO) -> tarfile.TarFile:
    try:
        return tarfile.open(fileobj=file, mode="r:")
    except _NONSENSE as error:
        raise tarfile.ReadError(f"a header is damaged: {error}") from error


def _next(archive: tarfile.TarFile) -> tarfile.TarInfo | None:
    try:
        return archive.next()
    except _NONSENSE as error:
        raise tarfile.ReadError(f"a header is damaged: {error}") from error


_NONSENSE = (ValueError, OverflowError, LookupError, MemoryError, OSError)
"""What the library raises of numbers that are none, below zero, or larger than any file."""
