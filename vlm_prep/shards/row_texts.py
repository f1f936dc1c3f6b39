"""Columns of a store that are JSON texts: a conversation, an ingested row's media, columns for people.

A shard is somebody else's word, and what Arrow and the manifest promise of a text is that it is one. So what each says
is compared with what its readers take, once for each form that it comes in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NotRequired, TypedDict

import orjson

from vlm_prep.core.errors import StoreError
from vlm_prep.core.records import Media
from vlm_prep.core.typed_json import require_typed
from vlm_prep.shards.schema import BOXES, RESCUE

Row = Mapping[str, Any]
_MOST: Final = 1 << 40
"""Of pixels, samples and frames; a file of a year at 48 kHz has that many."""
_DEEPEST: Final = 250
"""As deep as orjson writes."""
_MOST_FORMS: Final = 1000
_forms: set[int] = set()
"""Of texts that were compared: to compare a row of two turns and a picture takes 100 µs, to know its form 10."""


class _Part(TypedDict):
    type: str
    text: NotRequired[str]


class _Function(TypedDict):
    name: str


class _Call(TypedDict):
    function: _Function


class _Message(TypedDict):
    role: str
    content: str | list[_Part]
    tool_calls: NotRequired[list[_Call] | None]
    reasoning_content: NotRequired[str | None]


class _Conversation(TypedDict):
    messages: list[_Message]
    strings: NotRequired[list[int]]
    tools: NotRequired[list[dict[str, Any]] | None]


_Shape = tuple[int, list[float]] | tuple[int, list[float], str]
_OF_PEOPLE: Final[dict[str, Any]] = {BOXES: list[_Shape], RESCUE: dict[str, tuple[float, float]]}


def conversation_of(row: Row) -> dict[str, Any]:
    """Return {messages, tools, strings} of a row.

    Raises:
        StoreError: its text is damaged.
    """
    found: dict[str, Any] = _parsed(row, "conversation", _Conversation)
    return found


def media_of(row: Row) -> list[dict[str, Any]]:
    """Return the media of a row of an ingested store as their JSON says them, with all keys that are needed.

    Raises:
        StoreError: its text is damaged.
    """
    found: list[dict[str, Any]] = _parsed(row, "media", list[Media])
    try:
        for place, item in enumerate(found):
            _check(item, f"media[{place}]")
    except ValueError as error:
        raise _damaged(row, error) from error
    return found


def must_have_labels(row: Row) -> None:
    """Make sure that a row, whoever wrote it, has a label for each of its ids.

    Raises:
        StoreError: it has not.
    """
    if len(row["input_ids"]) != len(row["labels"]):
        raise _damaged(row, ValueError(f"{len(row['input_ids'])} ids, {len(row['labels'])} labels"))


def kept_text_of(row: Row, name: str) -> Any:
    """Return what a column for people says, see `schema.BESIDE`; None where it says nothing.

    Raises:
        StoreError: its text is damaged.
    """
    return _parsed(row, name, _OF_PEOPLE.get(name, Any)) if row.get(name) else None


def _check(item: dict[str, Any], where: str) -> None:
    """Compare what types do not say."""
    if not item["uris"]:
        raise ValueError(f"{where} names no file")
    header = item.get("header")
    if header is None:
        return
    numbers = [value for value in header.values() if type(value) is int]
    if len(header.get("digests", ())) != len(item["uris"]) or not all(0 <= number <= _MOST for number in numbers):
        raise ValueError(f"{where}.header says what no file has")


def _form(value: Any, depth: int = 0) -> Any:
    """Return what decides whether a value is of a type: kinds of values, the lengths of pairs, kinds of media."""
    if depth > _DEEPEST:
        raise ValueError(f"it is nested more than {_DEEPEST} deep")
    if isinstance(value, dict):
        pairs = value.items()
        return tuple([(key, each if _names_kind(key, each) else _form(each, depth + 1)) for key, each in pairs])
    if isinstance(value, list):
        return min(len(value), 3), frozenset(_form(each, depth + 1) for each in value)
    return type(value)


def _names_kind(key: str, value: Any) -> bool:
    return key == "kind" and isinstance(value, str)


def _parsed(row: Row, name: str, kind: Any) -> Any:
    try:
        found = orjson.loads(row[name])
        form = hash((name, _form(found)))  # and not the form itself, which may be as large as the text
        if form not in _forms:
            require_typed(found, kind, name)
            if len(_forms) < _MOST_FORMS:
                _forms.add(form)
    except ValueError as error:
        raise _damaged(row, error) from error
    return found


def _damaged(row: Row, error: ValueError) -> StoreError:
    return StoreError(f"{row.get('sample_id', 'a row')} is damaged: {error}", "make the store again")
