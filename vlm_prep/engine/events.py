"""What a run tells of itself beside its words: events for dashboards, progress.json for `vlm-prep status`.

    OUT/_work/progress.json    written every few seconds while a stage runs, gone when it is finished
    EVENTS.jsonl               one object a line, appended: start, progress, reject, note, end; each with its time

Nothing of it is read by a run, so it may be incomplete after a kill.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from vlm_prep.core.visible import visible_json
from vlm_prep.engine.lock import this_process

EVERY = 2.0
"""Seconds between two writings of progress.json."""
LINE_EVERY = 60.0
"""Seconds between two lines of progress where there is no terminal."""


def now() -> str:
    """Return the time in UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@dataclass(frozen=True)
class Events:
    """A file of events, and a log that is told when a stage begins and how it ends; without them nobody is."""

    path: Path | None = None
    log: Callable[[str], None] | None = None

    def __call__(self, event: str, **facts: Any) -> None:
        """Append one event."""
        if self.log is not None and event in ("start", "end"):
            known = {name: value for name, value in facts.items() if name != "stage" and value not in (None, {})}
            said = ", ".join(f"{name} {_said(value)}" for name, value in known.items())
            self.log(f"{facts['stage']} {'begins' if event == 'start' else 'ends'}: {said}")
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # not orjson: names of files may hold what is no UTF-8
        told = json.dumps({"time": now(), "event": event, **facts}, ensure_ascii=False, separators=(",", ":"))
        with open(self.path, "ab") as file:  # one write, so that several runs may share the file
            file.write(visible_json(told).encode() + b"\n")


_TOTALS = ("rows_in", "rows_written", "rows_rejected", "tokens", "rejects")
"""Of a manifest, those that are told at the end."""


@contextmanager
def from_start_to_end(events: Events, stage: str, out: Path, tasks: int) -> Iterator[dict[str, Any]]:
    """Tell that a stage begins, and how it ends: by an error, or with the totals that are put into what this yields."""
    events("start", stage=stage, out=str(out), tasks=tasks)
    totals: dict[str, Any] = {}
    try:
        yield totals
    except BaseException as error:
        events("end", stage=stage, error=str(error) or type(error).__name__)
        raise
    events("end", stage=stage, error=None, **{name: totals.get(name) for name in _TOTALS if totals})


def _said(value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(f"{each} {_said(count)}" for each, count in value.items())
    return f"{value:,}" if isinstance(value, int) else str(value)


def write_progress(path: Path, facts: Mapping[str, Any]) -> None:
    """Write progress.json; a reader sees all of it or the one before."""
    mine = {**this_process(), "updated": now()}
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(orjson.dumps({**facts, **mine}, option=orjson.OPT_INDENT_2) + b"\n")
    os.replace(temporary, path)


def seconds_left(done: int, total: int, started: float) -> float | None:
    """Return the seconds that the rest will take at the rate so far; None while nothing is done."""
    return None if not done else round((total - done) * (time.monotonic() - started) / done, 1)
