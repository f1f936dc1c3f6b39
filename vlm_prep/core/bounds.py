"""Limits of time and memory for what others wrote and this process runs or unpacks itself, before any worker has a row.

A chat template that is tried out may loop for ever; a table of 800 bytes may hold a text of a megabyte 40,000 times.
Workers have limits of their own.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from vlm_prep.core.errors import ProcessorError, Reject, RejectReason

SECONDS = 20.0
"""Of this process's own work, so that a process that was stopped, or waits for a busy machine, is not at fault."""
MORE_BYTES = 1 << 30
"""Beyond what the process has already."""
TABLE_BYTES = 6 << 30
"""The same for decoding a batch of a table; one of 16 MiB is asked for, and the least that can be decoded is a page."""

MOST_TIMES = 200
_ANYWAY = 1 << 30


def most_unpacked(size: int) -> int:
    """Return what `size` bytes of somebody else's may become where they are unpacked: 200 times as many, or 1 GiB.

    Conversations become 3 to 20 times as large, a bomb of zeros 1,000 (gzip) to 700,000 times (bz2).
    """
    return max(_ANYWAY, MOST_TIMES * size)


class _OutOfTime(BaseException):
    """No Exception: what a template raises is caught and becomes a row's reject."""


@contextmanager
def bounded(what: str, seconds: float = SECONDS, more_bytes: int = MORE_BYTES) -> Iterator[None]:
    """Stop what the block does after some time, or when it takes too much memory.

    Time stops the main thread alone, memory is limited on Linux alone.

    Raises:
        ProcessorError: it was stopped.
    """
    hint = "a conversation of two short turns should take neither; look for endless loops in it"
    try:
        with _within(seconds, more_bytes):
            yield
    except _OutOfTime:
        raise ProcessorError(f"{what} was not done after {seconds:g} seconds of work", hint) from None
    except (MemoryError, OverflowError) as error:
        raise ProcessorError(f"{what} took more than {more_bytes >> 20} MiB of memory", hint) from error


@contextmanager
def rows_bounded(seconds: float, more_bytes: int) -> Iterator[None]:
    """Hold what is done of rows in this process to what a worker may take for one.

    Time stops the main thread alone, memory is limited on Linux alone.

    Raises:
        Reject: timeout, out_of_memory.
    """
    try:
        with _within(seconds, more_bytes):
            yield
    except _OutOfTime:
        raise Reject(RejectReason.TIMEOUT, f"was worked on for longer than {seconds:g} s") from None
    except MemoryError as error:
        raise Reject(RejectReason.OUT_OF_MEMORY, f"needs more than {more_bytes >> 20} MiB of memory") from error


@contextmanager
def _within(seconds: float, more_bytes: int) -> Iterator[None]:
    """Raise `_OutOfTime` in the block after some time, or MemoryError once it takes too much."""
    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGPROF, _stop) if main else None
    try:
        if main:
            signal.setitimer(signal.ITIMER_PROF, seconds)
        with at_most(more_bytes):
            yield
    finally:
        if main:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.signal(signal.SIGPROF, before)


def _stop(number: int, frame: FrameType | None) -> None:
    raise _OutOfTime


@contextmanager
def unpacking(size: int) -> Iterator[None]:
    """Let what a table of `size` bytes becomes in the block take 200 times as much, or 6 GiB.

    Raises:
        ValueError: it takes more.
    """
    most = max(TABLE_BYTES, MOST_TIMES * size)
    try:
        with at_most(most):
            yield
    except MemoryError as error:
        raise ValueError(f"its rows take more than {most >> 30} GiB of memory") from error


_lock = threading.Lock()
_inside: list[tuple[int, int]] = []
"""The limit that holds outside of the blocks that are being run, once for each."""


@contextmanager
def at_most(more_bytes: int = TABLE_BYTES) -> Iterator[None]:
    """Let allocations in the block fail beyond `more_bytes` more than the process has; on Linux alone. Blocks of other
    threads in the meantime go by the first one's limit.

    Raises:
        MemoryError: one failed (of Arrow its subclass), if the block lets it through.
    """
    if sys.platform != "linux":
        yield
        return
    import resource

    with _lock:
        before = _inside[0] if _inside else resource.getrlimit(resource.RLIMIT_DATA)
        if not _inside:
            with open("/proc/self/statm", encoding="ascii") as file:
                most = int(file.read().split()[5]) * resource.getpagesize() + more_bytes
            soft = most if before[0] == resource.RLIM_INFINITY else min(most, before[0])
            resource.setrlimit(resource.RLIMIT_DATA, (soft, before[1]))
        _inside.append(before)
    try:
        yield
    finally:
        with _lock:
            if _inside:
                _inside.pop()
            if not _inside:
                resource.setrlimit(resource.RLIMIT_DATA, before)


def _begin_anew() -> None:
    """In a child of a fork no other thread goes on, nor is the lock anybody's."""
    global _lock
    _lock = threading.Lock()
    if _inside:
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, _inside[0])
        _inside.clear()


os.register_at_fork(after_in_child=_begin_anew)
