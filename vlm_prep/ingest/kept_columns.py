"""What travels with a row from its data file to shards, rejects and pages: its own id, and columns asked for.

    {"id": "coco/17", "score": 0.5}    JSON text, in the order of `DatasetSpec.kept`

It is for people and for filters; nothing of it shapes ids, labels or media.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from vlm_prep.core.visible import excerpt
from vlm_prep.ingest.spec import DatasetSpec

_MOST: Final = 1 << 20
"""Bytes of a value; a larger one is kept as its beginning."""


def kept_of(value: object, spec: DatasetSpec) -> str:
    """Return the kept columns of a parsed row as JSON text; empty where it has none."""
    if not spec.kept or not isinstance(value, dict):
        return ""
    found = {name: value[name] for name in spec.kept if name in value}
    return _json(found) if found else ""


def _json(found: Mapping[str, Any]) -> str:
    return orjson.dumps({name: _storable(value) for name, value in found.items()}).decode()


def _storable(value: Any) -> Any:
    """Return a value, or where it is no JSON (bytes, half a surrogate pair) or too large what a message would quote."""
    try:
        written = orjson.dumps(value)
    except (TypeError, ValueError, RecursionError):
        return excerpt(value)
    return orjson.loads(written) if len(written) <= _MOST else excerpt(value)


def left_unread(unread: Mapping[str, Any], spec: DatasetSpec) -> dict[str, Any]:
    """Return the keys that nobody reads without those that are kept."""
    kept = {f"row.{name}" for name in spec.kept}
    return {place: value for place, value in unread.items() if place not in kept}
