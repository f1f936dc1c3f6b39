"""What several commands do with their settings."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from vlm_prep.cli import terminal
from vlm_prep.cli.flags import with_flags
from vlm_prep.core.errors import InputError, OutputError, StoreError
from vlm_prep.core.made_here import is_ours
from vlm_prep.core.named_sources import is_placed, settled
from vlm_prep.core.run_settings import FinishConfig, RunConfig, WorkerConfig
from vlm_prep.core.settings import SourceConfig
from vlm_prep.core.stored_settings import must_name_the_hook
from vlm_prep.core.visible import visible, visible_json
from vlm_prep.engine.array_parts import parse_part
from vlm_prep.engine.events import Events, now
from vlm_prep.engine.stage import RunOptions

if TYPE_CHECKING:
    from vlm_prep.ingest.source import Samples

DEFAULT_WORKERS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
"""The processors this process may use."""


def must_differ(source: str | Path, out: Path) -> None:
    """Refuse to write into the folder that is read: `fresh` would delete it first.

    Raises:
        OutputError: they are the same folder.
    """
    if out.exists() and Path(source).exists() and out.samefile(source):
        raise OutputError(f"{out} is the source itself", "choose another `out`")


def bytes_of(text: str, name: str) -> int:
    """Read a size such as 8G, 512M or 1.5GiB.

    Raises:
        InputError: it is none.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT])(?:i?B)?", text.strip(), re.IGNORECASE)
    if found is None or float(found[1]) == 0:
        raise InputError(f"`{name}={text}`: expected a size", f"for example: `{name}=8G`")
    return int(float(found[1]) * 1024 ** ("KMGT".index(found[2].upper()) + 1))


def run_options(out: Path, run: WorkerConfig, quiet: bool) -> RunOptions:
    """Return how a stage runs.

    Raises:
        InputError: a value is not usable, or two exclude each other.
    """
    whole = run if isinstance(run, RunConfig) else RunConfig()
    if whole.part is not None and whole.fresh:
        raise InputError("`fresh` and `part`: one part would discard what the others did", f"delete {out} first")
    if whole.ray_address is not None and whole.engine != "ray":
        raise InputError("`ray_address` has no meaning without `engine=ray`")
    log = None if run.log_file is None else Log(run.log_file)
    events = Events(None if run.events is None else Path(run.events), log)
    return RunOptions(
        out=out,
        workers=run.workers or (0 if whole.ray_address else DEFAULT_WORKERS),
        engine=whole.engine,
        ray_address=whole.ray_address,
        sample_timeout=run.sample_timeout,
        worker_memory=bytes_of(run.worker_memory, "worker_memory"),
        fresh=whole.fresh,
        part=None if whole.part is None else parse_part(whole.part),
        max_reject_rate=run.max_reject_rate if isinstance(run, FinishConfig) else 1.0,
        progress=False if quiet else None,
        say=sayer(quiet, log, events),
        events=events,
    )


@dataclass(frozen=True)
class Log:
    """A file of what was said, each line with its time."""

    path: str

    def __call__(self, line: str) -> None:
        """Append a line."""
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(f"{now()} {visible(with_flags(line), lines=True)}\n")


def sayer(quiet: bool, log: Log | None = None, events: Events = Events()) -> Callable[[str], None]:  # noqa: B008
    """Return how the user is told a line; what the library logs is told the same way."""
    shown = _silent if quiet else _say

    def say(line: str) -> None:
        shown(line)
        events("note", text=line)
        if log is not None:
            log(line)

    logger = logging.getLogger("vlm_prep")
    logger.handlers = [_Said(say)]
    logger.setLevel(logging.INFO)
    return say


class _Said(logging.Handler):
    """Tells the user what is logged; each line once."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__()
        self._say = say
        self._told: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Tell a record's line, if it is new."""
        line = record.getMessage()
        if line not in self._told:
            self._told.add(line)
            self._say(line)


def _say(line: str) -> None:
    terminal.echo(with_flags(line), err=True)


def _silent(line: str) -> None:
    """--quiet: errors alone are shown."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a store's rows came from."""

    source: dict[str, Any]
    """Arguments of `ingest.source.open_samples`."""
    processor: str

    def samples(self) -> Samples:
        """Open the rows again."""
        from vlm_prep.ingest.source import open_samples

        return open_samples(**self.source)


def origin_of(
    store: Path, source: str | None, processor: str | None, trust_places: bool, row_hook: str | None = None
) -> Origin:
    """Return where a store's rows came from, or where the user says they are now.

    Raises:
        InputError: it is not known, or gone, or only the store says so and it was not made here.
    """
    from vlm_prep.shards.layout import read_origin

    return origin_in(store, read_origin(store) or {}, source, processor, trust_places, row_hook)


def origin_in(
    store: Path,
    found: dict[str, Any],
    source: str | None,
    processor: str | None,
    trust_places: bool,
    row_hook: str | None = None,
) -> Origin:
    """Return where rows came from by what a folder notes of it, and `row_hook`, which the user says may run. Raises as
    `origin_of`."""
    opened, named = found.get("source", {}), found.get("processor", "")
    known = {"path", *(each.name for each in fields(SourceConfig))}
    if not isinstance(opened, dict) or not opened.keys() <= known or not isinstance(named, str):
        raise StoreError(f"{store}: what it says of its source cannot be read", "make the store again")
    if not (trust_places or is_ours(found)):
        _must_be_said(store, opened, named, source, processor)
    must_name_the_hook("row_hook", opened.get("row_hook"), row_hook, store)
    if source:
        opened = {**opened, "path": settled(source) if is_placed(source) else os.path.abspath(source)}
    path = opened.get("path")
    if not isinstance(path, str) or not (is_placed(path) or os.path.exists(path)):
        raise InputError(f"{store}: its source is not at {path or 'a known place'}", "give `source`")
    return Origin(source=opened, processor=processor or named)


def packed_from(store: Path, found: dict[str, Any], source: str | None, trust_places: bool) -> list[str]:
    """Return the tokenized stores that packs were made of, by what their folder notes of it. Raises as `origin_of`."""
    if source:
        return [source]
    named = found.get("sources") or [found.get("source")]
    if not isinstance(named, list) or not all(isinstance(each, str) for each in named):
        raise InputError(f"{store} does not say what it was packed from", "give `source`")
    if not (trust_places or is_ours(found)):
        _must_be_said(store, {"path": ", ".join(named)}, "", None, None)
    return named


def _must_be_said(store: Path, opened: dict[str, Any], named: str, source: str | None, processor: str | None) -> None:
    """Refuse places that only a store says."""
    said = {"its rows are at": (opened.get("path"), source), "its processor is": (named, processor)}
    said["its media are at"] = (opened.get("media_dir"), None)
    places = [f"{words} {place}" for words, (place, given) in said.items() if place and not given]
    if places:
        raise InputError(
            f"{store} was not made here by you; it says that {' and '.join(places)}",
            "look at what that is: `trust_places=true` opens it; `source` and `processor` name other places",
        )


def show_json(value: Any) -> None:
    """Print a value as JSON."""
    terminal.echo_json(visible_json(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()))


def show(value: Any, text: Callable[[Any], str], as_json: bool) -> None:
    """Print a value as JSON, or as the text that is made of it."""
    if as_json:
        show_json(value)
    else:
        terminal.echo(text(value))


def show_facts(facts: Any, as_json: bool) -> None:
    """Print what would be done, as lines or as JSON."""
    from vlm_prep.report.facts_text import facts_text

    show(facts, facts_text, as_json)


def show_store(folder: str | Path, as_json: bool) -> None:
    """Print a store's statistics."""
    from vlm_prep.report import statistics as stats

    show(stats.collect(folder), stats.render, as_json)
