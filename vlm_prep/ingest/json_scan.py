"""Where the rows of a JSON text are that is not JSON lines: elements of an array, of an object, or objects in a row.

    array     [{...}, {...}]
    objects   {...} {...}              one after the other, over any number of lines
    keyed     {"id1": {...}, ...}      the rows are the values
    wrapped   {"data": [{...}]}        the rows are under a key, which the user names

The elements are found by one regex that swallows everything up to the next bracket outside a string, so Python runs
once per bracket and not once per token, which makes the scan three times as fast. Only the structure around the
elements is checked here. A string that is not closed ends at its line's end, so in an indented file it spoils its own
row only.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Final

from vlm_prep.core.errors import InputError
from vlm_prep.core.row_json import RowJsonError, parse_row
from vlm_prep.core.visible import excerpt
from vlm_prep.ingest.spec import TextForm

BOM: Final = b"\xef\xbb\xbf"
Element = tuple[int, int, int]
"""(start, end, line): a byte range and the 1-based line it starts on."""

_CHUNK = 8 << 20
_RELEASE = 16 << 20
_STRING = rb'"[^"\\\n]*+(?:\\[^\n][^"\\\n]*+)*+"?'
_SINGLE = rb"'[^'\\\n]*+(?:\\[^\n][^'\\\n]*+)*+'?"
_COMMENT = rb"(?:/\*(?:[^*]|\*(?!/))*+\*/|//[^\n]*+|\#[^\n]*+)"
_TO_BRACKET = re.compile(rb'[^"\[\]{}]*+(?:' + _STRING + rb'[^"\[\]{}]*+)*+[\[\]{}]')
_SCALAR = re.compile(rb"(?:" + _STRING + rb'|[^"\[\]{},\s]++)++')
_BLANKS = re.compile(rb"[ \t\r\n]*+")
_LENIENT_TO_BRACKET = re.compile(
    rb"(?:[^\"'/\#\[\]{}]++|" + _STRING + rb"|" + _SINGLE + rb"|" + _COMMENT + rb"|/\*[\s\S]*+|/)*+[\[\]{}]"
)
_LENIENT_BLANKS = re.compile(rb"(?:[ \t\r\n]++|" + _COMMENT + rb")*+")
_KEY = re.compile(_STRING)
_LENIENT_KEY = re.compile(_STRING + rb"|" + _SINGLE)
_OPENING = frozenset(b"[{")
_REPAIR: Final = "Repair the file, or write it as JSON lines (.jsonl), one row to a line."
LENIENT_BETWEEN: Final = "read_lenient_file"
LENIENT_HINT: Final = "`lenient_json=true` reads comments, trailing commas and Python literals."


def elements(
    path: str | Path,
    form: TextForm,
    *,
    rows_key: str | None = None,
    lenient: bool = False,
    noticed: set[str] | None = None,
) -> Iterator[Element]:
    """Yield where each row of a JSON text is, as far as it is asked for.

    Args:
        path: in UTF-8.
        form: how the rows stand.
        rows_key: of form wrapped: the key, or keys joined by dots.
        lenient: take comments, trailing commas and single quotes.
        noticed: gets the name of a note where something between the rows is read by `lenient` alone.

    Raises:
        InputError: the brackets and commas do not add up, with the line; or there is no such key.
    """
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        scan = _Scan(data, str(path), lenient)
        if form == "array":
            yield from scan.array()
        elif form == "keyed":
            yield from (element for _, element in scan.members())
        elif form == "wrapped":
            yield from scan.under(rows_key or "")
        else:
            yield from scan.objects()
        if noticed is not None and scan.took_leniently:
            noticed.add(LENIENT_BETWEEN)


def first_members(path: str | Path, count: int, *, lenient: bool = False) -> tuple[dict[str, Element], bool]:
    """Return the first members of the object that a text starts with, and whether the text ends with it.

    Raises:
        InputError: it is not an object.
    """
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        scan = _Scan(data, str(path), lenient)
        members = dict(islice(scan.members(), count))
        start = scan.start()
        return members, scan.skip_blanks(scan.element_end(start)) >= len(data)


def members_at(path: str | Path, position: int, count: int, *, lenient: bool = False) -> dict[str, Element]:
    """Return the first members of the object at a place of a text."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return dict(islice(_Scan(data, str(path), lenient).members(position), count))


def first_keys(path: str | Path, position: int, *, lenient: bool = False) -> frozenset[str]:
    """Return the keys of the first object of the array at a place of a text; none where it does not begin with one."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        scan = _Scan(data, str(path), lenient)
        start = scan.skip_blanks(position + 1)
        if data[start : start + 1] != b"{":
            return frozenset()
        return frozenset(key for key, _ in islice(scan.members(start), 32))


class _Scan:
    """A walk over the elements of a text: the position, and the line of the place last asked for."""

    def __init__(self, data: mmap.mmap, path: str, lenient: bool) -> None:
        self.data, self.path, self.lenient = data, path, lenient
        self.released = self.counted = 0
        self.line = 1
        self.took_leniently = False
        """Whether a comment, a last comma or a key in single quotes stood between the elements."""
        self.blanks = _LENIENT_BLANKS if lenient else _BLANKS
        self.to_bracket = _LENIENT_TO_BRACKET if lenient else _TO_BRACKET

    def start(self) -> int:
        return self.skip_blanks(len(BOM) if self.data[:3] == BOM else 0)

    def array(self, position: int | None = None) -> Iterator[Element]:
        """Yield the elements of the array that starts at `position`; without one, of the whole text."""
        data, whole = self.data, position is None
        position = self.start() if position is None else position
        if data[position : position + 1] != b"[":
            raise self._fault(position, "the array does not start with '['")
        position = self.skip_blanks(position + 1)
        closed = data[position : position + 1] == b"]"
        while not closed:
            end = self.element_end(position)
            yield position, end, self._line_at(position)
            self._release(position)
            position = self.skip_blanks(end)
            closed = self._after_element(position, b"]")
            position = position if closed else self.skip_blanks(position + 1)
            closed = closed or self._closes_after_comma(position, b"]")
        rest = self.skip_blanks(position + 1)
        if whole and rest < len(data):
            raise self._fault(rest, "text follows the end of the array")

    def objects(self) -> Iterator[Element]:
        """Yield objects that follow each other, with or without commas between them."""
        position = self.start()
        while position < len(self.data):
            if self.data[position : position + 1] not in (b"{", b"["):
                raise self._fault(position, "text stands between the objects")
            end = self._nested_end(position)
            yield position, end, self._line_at(position)
            self._release(position)
            position = self.skip_blanks(end)
            if self.data[position : position + 1] == b",":
                position = self.skip_blanks(position + 1)

    def members(self, position: int | None = None) -> Iterator[tuple[str, Element]]:
        """Yield the members of the object at `position`, by default the text's, with where their values are."""
        data = self.data
        position = self.start() if position is None else position
        if data[position : position + 1] != b"{":
            raise self._fault(position, "the object does not start with '{'")
        position = self.skip_blanks(position + 1)
        closed = data[position : position + 1] == b"}"
        while not closed:
            match = (_LENIENT_KEY if self.lenient else _KEY).match(data, position)
            if match is None:
                raise self._fault(position, "a key is missing")
            colon = self.skip_blanks(match.end())
            if data[colon : colon + 1] != b":":
                raise self._fault(colon, "':' is missing after a key")
            start = self.skip_blanks(colon + 1)
            end = self.element_end(start)
            yield self._key(match[0]), (start, end, self._line_at(start))
            self._release(start)
            position = self.skip_blanks(end)
            closed = self._after_element(position, b"}")
            position = position if closed else self.skip_blanks(position + 1)
            closed = closed or self._closes_after_comma(position, b"}")

    def under(self, rows_key: str) -> Iterator[Element]:
        """Yield the rows under a key of the text's object."""
        position, seen = self.start(), list[str]()
        for key in [rows_key] if self._has(position, rows_key) else rows_key.split("."):
            seen = []
            for name, (start, _, _) in self.members(position):
                seen.append(name)
                if name == key:
                    position = start
                    break
            else:
                has = ", ".join(map(excerpt, seen[:20]))
                raise InputError(f"{self.path}: no key {key!r} (rows_key)", f"It has: {has}.")
        if self.data[position : position + 1] == b"{":
            yield from (element for _, element in self.members(position))
        else:
            yield from self.array(position)

    def _has(self, position: int, key: str) -> bool:
        return "." not in key or any(name == key for name, _ in self.members(position))

    def _closes_after_comma(self, position: int, close: bytes) -> bool:
        closes = self.lenient and self.data[position : position + 1] == close
        self.took_leniently |= closes
        return closes

    def _key(self, written: bytes) -> str:
        self.took_leniently |= written.startswith(b"'")
        try:
            return str(parse_row(written, lenient=self.lenient)[0])
        except RowJsonError:
            return written.decode(errors="replace")

    def skip_blanks(self, position: int) -> int:
        match = self.blanks.match(self.data, position)
        if self.lenient and match and not match[0].isspace():
            self.took_leniently |= bool(match[0])
        return match.end() if match else position

    def element_end(self, start: int) -> int:
        first = self.data[start : start + 1]
        if first in (b"[", b"{"):
            return self._nested_end(start)
        match = (_LENIENT_KEY.match(self.data, start) if self.lenient else None) or _SCALAR.match(self.data, start)
        if match is None:
            what = "the array is not closed" if not first else f"an element is missing before {first.decode()!r}"
            raise self._fault(start, what)
        return match.end()

    def _nested_end(self, start: int) -> int:
        data, match_bracket = self.data, self.to_bracket.match
        position, depth = start + 1, 1
        while depth:
            match = match_bracket(data, position)
            if match is None:
                raise self._fault(start, "the element that starts here is not closed at the end of the file")
            position = match.end()
            depth += 1 if data[position - 1] in _OPENING else -1
        return position

    def _after_element(self, position: int, close: bytes) -> bool:
        """Return whether the array or object ends at `position`; a comma means it goes on."""
        sign = self.data[position : position + 1]
        if sign not in (b",", close):
            what = f"',' or {close.decode()!r} is missing after an element" if sign else "the array is not closed"
            raise self._fault(position, what)
        return sign == close

    def _line_at(self, position: int) -> int:
        while self.counted < position:
            stop = min(position, self.counted + _CHUNK)
            self.line += self.data[self.counted : stop].count(b"\n")
            self.counted = stop
        return self.line

    def _release(self, position: int) -> None:
        # what was scanned stays mapped, and counted as ours, until it is given back
        length = position - position % mmap.PAGESIZE - self.released
        if length >= _RELEASE:
            self.data.madvise(mmap.MADV_DONTNEED, self.released, length)
            self.released += length

    def _fault(self, position: int, what: str) -> InputError:
        self.line, self.counted = (1, 0) if position < self.counted else (self.line, self.counted)
        message = f"{self.path}: line {self._line_at(position)}: not valid JSON: {what}"
        return InputError(message, _REPAIR if self.lenient else f"{_REPAIR} {LENIENT_HINT}")
