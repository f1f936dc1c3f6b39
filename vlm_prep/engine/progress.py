"""What the user sees while a stage runs: samples/s, tokens/s, rejects, time left. Silent when stderr is no terminal."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from tqdm import tqdm


class ProgressBar:
    """A tqdm bar over rows.

    Args:
        total: rows to do.
        label: the stage.
        show: None shows it on a terminal only.
    """

    def __init__(self, total: int, label: str, *, show: bool | None = None) -> None:
        visible = sys.stderr.isatty() if show is None else show
        self._bar = tqdm(total=total, desc=label, unit=" rows", disable=not visible, smoothing=0.1)
        self._tokens = self._rejects = 0
        self._started = time.monotonic()

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def __call__(self, rows: int, tokens: int, rejects: int) -> None:
        """Count what was done since the last call."""
        self._tokens += tokens
        self._rejects += rejects
        elapsed = max(time.monotonic() - self._started, 1e-9)
        self._bar.set_postfix_str(f"{self._tokens / elapsed:,.0f} tokens/s, {self._rejects} rejected", refresh=False)
        self._bar.update(rows)
