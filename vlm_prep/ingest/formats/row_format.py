"""The format of one row in a file whose rows have several: conversations, and questions with answers (ms-swift).

The data set's format is that of its first row. A row without the column that it needs is read in the other form, if it
has that one's columns and the user named neither the format nor such a column: nothing else can be meant.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from vlm_prep.ingest.formats.common import Row
from vlm_prep.ingest.formats.noticed import Noticed, is_empty
from vlm_prep.ingest.spec import COLUMN_NAMES, QUERY_COLUMNS, DatasetSpec, Format

_PAIRS: Final[tuple[Mapping[str, str], ...]] = (
    {role: COLUMN_NAMES[role][0] for role in ("instruction", "output")},
    QUERY_COLUMNS,
)


def spec_of_row(row: Row, spec: DatasetSpec, noticed: Noticed) -> DatasetSpec:
    """Return how a row is read: as the data set's first, or in another form."""
    if spec.is_given_format or spec.format not in ("sharegpt", "messages", "alpaca"):
        return spec
    needed = "instruction" if spec.format == "alpaca" else "messages"
    if isinstance(first := row.get(spec.column_names(needed)[0]), list | str) and first:
        return spec  # as most are
    if any(not is_empty(row.get(name)) for name in spec.column_names(needed)):
        return spec
    found = _other(row, spec)
    if found is not spec:
        noticed.note("read_other_format")
    return found


def _other(row: Row, spec: DatasetSpec) -> DatasetSpec:
    """Return the one other way in which a row can be read; the data set's own where there is none, or are several."""
    messages = [row[name] for name in COLUMN_NAMES["messages"] if not is_empty(row.get(name))]
    pairs = [each for each in _PAIRS if all(not is_empty(row.get(name)) for name in each.values())]
    named = ("messages", *_PAIRS[0]) if messages or spec.format != "alpaca" else tuple(_PAIRS[0])
    if len(messages) + len(pairs) != 1 or not spec.given_columns.isdisjoint(named):
        return spec
    if pairs:
        return _made(spec, "alpaca", pairs[0])
    return _made(spec, "messages" if _has_parts(messages[0]) else "sharegpt", {})


def _made(spec: DatasetSpec, kind: Format, columns: Mapping[str, str]) -> DatasetSpec:
    key = kind, tuple(columns.values())
    found = spec.other_forms.get(key)
    if found is None:
        own = {role: name for role, name in spec.columns.items() if role not in ("messages", "instruction", "output")}
        found = spec.other_forms[key] = replace(spec, format=kind, columns={**own, **columns})
    return found


def _has_parts(turns: Any) -> bool:
    return isinstance(turns, list) and any(
        isinstance(turn, dict) and isinstance(turn.get("content"), list) for turn in turns
    )
