"""Where a worker is, told through memory that outlives it.

A worker writes the number of the row it begins into an anonymous file of 40 bytes that it shares with the run (1 µs a
row); the run reads it whenever it looks. Nothing has to be sent or locked, so it is right also when the worker is
killed between two instructions, and nothing is left behind, since the file has no name.
"""

from __future__ import annotations

import os
import struct
import tempfile
from dataclasses import dataclass
from multiprocessing import reduction
from typing import Any

from vlm_prep.engine.tasks import NO_ROW

_FORM = struct.Struct("<QQqQQ")


@dataclass(frozen=True, kw_only=True)
class Beat:
    """What a heartbeat says."""

    count: int = 0
    """Grows with every beat of the worker: one that stands still works on one row."""
    assignment: int = 0
    """Number of the assignment, 0 while the worker sets itself up."""
    row: int = NO_ROW
    done: int = 0
    """Rows of the assignment that were finished before."""


class SharedHeartbeat:
    """The shared place; made by the run, passed to a worker as an argument of its process."""

    def __init__(self, descriptor: int | None = None) -> None:
        if descriptor is None:
            descriptor = _anonymous_file()
            os.pwrite(descriptor, bytes(_FORM.size), 0)
        self._descriptor = descriptor
        self._count = self._assignment = self._begun = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (reduction.DupFd(self._descriptor),)

    def begin(self, assignment: int) -> None:
        """Begin an assignment."""
        self._assignment, self._begun = assignment, 0
        self(NO_ROW)

    def __call__(self, row: int) -> None:
        """Begin a row."""
        self._count += 1
        done = self._begun
        if row != NO_ROW:
            self._begun += 1
        os.pwrite(self._descriptor, _FORM.pack(self._count, self._assignment, row, done, self._count), 0)

    def read(self) -> Beat | None:
        """Return the last beat; None in the instant in which it is being written."""
        count, assignment, row, done, again = _FORM.unpack(os.pread(self._descriptor, _FORM.size, 0))
        return Beat(count=count, assignment=assignment, row=row, done=done) if count == again else None

    def close(self) -> None:
        """Give the place up."""
        os.close(self._descriptor)


def _received(handle: Any) -> SharedHeartbeat:
    return SharedHeartbeat(handle.detach())


def _anonymous_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("vlm-prep-heartbeat", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
