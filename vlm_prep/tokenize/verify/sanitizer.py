"""transformers' own way of encoding control tokens of the data as text, for the real side of the comparison.

It marks them with U+F0000 and U+F0001, and deletes these from the data first. A row that holds them is marked with two
other characters here, so that the real side keeps what the row says: nothing but the marks is exchanged.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import orjson

from vlm_prep.processors import internals


@contextmanager
def sanitizer(
    tokens: tuple[str, ...], told: tuple[str, ...], calls: tuple[str, ...], messages: Any, tools: Any
) -> Iterator[tuple[list[Any], Any]]:
    """Give messages and tools as transformers' function marks them; calls of a processor in the block know its marks.

    Args:
        tokens: what is marked in any text.
        told: what is marked in results of calls, schemas and what a user says.
        calls: what is marked in calls.
        messages: of the row.
        tools: of the row.
    """
    written = orjson.dumps([messages, tools]).decode()
    start, end = _absent(written, (internals.control_token_start.get(), internals.control_token_end.get()))
    changed: Mapping[internals.Internal, Any] = {
        internals.control_token_start: start,
        internals.control_token_end: end,
        internals.unmarked: f"(?<!{start})",
        internals.marked: re.compile(f"{start}.*?{end}"),
    }
    before = {name: name.get() for name in changed}
    try:
        _set(changed)
        patterns = internals.control_token_patterns.get()
        of_text, of_told, of_calls = (patterns(each)[0] for each in (tokens, told, calls))
        mark = internals.mark_control_tokens.get()
        marked = []
        for message in messages:
            made = dict(mark(message, of_told if message["role"] in ("user", "tool") else of_text))
            if "tool_calls" in message:
                made["tool_calls"] = mark(message["tool_calls"], of_calls)
            marked.append(made)
        yield marked, mark(tools, of_told)
    finally:
        _set(before)


def _set(values: Mapping[internals.Internal, Any]) -> None:
    for name, value in values.items():
        name.set(value)
    internals.control_token_patterns.get().cache_clear()


def _absent(text: str, usual: tuple[str, str]) -> tuple[str, str]:
    if not any(mark in text for mark in usual):
        return usual
    absent = (chr(code) for code in range(0x10FFFD, 0x100000, -1) if chr(code) not in text)
    return next(absent), next(absent)
