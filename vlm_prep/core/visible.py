r"""Text of data, made safe to show: what a terminal or a page would act on is written out instead.

Escape sequences, carriage returns and backspaces overwrite what stands before them; marks of direction reorder it.
Everything that comes from data, paths or stores goes through `visible` before it is shown: `labels` must not be made to
show another mask than the one it has.

    C0, DEL, C1                        \x1b  \r  \x9b
    marks of direction, line breaks
    that only some programs break at   \u202e  \u2066  \u2028
    halves of surrogate pairs          \ud83d
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

_HIDDEN: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
_NAMED: Final = {"\r": "\\r", "\n": "\\n", "\t": "\\t"}
_SHOWN: Final = 80


def visible(text: str, *, lines: bool = False) -> str:
    """Return `text` with control characters and marks of direction written out.

    Args:
        text: any text.
        lines: leave line feeds and tabs as they are, for text of several lines.
    """
    return _HIDDEN.sub(lambda found: found[0] if lines and found[0] in "\n\t" else _escape(found[0]), text)


def _escape(character: str) -> str:
    code = ord(character)
    if code < 0x100:
        return _NAMED.get(character, f"\\x{code:02x}")
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def visible_json(text: str) -> str:
    """Return JSON text with the same characters as JSON escapes: the value stays what it is."""
    return _HIDDEN.sub(lambda found: found[0] if found[0] in "\n\t" else json.dumps(found[0])[1:-1], text)


def excerpt(value: Any, limit: int = _SHOWN) -> str:
    """Return a value of data as a message quotes it: short, one line, nothing hidden, the same in every process."""
    if isinstance(value, str):
        text = value if len(value) <= limit else value[:limit]
        quoted = "'" + visible(text).replace("'", "\\'") + "'"
        return quoted if text is value else f"{quoted}... ({len(value):,} characters)"
    text = visible(_plain(value, limit))
    return text if len(text) <= limit else text[:limit] + "..."


def _plain(value: Any, limit: int) -> str:
    """Write a value as JSON as far as it is shown; what is no JSON by the name of its type."""
    if isinstance(value, dict):
        pieces, size = [], 0
        for key, each in value.items():
            pieces.append(f"{json.dumps(str(key)[:limit], ensure_ascii=False)}: {_plain(each, limit)}")
            size += len(pieces[-1])
            if size > limit:
                break
        return "{" + ", ".join(pieces) + "}"
    if isinstance(value, list | tuple):
        pieces, size = [], 0
        for each in value:
            pieces.append(_plain(each, limit))
            size += len(pieces[-1])
            if size > limit:
                break
        return "[" + ", ".join(pieces) + "]"
    if isinstance(value, str):
        return json.dumps(value[: limit + 1], ensure_ascii=False)
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return repr(value) if isinstance(value, int | float) else f"<{getattr(value, 'shown_as', type(value).__name__)}>"
