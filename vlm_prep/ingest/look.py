"""A look at data of which nothing is known yet: what `vlm-prep init` writes down.

What a file says by itself (format, columns, kinds of media) is found by the same code that will read it. Where media
lie is tried: the folder near the data in which most of the first rows' files are.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Final

from vlm_prep.core.errors import InputError
from vlm_prep.core.named_sources import is_placed
from vlm_prep.core.records import Sample
from vlm_prep.ingest.detect import head_objects
from vlm_prep.ingest.mapping.proposal import proposed
from vlm_prep.ingest.meta import load_source
from vlm_prep.ingest.presets.preset import PRESET, told_by_columns
from vlm_prep.ingest.source import Samples, open_samples
from vlm_prep.media.text_files import plain_name

ROWS: Final = 256
_DATA_ENDS: Final = (".jsonl", ".ndjson", ".json", ".parquet", ".arrow", ".csv", ".tsv")
_MOST_FOLDERS: Final = 200
_MOST_READ: Final = 16
"""Files of a folder that are looked into for the one that is known."""


@dataclass
class Look:
    """What was seen of a source."""

    source: str
    """The data that was looked at: what was given, or a file in that folder; by a preset where its columns tell one."""
    how: dict[str, str] = field(default_factory=dict)
    """What was said of how it is read."""
    others: list[str] = field(default_factory=list)
    """Other data files of the folder."""
    datasets: list[dict[str, Any]] = field(default_factory=list)
    """See `Samples.describe`."""
    rows: int = 0
    seen: int = 0
    """Rows of the beginning that were read."""
    kinds: Counter[str] = field(default_factory=Counter)
    """Media of the rows that were read, by kind."""
    rejects: Counter[str] = field(default_factory=Counter)
    missing: int = 0
    """Media files that are not where the rows say."""
    media_dir: str | None = None
    """Another folder in which they are, None where they need none or none was found."""
    there: int = 0
    """How many of the missing files are in it."""
    reasoning: int = 0
    """Rows with reasoning."""
    tools: int = 0
    """Rows with tools."""
    preset: str | None = None
    """The preset that its columns tell, where none was given."""
    mapping: dict[str, Any] | None = None
    """A guess at what the columns of a table are, where its rows are no conversations."""


def look(source: str, *, subset: str | None = None, split: str | None = None) -> Look:
    """Look at a data file, a folder, a set of the hub, or a meta JSON.

    Args:
        source: what it is.
        subset: its configuration, where it has several.
        split: the split to look at.

    Raises:
        InputError: there is no data in it.
    """
    how = {name: value for name, value in (("subset", subset), ("split", split)) if value is not None}
    data, others = _data_of(source, how)
    chosen, samples, mapping = _opened(data, how)
    seen = min(ROWS, len(samples))
    found = Look(chosen, how, others, samples.describe(), len(samples), seen, mapping=mapping)
    if chosen != data:
        found.preset = chosen.removeprefix(PRESET).partition("=")[0]
    missing: list[str] = []
    for each in samples.read(0, found.seen):
        if not isinstance(each, Sample):
            found.rejects[each.reason] += 1
            continue
        found.kinds.update(media.kind for media in each.media)
        found.tools += bool(each.tools)
        found.reasoning += any(_thinks(message) for message in each.messages)
        uris = chain.from_iterable(media.uris for media in each.media)
        missing += [uri for uri in uris if uri.startswith("/") and "::" not in uri and not os.path.exists(uri)]
    found.missing = len(missing)
    if missing and len(found.datasets) == 1:
        found.media_dir, found.there = _folder_of(missing, Path(data))
    return found


def _opened(source: str, how: dict[str, str]) -> tuple[str, Samples, dict[str, Any] | None]:
    """Open a source; where its rows are no conversations by the preset that they tell, or with a proposed mapping."""
    try:
        return source, _open(source, how), None
    except InputError as error:
        try:
            row = _first_row(source, how)
            preset = None if row is None or source.startswith(PRESET) else told_by_columns(row)
            if preset is not None:
                named = f"{PRESET}{preset}={source}"
                return named, _open(named, how), None
            mapping = None if row is None else proposed(row)
            if mapping is not None:
                return source, _open(source, how, mapping), mapping
        except InputError:
            raise error from None  # it says more of the source than what a guess gave
        raise


def _open(source: str, how: dict[str, str], mapping: dict[str, Any] | None = None) -> Samples:
    return open_samples(source, mapping=mapping, subset=how.get("subset"), split=how.get("split"))


def _first_row(source: str, how: dict[str, str]) -> dict[str, Any] | None:
    specs = load_source(source, subset=how.get("subset"), split=how.get("split"))
    return next(iter(head_objects(specs[0])), None) if len(specs) == 1 else None


def _is_told(file: Path) -> bool:
    """Whether a preset is told by the columns of a file."""
    try:
        row = _first_row(str(file), {})
    except InputError:
        return False
    return row is not None and told_by_columns(row) is not None


def _data_of(source: str, how: dict[str, str]) -> tuple[str, list[str]]:
    """Return the data to look at, and other data beside it."""
    if is_placed(source) or not os.path.isdir(source):
        return source, []
    try:
        _opened(source, how)
    except InputError as error:
        files = sorted(path for path in Path(source).iterdir() if _is_data(path))
        if how or (not files and any(Path(source).rglob("*.parquet"))):
            raise  # it is a data set, and says what it needs to know
        if not files:
            raise InputError(f"{source}: no data files here ({error.message})", error.hint) from error
        files.sort(key=lambda path: -path.stat().st_size)
        files[:_MOST_READ] = sorted(files[:_MOST_READ], key=lambda path: not _is_told(path))
        return str(files[0]), [str(path) for path in files[1:]]
    return source, []


def _is_data(path: Path) -> bool:
    return plain_name(path).lower().endswith(_DATA_ENDS) and path.is_file()


def _thinks(message: Any) -> bool:
    content = message.get("content")
    parts = [content] if isinstance(content, str) else [part.get("text") for part in content or ()]
    return bool(message.get("reasoning_content")) or any(
        isinstance(text, str) and text.lstrip().startswith("<think>") for text in parts
    )


def _folder_of(missing: Sequence[str], data: Path) -> tuple[str | None, int]:
    """Return the folder in which most of the missing files are, and how many."""
    beside = data if data.is_dir() else data.parent
    names = [os.path.relpath(uri, beside) for uri in missing]
    best: tuple[str | None, int] = (None, 0)
    for folder in _folders_near(beside):
        there = sum(os.path.exists(folder / name) for name in names)
        if there > best[1]:
            best = str(folder), there
    return best


def _folders_near(folder: Path) -> Iterable[Path]:
    """Yield the folders around one, nearest first."""
    yield folder
    near: list[Path] = []
    for each in (folder, folder.parent):
        near += _inside(each)
    yield from near[:_MOST_FOLDERS]
    yield folder.parent
    for each in near[:_MOST_FOLDERS]:
        yield from list(_inside(each))[:_MOST_FOLDERS]


def _inside(folder: Path) -> Iterator[Path]:
    try:
        yield from sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError:
        return  # one that may not be listed holds nothing that could be read
