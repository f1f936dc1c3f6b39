"""One row of JSON text → Python values, exactly: nothing is dropped, rounded or made up on the way.

orjson is fast and keeps the last of two equal keys, rounds whole numbers beyond 64 bits to floats and knows no NaN.
Where a row may hold one of these (its colons are counted, and the keys of its value), Python's own parser reads it:

    a key twice in one object     the same value: noted; different ones: an error
    NaN, Infinity                 `NotANumber`, which cannot be written as JSON: it may stand where nobody reads it
    a text that is JSON itself    an object or list that was written twice: noted
    lenient                       comments, trailing commas, raw control characters, Python literals
"""

from __future__ import annotations

import ast
import io
import json
import math
import re
import tokenize
from itertools import pairwise
from typing import Any, Final

import orjson

from vlm_prep.core.visible import excerpt

REPEATED_KEYS: Final = "read_repeated_keys"
NOT_A_NUMBER: Final = "read_not_a_number"
LENIENT: Final = "read_lenient"
JSON_TEXT: Final = "read_json_text"

_NO_NOTES: Final[frozenset[str]] = frozenset()
_LARGEST: Final = 1 << 63
_COMMENT: Final = r"(?://[^\n]*+|/\*(?:[^*]|\*(?!/))*+\*/|\#[^\n]*+)"
_LENIENT_TOKEN: Final = re.compile(
    r'("[^"\\]*+(?:\\[\s\S][^"\\]*+)*+"?)'
    rf"|{_COMMENT}"
    r"|(/\*[\s\S]*+)"
    rf"|,(?=(?:\s++|{_COMMENT})*+[\]}}])"
)
"""A text or a comment that is not closed goes on to the end: no end is looked for again from each place inside it."""
_BETWEEN: Final = re.compile(r"[\s,]*")
_NAMES: Final[dict[str, Any]] = {"true": True, "false": False, "null": None}


class NotANumber(float):
    """NaN or an infinity of a source; no plain float, so that no JSON is written of it."""


NUMBERS: Final = {
    name: NotANumber(name.replace("Infinity", "inf")) for name in ("NaN", "Infinity", "-Infinity", "nan", "inf")
}


class RowJsonError(ValueError):
    """Text that is not a row's JSON.

    Args:
        message: what is wrong.
        line: 1-based line in the text.
        column: 1-based.
    """

    def __init__(self, message: str, line: int = 1, column: int = 1) -> None:
        super().__init__(message)
        self.message, self.line, self.column = message, line, column


class RepeatedKeyError(RowJsonError):
    """A key stands twice in one object, with different values."""


def parse_row(data: bytes, *, lenient: bool = False) -> tuple[Any, frozenset[str]]:
    """Return (value, notes) of JSON text; the notes are names of this module.

    Raises:
        RowJsonError: it is not JSON, or not UTF-8.
        RepeatedKeyError: see there.
    """
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        if "Not enough memory" in str(error):  # which is no fault of the row
            raise MemoryError(str(error)) from error
        return _otherwise(data, error, lenient)
    if type(value) is str and value[:1] in ("{", "["):
        return _of_text(value, lenient)
    keys, is_rounded = _keys(value)
    if not is_rounded and (data.count(b":") == keys or _most_keys(data) == keys):
        return value, _NO_NOTES
    return _exactly(data.decode())


def _of_text(text: str, lenient: bool) -> tuple[Any, frozenset[str]]:
    try:
        value, notes = parse_row(text.encode(), lenient=lenient)
    except RepeatedKeyError:
        raise
    except (RowJsonError, UnicodeEncodeError):
        return text, _NO_NOTES
    return value, notes | {JSON_TEXT}


def _most_keys(data: bytes) -> int:
    """Return the number of colons behind a quote that is not escaped: no less than the keys, mostly just as many."""
    return sum(map(_ends_key, data.split(b":")[:-1]))


def _ends_key(piece: bytes) -> bool:
    piece = piece.rstrip()
    if not piece.endswith(b'"'):
        return False
    return not piece.endswith(b'\\"') or (len(piece) - len(piece[:-1].rstrip(b"\\"))) % 2 == 1


def _otherwise(data: bytes, error: orjson.JSONDecodeError, lenient: bool) -> tuple[Any, frozenset[str]]:
    try:
        text = data.decode()
    except UnicodeDecodeError as fault:
        line = data.count(b"\n", 0, fault.start) + 1
        hint = "; `encoding` names the file's encoding (gbk, latin-1, ...)"
        column = fault.start - data.rfind(b"\n", 0, fault.start)
        raise RowJsonError(f"not UTF-8: byte {data[fault.start]:#04x}{hint}", line, column) from fault
    try:
        value, notes = _exactly(text)
    except RepeatedKeyError:
        raise
    except RowJsonError:
        pass
    else:
        if NOT_A_NUMBER in notes or "number is infinity" in error.msg:  # a whole number beyond the doubles
            return value, notes
    if (count := _objects(text)) > 1:
        said = f"{count} objects on one line; each row needs a line of its own (`jq -c . FILE` writes the file so)"
        raise RowJsonError(said, error.lineno, error.colno) from error
    words = f", at {excerpt(rest)}" if (rest := text[max(0, error.pos - 16) : error.pos + 16]) else ""
    if not lenient or "surrogate" in error.msg:  # half a character can be written nowhere
        hint = "; `lenient_json=true` reads it" if "surrogate" not in error.msg and _is_lenient(text) else ""
        if text.lstrip().startswith(("//", "#", "/*")):
            hint = "; a comment, which `lenient_json=true` leaves out"
        raise RowJsonError(error.msg + words + hint, error.lineno, error.colno) from error
    found = _leniently(text)
    if found is None:
        raise RowJsonError(error.msg + words, error.lineno, error.colno) from error
    return found


def _objects(text: str) -> int:
    """Return how many objects a text is that holds nothing else, commas and blanks between them apart; else 0."""
    decoder, count, place = json.JSONDecoder(), 0, 0
    try:
        while rest := _BETWEEN.match(text, place):
            place = rest.end()
            if place >= len(text):
                return count
            if text[place] != "{":
                return 0
            _, place = decoder.raw_decode(text, place)
            count += 1
    except (ValueError, RecursionError):
        pass
    return 0


def _keys(value: Any) -> tuple[int, bool]:
    """Return the number of keys of all objects in a value, and whether a number may be a rounded whole one."""
    count, is_rounded, stack = 0, False, [value]
    while stack:
        each = stack.pop()
        kind = type(each)
        if kind is dict:
            count += len(each)
            stack += each.values()
        elif kind is list:
            stack += each
        elif kind is float and not -_LARGEST < each < _LARGEST:
            is_rounded = True
    return count, is_rounded


def _exactly(text: str, *, strict: bool = True) -> tuple[Any, frozenset[str]]:
    """Parse with Python's parser."""
    notes: set[str] = set()

    def constant(name: str) -> NotANumber:
        notes.add(NOT_A_NUMBER)
        return NUMBERS[name]

    def number(written: str) -> float:
        found = float(written)
        if math.isfinite(found):
            return found
        notes.add(NOT_A_NUMBER)
        return NotANumber(found)

    def object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        return _object(pairs, notes)

    try:
        value = json.loads(
            text, strict=strict, parse_constant=constant, parse_float=number, object_pairs_hook=object_of
        )
    except json.JSONDecodeError as error:
        raise RowJsonError(error.msg, error.lineno, error.colno) from error
    except (RecursionError, ValueError) as error:  # ValueError: a number of more than 4300 digits
        if isinstance(error, RowJsonError):
            raise
        raise RowJsonError("nested too deeply" if isinstance(error, RecursionError) else str(error)) from error
    return value, frozenset(notes)


def _object(pairs: list[tuple[str, Any]], notes: set[str]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        for key, each in pairs:
            if not _same(value[key], each):
                both = f"{excerpt(each)} and {excerpt(value[key])}"
                raise RepeatedKeyError(f"the key {excerpt(key)} stands twice in one object: {both}; leave one out")
        notes.add(REPEATED_KEYS)
    return value


def _same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and (one == other or (one != one and other != other))


# ---- lenient ----


def _is_lenient(text: str) -> bool:
    try:
        return _leniently(text) is not None
    except RowJsonError:
        return False


def _leniently(text: str) -> tuple[Any, frozenset[str]] | None:
    """Parse JSON with comments, trailing commas and raw control characters, or Python literals; None where it is none.

    Raises:
        RepeatedKeyError: a key stands twice.
    """
    text = text.rstrip()
    text = text.removesuffix(",")  # of a row that was cut out of an array
    try:
        value, notes = _exactly(_LENIENT_TOKEN.sub(lambda found: found[1] or found[2] or " ", text), strict=False)
        return value, notes | {LENIENT}
    except RepeatedKeyError:
        raise
    except RowJsonError:
        pass
    marks: set[str] = {LENIENT}
    try:
        value = _literal(ast.parse(text.strip(), mode="eval").body, marks)
        if _joins_texts(text.strip()):
            return None
    except RepeatedKeyError:
        raise
    except (SyntaxError, ValueError, RecursionError, MemoryError, tokenize.TokenError):
        return None
    return value, frozenset(marks)


def _joins_texts(text: str) -> bool:
    """Whether two texts stand side by side, which Python joins: it is rather a quote that was doubled ('it''s')."""
    kinds = [token.type for token in tokenize.generate_tokens(io.StringIO(text).readline)]
    return any(pair == (tokenize.STRING, tokenize.STRING) for pair in pairwise(kinds))


def _literal(node: ast.expr, notes: set[str]) -> Any:
    """Return the value of a Python literal, of JSON's types only.

    Raises:
        ValueError: it is something else.
    """
    if isinstance(node, ast.Dict):
        items = zip(node.keys, node.values, strict=True)
        return _object([(_text(key), _literal(value, notes)) for key, value in items], notes)
    if isinstance(node, ast.List | ast.Tuple):
        return [_literal(each, notes) for each in node.elts]
    if isinstance(node, ast.Constant) and (node.value is None or isinstance(node.value, str | bool | int | float)):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        number = _literal(node.operand, notes)
        if isinstance(number, int | float) and not isinstance(number, bool):
            return NotANumber(-number) if isinstance(number, NotANumber) else -number
    if isinstance(node, ast.Name) and node.id in _NAMES:
        return _NAMES[node.id]
    if isinstance(node, ast.Name) and node.id in NUMBERS:
        notes.add(NOT_A_NUMBER)
        return NUMBERS[node.id]
    raise ValueError(f"not a literal: {type(node).__name__}")


def _text(key: ast.expr | None) -> str:
    if isinstance(key, ast.Constant) and isinstance(key.value, str):
        return key.value
    raise ValueError("a key that is no text")
