"""What the user sees while a stage runs: samples/s, tokens/s, rejects, time left.

On a terminal a bar, elsewhere a line each minute; beside it progress.json and events, see `engine.events`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from tqdm import tqdm

from vlm_prep.engine.events import EVERY, LINE_EVERY, Events, seconds_left, write_progress


class ProgressBar:
    """A tqdm bar over rows.

    Args:
        total: rows to do.
        label: the stage.
        show: None shows a bar on a terminal and says lines elsewhere; False shows nothing.
        say: tells the user a line.
        file: progress.json.
        events: told of progress.
    """

    def __init__(
        self,
        total: int,
        label: str,
        *,
        show: bool | None = None,
        say: Callable[[str], None] | None = None,
        file: Path | None = None,
        events: Events = Events(),  # noqa: B008 - frozen
    ) -> None:
        visible = sys.stderr.isatty() if show is None else show
        self._bar = tqdm(total=total, desc=label, unit=" rows", disable=not visible, smoothing=0.1)
        self._rows = self._tokens = self._rejects = 0
        self._total, self._label, self._file, self._events = total, label, file, events
        self._say = say if show is None and not visible else None
        self._started = time.monotonic()
        self._written = self._told = self._started
        self._tell(self._started)

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def __call__(self, rows: int, tokens: int, rejects: int) -> None:
        """Count what was done since the last call."""
        self._rows += rows
        self._tokens += tokens
        self._rejects += rejects
        now = time.monotonic()
        elapsed = max(now - self._started, 1e-9)
        self._bar.set_postfix_str(f"{self._tokens / elapsed:,.0f} tokens/s, {self._rejects} rejected", refresh=False)
        self._bar.update(rows)
        if now - self._written >= EVERY:
            self._written = now
            self._tell(now)

    def _tell(self, now: float) -> None:
        elapsed = now - self._started
        left = seconds_left(self._rows, self._total, self._started)
        facts: dict[str, Any] = {
            "stage": self._label,
            "rows": self._total,
            "rows_done": self._rows,
            "tokens": self._tokens,
            "rejected": self._rejects,
            "seconds": round(elapsed, 1),
            "seconds_left": left,
        }
        if self._file is not None:
            write_progress(self._file, facts)
        self._events("progress", **facts)
        if self._say is not None and now - self._told >= LINE_EVERY:
            self._told = now
            rest = "" if left is None else f", about {left / 60:,.0f} minutes left"
            self._say(
                f"{self._label}: {self._rows:,} of {self._total:,} rows, {self._tokens:,} tokens, "
                f"{self._rejects:,} rejected, {self._rows / max(elapsed, 1e-9):,.0f} rows/s{rest}"
            )
