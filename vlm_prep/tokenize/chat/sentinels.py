"""Sentinels around the texts of a conversation, which show where a chat template put them.

Private-use characters that name a text go before and after it; after rendering they are read off again. Used by
`template.py` alone. Marked are the texts of all messages, the reasoning of assistant messages, and the names of the
functions they call.

A template that trims what it is given trims nothing between sentinels. So there is a second way to mark: inside the
blanks at a text's edges. What became of the blanks follows from a third render, without them: a blank that was kept
makes the distance to the next text longer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

from vlm_prep.core.records import Message

_AREAS = ((0xF0000, 0xFFFFD), (0x100000, 0x10FFFD))
"""Supplementary private use areas A and B. Rows use them too (icon fonts): sentinels are those a row does not hold."""
_PRIVATE = re.compile("[\U000f0000-\U000ffffd\U00100000-\U0010fffd]")
Area = tuple[int, re.Pattern[str]]
"""The first of the sentinels' code points, and what finds a mark."""
Kind = Literal["text", "reasoning", "call"]
CallKey = Literal["name", "id"]
"""Which of a call's keys a template writes its function's name from: Kimi's write ids such as `functions.zoom:0`."""
Edges = Literal["outside", "inside", "without"]
"""Where sentinels stand to the blanks at a text's edges: around, between them and the rest, or those are left out."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One text of the data that a template writes out."""

    message: int
    kind: Kind
    part: int
    """Its place in the content list, or among the message's calls."""
    text: str


@dataclass(frozen=True, slots=True)
class TextPlace:
    """Where one piece landed in the rendered text."""

    message: int
    start: int
    end: int
    """Characters, half open."""
    kind: Kind = "text"
    part: int = 0


Wrap = Callable[[Piece], str]


def free_codes(text: str, count: int) -> int | None:
    """Return the first of `count` private-use code points in a row of which `text` holds none; None if there are none.

    Worked example: three for a text that holds U+F0001 are U+F0002 to U+F0004.
    """
    taken = sorted({ord(found) for found in _PRIVATE.findall(text)})
    for first, last in _AREAS:
        start = first
        for code in [*(code for code in taken if first <= code <= last), last + 1]:
            if code - start >= count:
                return start
            start = code + 1
    return None


def free_area(text: str, pieces: int) -> Area | None:
    """Return sentinels for so many pieces of which the text holds none."""
    count = 1 << (2 * pieces).bit_length()
    first = free_codes(text, count)
    return None if first is None else (first, _any_of(first, count))


@lru_cache(maxsize=64)
def _any_of(first: int, count: int) -> re.Pattern[str]:
    return re.compile(f"[{chr(first)}-{chr(first + count - 1)}]")


def pieces_of(message: Message, index: int, call_key: CallKey = "name") -> list[Piece]:
    """Return a message's pieces: its reasoning, its texts, the names of the functions it calls."""
    found: list[Piece] = []

    def note(piece: Piece) -> str:
        found.append(piece)
        return piece.text

    with_pieces(message, index, note, call_key)
    return found


def with_pieces(message: Message, index: int, change: Wrap, call_key: CallKey = "name") -> Message:
    """Return a message with every piece replaced by what `change` makes of it.

    An empty text is a piece only where a message holds nothing else: templates ask whether there is a text at all.
    """
    new = dict(message)
    keeps_empty = not says_something(message)
    if message.get("reasoning_content"):
        new["reasoning_content"] = change(Piece(index, "reasoning", 0, message["reasoning_content"]))
    content = message["content"]
    if isinstance(content, str):
        if content or keeps_empty:
            new["content"] = change(Piece(index, "text", 0, content))
    else:
        new["content"] = [
            {**part, "text": change(Piece(index, "text", number, part["text"]))}
            if part.get("text") or ("text" in part and keeps_empty)
            else part
            for number, part in enumerate(content)
        ]
    if message.get("tool_calls"):
        new["tool_calls"] = [
            _with_name(call, change(Piece(index, "call", number, _name_of(call, call_key))), call_key)
            for number, call in enumerate(message["tool_calls"])
        ]
    return new


def _name_of(call: dict[str, Any], key: CallKey) -> str:
    return str(call.get("id", "") if key == "id" else call["function"]["name"])


def _with_name(call: dict[str, Any], name: str, key: CallKey) -> dict[str, Any]:
    return {**call, "id": name} if key == "id" else {**call, "function": {**call["function"], "name": name}}


def says_something(message: Message) -> bool:
    """Whether a message holds a text that is not empty, reasoning or calls."""
    content = message["content"]
    said = bool(content) if isinstance(content, str) else any(part.get("text") for part in content)
    return bool(said or message.get("reasoning_content") or message.get("tool_calls"))


def mark_pieces(
    messages: Sequence[Message], first: int, edges: Edges = "outside", call_key: CallKey = "name"
) -> tuple[list[Message], list[Piece]]:
    """Return the messages with every piece between its two sentinels, and the pieces in order."""
    pieces: list[Piece] = []

    def wrap(piece: Piece) -> str:
        code = first + 2 * len(pieces)
        pieces.append(piece)
        if edges == "outside":
            return f"{chr(code)}{piece.text}{chr(code + 1)}"
        lead, core, trail = split_edges(piece.text)
        marked = f"{chr(code)}{core}{chr(code + 1)}"
        return marked if edges == "without" else f"{lead}{marked}{trail}"

    return [with_pieces(message, index, wrap, call_key) for index, message in enumerate(messages)], pieces


def split_edges(text: str) -> tuple[str, str, str]:
    """Return a text's leading blanks, what lies between, and its trailing blanks."""
    core = text.strip()
    lead = text[: len(text) - len(text.lstrip())]
    return lead, core, text[len(lead) + len(core) :]


def read_sentinels(text: str, pieces: Sequence[Piece], area: Area) -> tuple[str, list[TextPlace], set[int]]:
    """Return the text without sentinels, a place for each piece found, and the numbers of the pieces found.

    A piece is found where it stands whole: between sentinels that are both there a template may have cut. One that
    takes a text apart (at `</think>`) and puts it together again may lose the first mark; then the text itself must end
    at the other.
    """
    found: list[str] = []
    sentinels: list[tuple[int, int, int]] = []
    length = last = 0
    for match in area[1].finditer(text):
        between = text[last : match.start()]
        found.append(between)
        length += len(between)
        last = match.end()
        number, closing = divmod(ord(match.group()) - area[0], 2)
        sentinels.append((number, closing, length))
    plain = "".join([*found, text[last:]])
    places: list[TextPlace] = []
    seen: set[int] = set()
    opened: dict[int, int] = {}
    for number, closing, position in sentinels:
        piece = pieces[number]
        if not closing:
            opened[number] = position
            continue
        start = opened.pop(number, None)
        if start is None and piece.text and plain.endswith(piece.text, 0, position):
            start = position - len(piece.text)
        if start is not None and stands_whole(plain[start:position], piece.text):
            places.append(TextPlace(piece.message, start, position, piece.kind, piece.part))
            seen.add(number)
    return plain, places, seen


def stands_whole(written: str, text: str) -> bool:
    """Whether what a template wrote is a text of the data: as it is, less blanks at its edges, or as a JSON string."""
    if written == text or written.strip() == text.strip():
        return True
    return any(written.strip() == form for form in json_forms(text))


def json_forms(text: str) -> tuple[str, ...]:
    """Return how a text is written inside a JSON string, less blanks at its edges, where that is another form."""
    forms = {json.dumps(text.strip(), ensure_ascii=ascii_only)[1:-1] for ascii_only in (False, True)}
    return tuple(sorted(forms - {text.strip()}))


def widen_over_blanks(
    text: str, cores: Sequence[TextPlace], bare: str, bare_cores: Sequence[TextPlace], pieces: Sequence[Piece]
) -> list[TextPlace] | None:
    """Return places that take in the blanks which the template kept at the texts' edges.

    Args:
        text: as rendered.
        cores: where the texts between their blanks are in it.
        bare: rendered with the blanks left out.
        bare_cores: where the texts are in that.
        pieces: all pieces.

    Returns:
        None where the two renders do not tell.
    """
    if [_name(place) for place in cores] != [_name(place) for place in bare_cores]:
        return None
    edges = {(piece.message, piece.kind, piece.part): split_edges(piece.text) for piece in pieces}
    leads = [*(edges[_name(place)][0] for place in cores), ""]
    trails = ["", *(edges[_name(place)][2] for place in cores)]
    gaps, bare_gaps = _between(text, cores), _between(bare, bare_cores)
    kept = [_kept(*each) for each in zip(gaps, bare_gaps, trails, leads, strict=True)]
    widened = []
    for place, before, after in zip(cores, kept, kept[1:], strict=False):
        if before is None or after is None:
            return None
        widened.append(replace(place, start=place.start - before[1], end=place.end + after[0]))
    return widened


def _name(place: TextPlace) -> tuple[int, Kind, int]:
    return place.message, place.kind, place.part


def _between(text: str, places: Sequence[TextPlace]) -> list[str]:
    starts = [0, *(place.end for place in places)]
    stops = [*(place.start for place in places), len(text)]
    return [text[start:stop] for start, stop in zip(starts, stops, strict=True)]


def _kept(gap: str, bare: str, trail: str, lead: str) -> tuple[int, int] | None:
    """How many characters of the blanks before and after a gap lie in it, or None if that cannot be told.

    Worked example: a gap "  <end>" where the template writes "<end>" without blanks, after a text with two blanks at
    its end: both were kept.
    """
    more = len(gap) - len(bare)
    before, after = _alike(gap, trail), _alike(gap[::-1], lead[::-1])
    left = gap.find(bare, max(0, more - after), before + len(bare)) if more >= 0 else -1
    if left < 0 or gap.find(bare, left + 1, before + len(bare)) >= 0:
        return None
    return left, more - left


def _alike(one: str, other: str) -> int:
    """How many characters two texts have in common at their start."""
    return next(
        (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )


def without(messages: Sequence[Message], target: Piece, text: str, call_key: CallKey = "name") -> list[Message]:
    """Return the messages with one piece replaced by another text."""

    def change(piece: Piece) -> str:
        return text if (piece.kind, piece.part) == (target.kind, target.part) else piece.text

    return [
        with_pieces(message, index, change, call_key) if index == target.message else message
        for index, message in enumerate(messages)
    ]
