"""Marks around the texts of a conversation, which show where a chat template put them.

Private-use characters that name a text go before and after it; after rendering they are read off again. Used by
`template.py` alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vlm_prep.core.types import Message

Area = tuple[int, re.Pattern[str]]
AREAS: tuple[Area, ...] = (
    (0xF0000, re.compile("[\U000f0000-\U000ffffd]")),
    (0x100000, re.compile("[\U00100000-\U0010fffd]")),
)
"""Supplementary private use areas A and B: 65534 code points each, two for each text part. The second is for rows that
hold some of the first, as those do whose control tokens transformers has marked."""
MOST_PARTS = 0xFFFE // 2
Part = tuple[int, str]
"""Message index and text of a text part."""


@dataclass(frozen=True, slots=True)
class TextPlace:
    """Where one text part landed in the rendered text."""

    message: int
    start: int
    end: int
    """Characters, half open."""


def mark(messages: Sequence[Message], first: int) -> tuple[list[Message], list[Part]]:
    """Return the messages with every text part between its two marks, and the parts in order."""
    parts: list[Part] = []

    def wrap(text: str, index: int) -> str:
        code = first + 2 * min(len(parts), MOST_PARTS - 1)
        parts.append((index, text))
        return f"{chr(code)}{text}{chr(code + 1)}"

    marked: list[Message] = []
    for index, message in enumerate(messages):
        content = message["content"]
        if isinstance(content, str):
            new: Any = wrap(content, index)
        else:
            new = [{**part, "text": wrap(part["text"], index)} if "text" in part else part for part in content]
        marked.append({**message, "content": new})
    return marked, parts


def read_marks(text: str, parts: Sequence[Part], area: Area) -> tuple[str, list[TextPlace], set[int]]:
    """Return the text without marks, a place for each part found, and the numbers of the parts found.

    A template that takes a text apart (at `</think>`) and puts it together again may lose the first of its marks; then
    the text itself must end at the other.
    """
    pieces: list[str] = []
    marks: list[tuple[int, int, int]] = []
    length = last = 0
    for match in area[1].finditer(text):
        piece = text[last : match.start()]
        pieces.append(piece)
        length += len(piece)
        last = match.end()
        number, closing = divmod(ord(match.group()) - area[0], 2)
        marks.append((number, closing, length))
    plain = "".join([*pieces, text[last:]])
    places: list[TextPlace] = []
    seen: set[int] = set()
    opened: dict[int, int] = {}
    for number, closing, position in marks:
        index, part = parts[number]
        if not closing:
            opened[number] = position
            continue
        start = opened.pop(number, None)
        if start is None and part and plain.endswith(part, 0, position):
            start = position - len(part)
        if start is not None:
            places.append(TextPlace(index, start, position))
            seen.add(number)
    return plain, places, seen
