"""What is set for a whole process: for the command's and the workers', never for one that imports vlm_prep."""

from __future__ import annotations

import ctypes
import logging
import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from vlm_prep.core.visible import visible

ENVIRONMENT = {"TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error"}
"""Of our own processes: the parallelism is in the workers, and what libraries say would bury our own words."""


def make_own() -> None:
    """Set up a process that is ours: the command, or a worker."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # what libraries say of a processor or a file quotes them
    logging.setLogRecordFactory(_ShownRecord)
    warnings.formatwarning = _shown_warning
    # pictures are held to `max_image_pixels` by their headers, with a reject (Image size exceeds limit), and what is
    # damaged beside their pixels changes nothing (Corrupt EXIF data); no warning names the file
    warnings.filterwarnings("ignore", module=r"PIL\.")


class _ShownRecord(logging.LogRecord):
    """A message of any library, with its controls made visible."""

    def getMessage(self) -> str:  # noqa: N802
        return visible(super().getMessage(), lines=True)


_warning: Final = warnings.formatwarning


def _shown_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    return visible(_warning(message, category, filename, lineno, line), lines=True)


@contextmanager
def without_main() -> Iterator[None]:
    """Start processes that do not run the main module again, as multiprocessing has them do for classes that may be
    defined there: none of ours is, and a user's script that calls us without `if __name__ == "__main__"` would start
    itself in each worker."""
    main = vars(sys.modules["__main__"])
    spec, file = main.get("__spec__"), main.pop("__file__", None)
    main["__spec__"] = None
    try:
        yield
    finally:
        main["__spec__"] = spec
        if file is not None:
            main["__file__"] = file


def end_with_parent() -> None:
    """Have the kernel end this process when the one that started it ends, however that is: what lives on would wait
    for work for ever, with all its memory."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    started_by = multiprocessing.parent_process()
    if started_by is not None and not started_by.is_alive():
        os._exit(1)  # it was killed before the line above


_PR_SET_PDEATHSIG: Final = 1
_threads: int | None = None
"""How many threads torch had before `one_thread`."""


def one_thread() -> None:
    """Have torch work in one thread, as it does in a worker: sums in one order, and no threads beside processes."""
    import torch

    global _threads
    _threads = torch.get_num_threads() if _threads is None else _threads
    torch.set_num_threads(1)


@contextmanager
def as_before() -> Iterator[None]:
    """Give torch its threads back afterwards."""
    global _threads
    try:
        yield
    finally:
        if _threads is not None:
            import torch

            torch.set_num_threads(_threads)
            _threads = None
