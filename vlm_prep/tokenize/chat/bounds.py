"""Limits of time and memory while a chat template is tried out: one may loop for ever or fill the memory.

Rows are rendered by workers under the limits of rows; this is for the conversations that tell what a template does,
before any row.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from vlm_prep.core.errors import ProcessorError

SECONDS = 20.0
"""Of this process's own work, so that a process that was stopped, or waits for a busy machine, is not at fault."""
MORE_BYTES = 1 << 30
"""Beyond what the process has mapped already."""


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
    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGPROF, _stop) if main else None
    try:
        if main:
            signal.setitimer(signal.ITIMER_PROF, seconds)
        with _at_most(more_bytes):
            yield
    except _OutOfTime:
        raise ProcessorError(f"{what} was not done after {seconds:g} seconds of work", hint) from None
    except (MemoryError, OverflowError) as error:
        raise ProcessorError(f"{what} took more than {more_bytes >> 20} MiB of memory", hint) from error
    finally:
        if main:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.signal(signal.SIGPROF, before)


def _stop(number: int, frame: FrameType | None) -> None:
    raise _OutOfTime


@contextmanager
def _at_most(more_bytes: int) -> Iterator[None]:
    if sys.platform != "linux":
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm", encoding="ascii") as file:
        most = int(file.read().split()[0]) * resource.getpagesize() + more_bytes
    if soft != resource.RLIM_INFINITY:
        most = min(most, soft)
    resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
