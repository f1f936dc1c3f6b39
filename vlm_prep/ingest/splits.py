"""Splits as `datasets` writes them (`train[:1000]`, `train[10%:20%]+test`) → files, and ranges of their rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vlm_prep.core.errors import InputError
from vlm_prep.ingest.spec import did_you_mean

DEFAULT_SPLIT: Final = "train"
ALL: Final = "all"
"""Means every split, one after the other, where none has this name."""


@dataclass(frozen=True, slots=True)
class Tables:
    """The files of a split, or of several."""

    split: str | None = None
    """What was asked for, or chosen."""
    files: tuple[Path, ...] = ()
    rows: tuple[tuple[int, int], ...] = ()
    """Ranges of the rows of all files together, in the order in which they are read; empty for all of them."""


def tables_of(
    where: str | Path,
    split: str | None,
    names: Sequence[str],
    files: Callable[[str], Sequence[Path]],
    count: Callable[[str], int],
) -> Tables:
    """Return the tables of a split or of an expression of several.

    Args:
        where: what messages begin with.
        split: what is asked for; None takes `train`, or the only one there is.
        names: the splits there are.
        files: the files of a split.
        count: the rows of a split.

    Raises:
        InputError: there is no such split, or the expression is none.
    """
    wanted = split or (names[0] if len(names) == 1 else DEFAULT_SPLIT)
    if wanted in names:
        return Tables(wanted, tuple(files(wanted)))
    if split is None or (split != ALL and not set("[+") & set(split)):
        raise no_split(where, names, split)
    counts = {name: count(name) for name in names}
    parts = _parts(where, "+".join(names) if split == ALL else split, counts)
    if not any(start < stop for _, start, stop in parts):
        held = ", ".join(f"{name} {number:,}" for name, number in counts.items())
        raise InputError(f"{where}: split {split!r} has no rows", f"Rows there are: {held}.")
    starts: dict[str, int] = {}
    found: list[Path] = []
    for name in dict.fromkeys(name for name, _, _ in parts):
        starts[name] = sum(map(counts.__getitem__, starts))
        found += files(name)
    rows = tuple((starts[name] + start, starts[name] + stop) for name, start, stop in parts)
    return Tables(split, tuple(found), rows)


def _parts(where: str | Path, split: str, counts: Mapping[str, int]) -> list[tuple[str, int, int]]:
    import datasets

    for name in (each.partition("[")[0].strip() for each in split.split("+")):
        if name not in counts:
            raise no_split(where, list(counts), name)
    try:
        found = datasets.ReadInstruction.from_spec(split).to_absolute(dict(counts))
    except (ValueError, AssertionError) as error:
        raise InputError(
            f"{where}: split {split!r}: {' '.join(str(error).split())}",
            "For example: train[:1000], train[10%:20%]+test.",
        ) from error
    return [(each.splitname, each.from_ or 0, counts[each.splitname] if each.to is None else each.to) for each in found]


def no_split(where: str | Path, names: Sequence[str], split: str | None) -> InputError:
    """Return what is raised where a split is not there."""
    if split is None:
        what, near = f"has several splits and none is called {DEFAULT_SPLIT!r}", ""
    else:
        what, near = f"has no split {split!r}", did_you_mean(split, names)
    hint = f"It has: {', '.join(names)}. Name one with `split`, or with split in a meta JSON.{near}"
    return InputError(f"{where}: {what}", hint)
