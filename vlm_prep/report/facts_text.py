"""JSON-ready facts as text: what `--dry-run` shows without `--json`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vlm_prep.core.visible import visible

_WIDTH = 22
_MOST = 12
"""Items of a list that are written out."""


def facts_text(facts: Mapping[str, Any]) -> str:
    """Return facts as lines `name  value`, what is inside of another indented below it; what is empty is left out,
    line breaks and other control characters are written out."""
    return "\n".join(_lines(facts, ""))


def _lines(facts: Mapping[str, Any], indent: str) -> Iterator[str]:
    for name, value in facts.items():
        if value is None or value in ({}, [], ""):
            continue
        said = visible(str(name)).replace("_", " ")
        if isinstance(value, Mapping):
            yield f"{indent}{said}"
            yield from _lines(value, indent + "  ")
        elif _is_table(value):
            for number, each in enumerate(value):
                yield f"{indent}{said} {number + 1} of {len(value)}"
                yield from _lines(each, indent + "  ")
        else:
            yield f"{indent}{said:<{max(1, _WIDTH - len(indent))}} {_said(value)}"


def _is_table(value: Any) -> bool:
    return (
        isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(each, Mapping) for each in value)
    )


def _said(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        more = f", and {len(value) - _MOST:,} more" if len(value) > _MOST else ""
        return ", ".join(_said(each) for each in value[:_MOST]) + more
    return visible(str(value))
