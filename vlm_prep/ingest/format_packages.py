"""Formats of rows from outside: an installed package adds one by an entry point, `NAME = "package.module"`.

The module (or `module:object`) has

    columns       the keys of a row that it reads; others count as unread, or reject the row if they mean something
    to_sample     (row, spec, place, noticed) → Sample, or raises Reject, as `formats.messages.to_sample`
    recognises    (row) → bool: whether a file is of it whose first row this is; without it `format=NAME` alone says so

Package, version and the digest of the module's file are in the fingerprint, and in each row's digest for updates.
Like a family from outside it is code that was installed: a meta JSON or a store may name it, and cannot bring it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final

from vlm_prep.core.errors import InputError
from vlm_prep.core.fingerprint import digest_file
from vlm_prep.core.visible import excerpt
from vlm_prep.ingest.spec import FORMATS

GROUP: Final = "vlm_prep.formats"
Row = dict[str, Any]


@dataclass(frozen=True)
class OutsideFormat:
    """A format of an installed package."""

    name: str
    package: str
    """Its name and version."""
    digest: str | None
    """Of the module's file; None where it has none."""
    columns: frozenset[str]
    to_sample: Callable[..., Any]
    recognises: Callable[[Row], object] | None

    def __str__(self) -> str:
        return f"format {self.name} of {self.package}"


def outside_names() -> tuple[str, ...]:
    """Return the names of the formats that installed packages add.

    Raises:
        InputError: a name is one of ours, or that of two packages.
    """
    return tuple(_points(tuple(sys.path)))


def outside_format(name: str) -> OutsideFormat:
    """Return a package's format.

    Raises:
        InputError: it is not installed, does not load, or lacks what a format has.
    """
    return _loaded(name, tuple(sys.path))


def recognised(row: Row, file_name: str) -> str | None:
    """Return the name of the one format from outside that says a file's first row is its own; None where none does.

    Raises:
        InputError: several do, one fails, or one does not load.
    """
    found = []
    for each in map(outside_format, outside_names()):
        try:
            if each.recognises is not None and each.recognises(row):
                found.append(each)
        except Exception as error:  # whatever a package's code raises
            raise InputError(
                f"{each} fails at the first row of {file_name}: {type(error).__name__}: {excerpt(str(error))}",
                f"Name the format of the rows (`format`), or repair or uninstall {each.package}.",
            ) from error
    if len(found) > 1:
        both = " and ".join(map(str, found))
        raise InputError(
            f"{file_name}: {both} each take its rows for their own", f"Say which: `format={found[0].name}`."
        )
    return found[0].name if found else None


@lru_cache(maxsize=8)
def _points(places: tuple[str, ...]) -> dict[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=GROUP):
        other = found.get(point.name)
        if point.name in FORMATS or other is not None:
            whose = "vlm-prep itself" if other is None else _package(other)
            raise InputError(
                f"{_package(point)} adds a format {point.name}, which {whose} has, too",
                f"Uninstall {_package(point)}, or give its format another name.",
            )
        found[point.name] = point
    return found


def _package(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else point.value


@lru_cache(maxsize=32)
def _loaded(name: str, places: tuple[str, ...]) -> OutsideFormat:
    point = _points(places).get(name)
    if point is None:
        raise InputError(f"format {name} is not installed here", "Install the package that adds it.")
    package = _package(point)
    try:
        found = point.load()
        found = found() if isinstance(found, type) else found
        columns, to_sample = found.columns, found.to_sample
        recognises = getattr(found, "recognises", None)
    except Exception as error:  # whatever an import of someone else's code raises
        raise InputError(
            f"format {name} of {package} does not load: {type(error).__name__}: {excerpt(str(error))}",
            f"Repair or uninstall {package}.",
        ) from error
    is_whole = (
        isinstance(columns, Collection)
        and not isinstance(columns, str)
        and all(isinstance(each, str) for each in columns)
        and callable(to_sample)
        and (recognises is None or callable(recognises))
    )
    if not is_whole:
        raise InputError(
            f"format {name} of {package} is none: columns is {excerpt(columns)}, to_sample {excerpt(to_sample)}, "
            f"recognises {excerpt(recognises)}",
            "Columns are names; the others are functions; see docs/sources.md.",
        )
    file = getattr(sys.modules[point.module], "__file__", None)
    digest = digest_file(file) if file and os.path.isfile(file) else None
    return OutsideFormat(name, package, digest, frozenset(columns), to_sample, recognises)
