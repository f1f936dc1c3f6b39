"""transformers' own way of encoding control tokens of the data as text, for the real side of the comparison.

It marks them with U+F0000 and U+F0001, and deletes these from the data first. A row that holds them is marked with two
other characters here, so that the real side keeps what the row says: nothing but the marks is exchanged.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import orjson


@contextmanager
def sanitizer(tokens: tuple[str, ...], messages: Any, tools: Any) -> Iterator[Callable[[Any], Any]]:
    """Give transformers' function that marks `tokens` in a row; calls of a processor in the block know its marks."""
    from transformers import processing_utils as processing
    from transformers.utils import chat_template_utils as chat

    written = orjson.dumps([messages, tools]).decode()
    start, end = _absent(written, (chat._CONTROL_TOKEN_START, chat._CONTROL_TOKEN_END))
    changed: Sequence[tuple[Any, str, Any]] = (
        (chat, "_CONTROL_TOKEN_START", start),
        (chat, "_CONTROL_TOKEN_END", end),
        (processing, "_UNMARKED", f"(?<!{start})"),
        (processing, "_MARKED_RE", re.compile(f"{start}.*?{end}")),
    )
    before = [(module, name, getattr(module, name)) for module, name, _ in changed]
    try:
        _set(chat, changed)
        pattern, _ = chat._get_control_token_patterns(tokens)
        yield lambda value: chat.mark_control_tokens(value, pattern)
    finally:
        _set(chat, before)


def _set(chat: Any, values: Sequence[tuple[Any, str, Any]]) -> None:
    for module, name, value in values:
        setattr(module, name, value)
    chat._get_control_token_patterns.cache_clear()


def _absent(text: str, usual: tuple[str, str]) -> tuple[str, str]:
    if not any(mark in text for mark in usual):
        return usual
    absent = (chr(code) for code in range(0x10FFFD, 0x100000, -1) if chr(code) not in text)
    return next(absent), next(absent)
