"""Keys in other letter case, or with blanks around them ("Messages", "Image ", "ROLE"), under their usual names.

A key that is known in small letters alone can mean only that; left as it is, a picture, a system prompt or a mask would
be counted as unread and the row written without it. What the user names is what it is in the source.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any, Final

from vlm_prep.ingest.formats.common import REASONING_KEYS, TRAINING_KEYS
from vlm_prep.ingest.formats.noticed import (
    MESSAGE_KEYS_WITH_MEANING,
    ROW_KEYS_WITH_MEANING,
    SEGMENT_KEYS_WITH_MEANING,
)
from vlm_prep.ingest.spec import COLUMN_NAMES, MEDIA_COLUMN_ALIASES, QUERY_COLUMNS, DatasetSpec

_ROW_KEYS: Final = frozenset(
    name
    for names in (
        *(names for role, names in COLUMN_NAMES.items() if role not in ("id", "text")),  # words of many tables
        *MEDIA_COLUMN_ALIASES.values(),
        QUERY_COLUMNS.values(),
        ROW_KEYS_WITH_MEANING,
        SEGMENT_KEYS_WITH_MEANING,
        ("duration", "mask_history"),
    )
    for name in names
)
_MESSAGE_KEYS: Final = frozenset(
    (
        *("role", "from", "content", "value", "tool_calls", "function_call", "tool_call_id"),
        *(*REASONING_KEYS, *TRAINING_KEYS, *MESSAGE_KEYS_WITH_MEANING),
    )
)
KEY_CASE: Final = "read_key_case"


def row_of_usual_case(row: dict[str, Any], spec: DatasetSpec) -> dict[str, Any]:
    """Return a row with its columns of other letter case under their usual names; the row itself where it has none."""
    if _is_usual(row) or spec.format == "mapping":
        return row
    known = _ROW_KEYS.union(COLUMN_NAMES["text"]) if spec.format in (None, "asr") else _ROW_KEYS
    return _renamed(row, known, {*spec.columns.values(), *spec.keep_columns, *spec.ignore_keys})


def of_usual_case(item: dict[str, Any], known: frozenset[str]) -> dict[str, Any]:
    """Return a part of a message or an entry of a media column likewise; `known` are the keys that are read."""
    return item if _is_usual(item) else _renamed(item, known, ())


def message_of_usual_case(turn: dict[str, Any], own: Container[str]) -> dict[str, Any]:
    """Return a message likewise; `own` are keys that are read as they are."""
    return turn if _is_usual(turn) else _renamed(turn, _MESSAGE_KEYS, own)


def _is_usual(item: Mapping[str, Any]) -> bool:
    names = "".join(map(str, item))
    return names == names.lower() and " " not in names


def _renamed(item: dict[str, Any], known: frozenset[str], own: Container[str]) -> dict[str, Any]:
    usual = {
        key: name for key in item if key not in own and (name := str(key).strip().lower()) != key and name in known
    }
    if not usual or len({*usual.values(), *(item.keys() - usual.keys())}) < len(item):  # none, or one stands twice
        return item
    return {usual.get(key, key): value for key, value in item.items()}
