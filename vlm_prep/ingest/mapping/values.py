r"""What a mapping may say in place of a text.

    "Question: {question}"             a template: constants, and columns in braces ({{ and }} are braces themselves);
                                       <image>, <video>, <audio> in its constants stand for media
    {column: gt.answer}                a column, as it is
    {text: "{}"}                       a constant, as it is
    {first: [V, V]}                    the first that says something
    {choice: [V, V]}                   one of those that say something, drawn for the row
    {pick: captions}                   one element of a list, drawn for the row (`{pick: notes.*.text}` of objects)
    {join: [V, V], with: "\n"}         those that say something, with that between them
    {lines: cells, say: V, by: order}  V of each object of a list, by a key's order, with line ends (or `with`) between;
                                       a text in the list is `{text}`
    {strip: V}                         without blanks at its ends
    {json2token: V}                    an object as tags, in the manner of Donut, see `pieces.json2token`
    {json: V}                          as JSON text

A value that is not a text and not a whole number is a reject: how 1.0 or true is to be written is not ours to say
(`json` says it).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import orjson

from vlm_prep.core.errors import InputError, Reject, RejectReason
from vlm_prep.core.fields import did_you_mean
from vlm_prep.core.visible import excerpt
from vlm_prep.ingest.mapping.pieces import Pieces, Tag, json2token, pieces_of, says_something, written_text
from vlm_prep.ingest.mapping.scope import Absent, Path, Scope

_TAG: Final = re.compile(r"(<image>|<video>|<audio>)", re.IGNORECASE)
_BRACES: Final = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


Value = Callable[[Scope], Any]
"""Gives a JSON value, or `Pieces`."""


class Reader:
    """Reads what a mapping says; `columns` gathers the paths that it reads.

    Args:
        where: what messages begin with.
    """

    def __init__(self, where: str) -> None:
        self.where = where
        self.columns: dict[Path, bool] = {}
        """Path → whether a row must have it."""

    def bad(self, what: str, hint: str | None = None) -> InputError:
        """Return what is raised for a mapping that cannot be used."""
        return InputError(f"{self.where}: {what}", hint or "docs/sources.md lists what a mapping may say.")

    def path(self, written: object, *, required: bool = True) -> Path:
        """Return a path."""
        if not isinstance(written, str) or not written.strip():
            raise self.bad(f"{excerpt(written)} is not the name of a column")
        path = tuple(written.strip().split("."))
        self.columns[path] = self.columns.get(path, False) or required
        return path

    def keys(self, written: Mapping[str, Any], known: Sequence[str], what: str) -> None:
        """Refuse keys that are not known."""
        for key in written:
            if key not in known:
                hint = f"It may have: {', '.join(known)}.{did_you_mean(str(key), known)}"
                raise self.bad(f"{what} has the unknown key {excerpt(key)}", hint)

    def value(self, written: Any, *, required: bool = True) -> Value:
        """Return what gives a value.

        Raises:
            InputError: it says nothing that is known.
        """
        if isinstance(written, str):
            return self.template(written, required=required)
        if not isinstance(written, Mapping) or not written:
            raise self.bad(f"{excerpt(written)} is neither a template nor an object such as {{column: NAME}}")
        name = next((name for name in _FORMS if name in written), None)
        if name is None:
            first = str(next(iter(written)))
            raise self.bad(
                f"unknown value {excerpt(first)}", f"Known: {', '.join(_FORMS)}.{did_you_mean(first, _FORMS)}"
            )
        self.keys(written, (name, *_OPTIONS.get(name, ())), f"the value {name!r}")
        return _FORMS[name](self, written, required)

    def values(self, written: Any, name: str, *, required: bool = True) -> list[Value]:
        """Return what gives several values."""
        if not isinstance(written, list) or not written:
            raise self.bad(f"{name} is {excerpt(written)}, not a list of values")
        return [self.value(each, required=required) for each in written]

    def template(self, written: str, *, required: bool = True) -> Value:
        """Return what fills a template in."""
        pieces: list[str | Tag | Path] = []
        position = 0
        for found in _BRACES.finditer(written):
            pieces += _constant(written[position : found.start()])
            position = found.end()
            if found[0] in ("{{", "}}"):
                pieces.append(found[0][0])
            elif found[1] is None:
                hint = "Write {{ or }} for a brace itself, {NAME} for a column."
                raise self.bad(f"a brace stands alone in {excerpt(written)}", hint)
            else:
                pieces.append(self.path(found[1], required=required))
        pieces += _constant(written[position:])
        if len(pieces) == 1 and isinstance(pieces[0], tuple):
            return _text_of(pieces[0])
        return _filled(pieces)


def _constant(text: str) -> Iterator[str | Tag]:
    for piece in _TAG.split(text) if text else ():
        if _TAG.fullmatch(piece):
            yield Tag(piece[1:-1].lower())  # type: ignore[arg-type]
        elif piece:
            yield piece


def _text_of(path: Path) -> Value:
    what = f"{'.'.join(path)!r}"
    return lambda scope: written_text(scope.get(path), what)


def _filled(pieces: Sequence[str | Tag | Path]) -> Value:
    def fill(scope: Scope) -> Pieces:
        return Pieces(
            written_text(scope.get(each), f"{'.'.join(each)!r}") if isinstance(each, tuple) else each for each in pieces
        )

    return fill


# ---- the forms ----


def _column(reader: Reader, written: Mapping[str, Any], required: bool) -> Value:
    path = reader.path(written["column"], required=required)
    return lambda scope: scope.get(path)


def _text(reader: Reader, written: Mapping[str, Any], required: bool) -> Value:
    text = written["text"]
    if not isinstance(text, str):
        raise reader.bad(f"text is {excerpt(text)}, not a text")
    return lambda scope: text


def _first(reader: Reader, written: Mapping[str, Any], required: bool) -> Value:
    values = reader.values(written["first"], "first", required=False)

    def first(scope: Scope) -> Any:
        missing, silent = list[Absent](), False
        for each in values:
            try:
                value = each(scope)
            except Absent as absent:
                missing.append(absent)
                continue
            if says_something(value):
                return value
            silent = True
        what = "none of the values of first says anything (mapping)"
        if not missing:
            raise Absent(RejectReason.BAD_TYPE, what)
        raise Absent(missing[0].reason, f"{what}: {missing[0].message}") if silent else missing[0]

    return first


def _choice(reader: Reader, written: Mapping[str, Any], required: bool) -> Value:
    values = reader.values(written["choice"], "choice")

    def choice(scope: Scope) -> Any:
        left = list(values)
        while len(left) > 1:
            try:
                if says_something(said := left.pop(scope.draw(len(left)))(scope)):
                    return said
            except Absent:
                continue
        return left[0](scope)

    return choice


def _pick(reader: Reader, written: Mapping[str, Any], required: bool) -> Value:
    path = reader.path(written["pick"], required=required)

    def pick(scope: Scope) -> Any:
        elements = scope.parsed(scope.get(path), ".".join(path))
        if not isinstance(elements, list) or not elements:
            raise Reject(RejectReason.BAD_TYPE, f"{'.'.join(path)!r} is {excerpt(elements)}, not a list to pick from")
        return elements[scope.draw(len(elements))]

    return pick


def _join(reader: Reader, written: Mapping[str, Any], required: bool) -> Value:
    values = reader.values(written["join"], "join", required=False)
    between = written.get("with", " ")
    if not isinstance(between, str):
        raise reader.bad(f"with is {excerpt(between)}, not a text")

    def join(scope: Scope) -> Pieces:
        found = Pieces()
        for each in values:
            _add(found, each, scope, between)
        return found

    return join


def _add(found: Pieces, value: Value, scope: Scope, between: str) -> None:
    """Add a value that says something."""
    try:
        said = value(scope)
    except Absent:
        return
    if says_something(said):
        found += [between] if found else []
        found += pieces_of(said, "a value that is joined")


def _strip(reader: Reader, written: Mapping[str, Any], required: bool) -> Value:
    value = reader.value(written["strip"], required=required)

    def strip(scope: Scope) -> Pieces:
        pieces = pieces_of(value(scope), "what is to be stripped")
        if pieces and isinstance(pieces[0], str):
            pieces[0] = pieces[0].lstrip()
        if pieces and isinstance(pieces[-1], str):
            pieces[-1] = pieces[-1].rstrip()
        return pieces

    return strip


def _as_tokens(reader: Reader, written: Mapping[str, Any], required: bool) -> Value:
    value = reader.value(_columned(written["json2token"]), required=required)

    def tokens(scope: Scope) -> str:
        try:
            return json2token(scope.parsed(value(scope), "what json2token is to write"))
        except RecursionError as error:
            raise Reject(RejectReason.BAD_ROW, "what json2token is to write is nested too deeply") from error

    return tokens


def _as_json(reader: Reader, written: Mapping[str, Any], required: bool) -> Value:
    value = reader.value(_columned(written["json"]), required=required)

    def as_json(scope: Scope) -> str:
        try:
            return orjson.dumps(value(scope)).decode()
        except TypeError as error:
            raise Reject(RejectReason.BAD_TYPE, f"a value cannot be written as JSON: {error}") from error

    return as_json


def _columned(written: Any) -> Any:
    return {"column": written} if isinstance(written, str) else written


def _lines(reader: Reader, written: Mapping[str, Any], required: bool) -> Value:
    path = reader.path(written["lines"], required=required)
    inner = Reader(reader.where)
    say, by = inner.value(written.get("say", "{text}"), required=False), written.get("by")
    between = written.get("with", "\n")
    if not isinstance(between, str) or not isinstance(by, str | None):
        raise reader.bad(f"with and by are texts, found {excerpt(between)} and {excerpt(by)}")

    def lines(scope: Scope) -> Pieces:
        elements = scope.parsed(scope.get(path), ".".join(path))
        if not isinstance(elements, list) or not all(isinstance(each, dict | str) for each in elements):
            raise Reject(RejectReason.BAD_TYPE, f"{'.'.join(path)!r} is {excerpt(elements)}, not a list of objects")
        elements = [{"text": each} if isinstance(each, str) else each for each in elements]
        if by is not None:
            elements = sorted(elements, key=lambda each: _order(each.get(by)))
        found = Pieces()
        for place, each in enumerate(elements):
            _add(found, say, scope.inner(each, place), between)
        return found

    return lines


def _order(key: Any) -> tuple[bool, float]:
    """Return what to sort by: numbers first, what has none last and as it stands."""
    is_number = isinstance(key, int | float) and not isinstance(key, bool) and key == key
    return not is_number, float(key) if is_number else 0.0


_OPTIONS: Final[dict[str, tuple[str, ...]]] = {"join": ("with",), "lines": ("say", "by", "with")}
_FORMS: Final[dict[str, Callable[[Reader, Mapping[str, Any], bool], Value]]] = {
    "column": _column,
    "text": _text,
    "first": _first,
    "choice": _choice,
    "pick": _pick,
    "join": _join,
    "lines": _lines,
    "strip": _strip,
    "json2token": _as_tokens,
    "json": _as_json,
}
