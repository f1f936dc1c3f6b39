"""Files that a row or a user names, opened only if they are files: no pipe, device, socket, folder or kernel file.

Opening a named pipe waits for a writer, reading /dev/zero never ends, and reading /proc/kmsg waits for the kernel: each
would cost a worker its whole time limit.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from pathlib import Path
from typing import BinaryIO, Final, Protocol


class _Object(Protocol):
    """What is on an object store, and so no special file."""

    def read_bytes(self) -> bytes:
        """Return all of it."""


_KINDS: Final = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
_KERNEL: Final = ("/proc/", "/sys/")
_of_kernel: dict[int, bool] = {}


def open_descriptor(path: str | Path) -> int:
    """Return a descriptor for reading a regular file.

    Raises:
        OSError: there is no such file, it may not be read, or is something else; its strerror says what.
    """
    _require_regular(os.stat(path), path)
    # not waiting: what was a file a moment ago may be a pipe now
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        _require_regular(os.fstat(descriptor), path)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def open_regular(path: str | Path) -> BinaryIO:
    """Open a regular file for reading. Raises as `open_descriptor`."""
    return open(path, "rb", opener=lambda name, flags: open_descriptor(name))


def read_regular(path: Path | _Object) -> bytes:
    """Return all bytes of a regular file, or of an object of a store. Raises as `open_descriptor`."""
    if not isinstance(path, Path):
        return path.read_bytes()
    with open_regular(path) as file:
        return file.read()


def read_given(path: Path) -> str:
    """Return the text of a file that a user names: a regular one, or a pipe, as a shell makes of `<(command)`.

    Raises:
        OSError: it is something else, or cannot be read; its strerror says what.
        UnicodeDecodeError: it is no UTF-8.
    """
    data = path.read_bytes() if path.is_fifo() else read_regular(path)
    return io.TextIOWrapper(io.BytesIO(data), encoding="utf-8").read()


def _require_regular(found: os.stat_result, path: str | Path) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(found.st_mode):
        kind = next((name for is_kind, name in _KINDS if is_kind(found.st_mode)), "no file")
        raise OSError(errno.EINVAL, f"is {kind}, not a file", str(path))
    if not str(path).startswith("/proc/self/fd/") and _is_made_by_kernel(found.st_dev, path):
        raise OSError(errno.EINVAL, "is made by the kernel, not a file", str(path))


def _is_made_by_kernel(device: int, path: str | Path) -> bool:
    """Whether a file lies in one of the kernel's file systems; asked once of each, as following a path takes longer
    than reading a picture's header."""
    if device not in _of_kernel:
        _of_kernel[device] = os.path.realpath(path).startswith(_KERNEL)
    return _of_kernel[device]
