"""Rows that are tokenized in the command's own process, to be shown or counted: within a worker's limits."""

from __future__ import annotations

import gc
from collections.abc import Iterator

from vlm_prep.core.bounds import rows_bounded
from vlm_prep.core.errors import Reject
from vlm_prep.core.records import Encoded, Rejected
from vlm_prep.engine.local import Limits
from vlm_prep.tokenize.tokenize_job import STAGE, TokenizeJob

_OF_WORKERS = Limits()
_TOGETHER = 16


def bounded_rows(job: TokenizeJob, start: int, stop: int, limits: Limits = _OF_WORKERS) -> Iterator[Encoded | Rejected]:
    """Yield the outputs of each row in [start, stop): its documents, mostly one, or its reject.

    A chat template that never ends, or fills the memory, would take the machine with it: no worker does this work that
    could be ended. A few rows are done at a time, and each by itself where they took too much.
    """
    for first in range(start, stop, _TOGETHER):
        last = min(first + _TOGETHER, stop)
        found = _within(limits, job, first, last)
        if isinstance(found, list):
            yield from found
            continue
        for row in range(first, last):
            alone = _within(limits, job, row, row + 1)
            yield from alone if isinstance(alone, list) else [job.samples.reject(row, STAGE, *alone)]


def _within(limits: Limits, job: TokenizeJob, start: int, stop: int) -> list[Encoded | Rejected] | tuple[str, str]:
    """Return the outputs of rows; (reason, message) where they took too much, with nothing left of what they took."""
    try:
        with rows_bounded(limits.sample_timeout, limits.worker_memory):
            return list(job.results(start, stop))
    except Reject as reject:
        found = reject.reason.value, reject.message
    gc.collect()
    return found
