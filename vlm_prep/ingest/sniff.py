"""How rows stand in a text file, from its first 64 KiB: JSON lines, one array, objects one after the other, ...

The content decides, not the suffix: `.json` files that hold JSON lines and `.jsonl` files that hold one array
are both common. A suffix only breaks the tie for a first line that is not JSON. A file that is one object is looked
into: its members may be the rows, or hold them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO, Final

import orjson

from vlm_prep.core.errors import InputError
from vlm_prep.core.regular_files import open_regular
from vlm_prep.core.row_json import RepeatedKeyError, RowJsonError, parse_row
from vlm_prep.core.visible import excerpt
from vlm_prep.ingest.json_scan import BOM, LENIENT_HINT, Element, elements, first_keys, first_members, members_at
from vlm_prep.ingest.spec import COLUMN_NAMES, TextForm, TextReading

LINE_SUFFIXES: Final = (".jsonl", ".ndjson")

_HEAD: Final = 64 << 10
_MEMBERS: Final = 16
_ROLE_KEYS: Final = frozenset(("role", "from"))
_LARGE: Final = 4 << 20
_READ_FORMATS: Final = (
    "Rows are read from JSON arrays (.json) and lines (.jsonl), as UTF-8 text, plain or compressed (gz, zst, xz, bz2), "
    "and from Parquet and Arrow."
)
_MAGIC: Final[tuple[tuple[bytes, str], ...]] = (
    (b"PAR1", "Parquet"),
    (b"ARROW1", "Arrow"),
    (b"\xff\xff\xff\xff", "Arrow"),
    (b"PK\x03\x04", "zip"),
)
_ROW_ROLES: Final = ("messages", "instruction", "texts", "prompt", "completion", "images", "videos", "audios", "tools")
_ROW_COLUMNS: Final = frozenset(name for role in _ROW_ROLES for name in COLUMN_NAMES[role])


def text_form(path: str | Path, reading: TextReading) -> TextForm:
    """Tell how the rows of a text file stand.

    Args:
        path: in UTF-8.
        reading: how the user says it is to be read.

    Raises:
        InputError: `path` is missing, empty, or holds no rows that are known.
    """
    with open_input(path) as file:
        head = file.read(_HEAD)
        cut = bool(file.read(1))
    check_text(path, head)
    if reading.rows_key is not None:
        return "wrapped"
    lines = _head_lines(head)
    if lines[0].startswith(b"["):
        is_lines = len(lines) > 1 and _suffix(path) in LINE_SUFFIXES and is_json(lines[0])
        return "lines" if is_lines else "array"
    if b"\r" in lines[0] and not is_json(lines[0]) and is_json(lines[0].split(b"\r")[0]):
        return "cr_lines"
    if lines[0].startswith(b'"') and (_suffix(path) in LINE_SUFFIXES or is_row(lines[0])):
        return "lines"  # rows that are written as JSON twice, or records of CSV that are none
    if lines[0].startswith(b"{"):
        return _objects_form(path, lines, reading, cut=cut)
    if reading.lenient_json:
        return _after_comments(path, lines)
    if _suffix(path) in LINE_SUFFIXES and any(line.startswith(b"{") for line in lines):
        return "lines"  # in a file that says it holds lines a bad first line is one bad row
    if is_row(lines[0], lenient=True) or lines[0].startswith((b"//", b"/*", b"#")):
        raise InputError(f"{path}: is no JSON as it stands", LENIENT_HINT)
    what = f"it begins with {excerpt(lines[0][:40].decode(errors='replace'))}"
    raise InputError(f"{path}: is neither a JSON array nor JSON lines: {what}", _READ_FORMATS)


def _objects_form(path: str | Path, lines: list[bytes], reading: TextReading, *, cut: bool) -> TextForm:
    lenient = reading.lenient_json
    several = len(lines) > 1
    if several and is_row(lines[0], lenient=lenient):
        return "lines"
    if not several and not cut:
        try:
            return _one_object(path, lines, lenient)
        except InputError:
            if is_row(lines[0], lenient=lenient):
                raise
            return "lines"  # damaged: one bad row
    if not several:  # a first line longer than the head: of many rows, or the only one
        with open(path, "rb") as file:
            file.readline()
            if file.read(_HEAD).strip():
                return "lines"
        return _one_object(path, lines, lenient)
    if _suffix(path) in LINE_SUFFIXES and not _is_indented(lines):
        return "lines"  # a bad first line is one bad row
    if not lenient and is_row(lines[0], lenient=True):
        raise InputError(f"{path}: its lines are no JSON as they stand", LENIENT_HINT)
    return _one_object(path, lines, lenient)


def _is_indented(lines: list[bytes]) -> bool:
    """Whether the first line only opens an object that goes on."""
    return lines[0] in (b"{", b"[") or not lines[1].startswith(b"{")


def _one_object(path: str | Path, lines: list[bytes], lenient: bool) -> TextForm:
    """Tell what a text that starts with an object over several lines, or over all of it, is."""
    members, is_whole = first_members(path, _MEMBERS, lenient=lenient)
    one_line: TextForm = "lines" if len(lines) == 1 else "objects"
    if not is_whole:
        return "objects"
    if not members or _ROW_COLUMNS & members.keys():
        return one_line
    with open(path, "rb") as file:
        objects = [element for element in members.values() if _starts(file, element, b"{")]
        if len(objects) == len(members) and any(_is_row_at(path, element, lenient) for element in objects):
            return "keyed"
        arrays = {key: element for key, element in members.items() if _starts(file, element, b"[")}
    firsts = {key: first_keys(path, element[0], lenient=lenient) for key, element in arrays.items()}
    if any(_ROLE_KEYS & keys for keys in firsts.values()):
        return one_line  # a row with its conversation, whatever its name
    # in a file that says it holds lines an object is a row, unless what it holds are rows by their names
    wanted = _ROW_COLUMNS if _suffix(path) in LINE_SUFFIXES else None
    nested = [key for key, keys in firsts.items() if (keys if wanted is None else keys & wanted)]
    nested = nested or [f"{key}.{more}" for key in members for more in _rows_below(path, members[key], lenient, 3)]
    if nested:
        keys = " or ".join(excerpt(key) for key in nested)
        hint = f"`rows_key={nested[0]}` reads them."
        raise InputError(f"{path}: is one object, with rows under {keys}", hint)
    return "keyed" if len(objects) == len(members) else one_line


def _is_row_at(path: str | Path, element: Element, lenient: bool) -> bool:
    """Whether the object at a place is a row by the names of its columns."""
    return not _ROW_COLUMNS.isdisjoint(members_at(path, element[0], _MEMBERS, lenient=lenient))


def _rows_below(path: str | Path, element: Element, lenient: bool, depth: int) -> list[str]:
    """Return the keys under which an object holds rows by the names of their columns, those of objects joined by dots.

    Args:
        path: of the text.
        element: where the object is; another value holds none.
        lenient: see `json_scan.elements`.
        depth: of objects in each other, at most.
    """
    with open(path, "rb") as file:
        if not depth or not _starts(file, element, b"{"):
            return []
        members = members_at(path, element[0], _MEMBERS, lenient=lenient)
        arrays = {key for key, each in members.items() if _starts(file, each, b"[")}
        objects = {key for key, each in members.items() if _starts(file, each, b"{")}
    found = []
    for key, each in members.items():
        if key in arrays and _ROW_COLUMNS & first_keys(path, each[0], lenient=lenient):
            found.append(key)
        if key in objects:
            keyed = any(_is_row_at(path, one, lenient) for one in _objects_of(path, each, lenient))
            inner = [] if keyed else _rows_below(path, each, lenient, depth - 1)
            found += [key] if keyed else [f"{key}.{more}" for more in inner]
    return found


def _objects_of(path: str | Path, element: Element, lenient: bool) -> list[Element]:
    """Where the members of an object are that are objects themselves, of its first ones."""
    with open(path, "rb") as file:
        members = members_at(path, element[0], 2, lenient=lenient).values()
        return [each for each in members if _starts(file, each, b"{")]


def _starts(file: BinaryIO, element: Element, sign: bytes) -> bool:
    file.seek(element[0])
    return file.read(1) == sign


def _after_comments(path: str | Path, lines: list[bytes]) -> TextForm:
    """Tell an array from lines in a text that begins with a comment, or with what is JSON only by lenient_json."""
    if _suffix(path) in LINE_SUFFIXES:
        return "lines"
    try:
        next(iter(elements(path, "array", lenient=True)), None)
    except InputError:
        return "lines" if any(is_row(line, lenient=True) for line in lines) else "objects"
    return "array"


def open_input(path: str | Path) -> BinaryIO:
    """Open a file for reading bytes.

    Raises:
        InputError: there is no such file, it is a folder, or it may not be read.
    """
    try:
        return open_regular(path)
    except IsADirectoryError as error:
        raise InputError(f"{path}: is a folder, not a data file", _READ_FORMATS) from error
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file", "Check the path; in a meta file it starts there.") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error


def check_text(path: str | Path, head: bytes) -> None:
    """Refuse a file whose head is empty, of a known binary format, or not text.

    Raises:
        InputError: with the format's name where it is known.
    """
    if not head.removeprefix(BOM).strip():
        raise InputError(f"{path}: is empty", _READ_FORMATS)
    for magic, name in _MAGIC:
        if head.startswith(magic):
            raise InputError(f"{path}: is a {name} file", _READ_FORMATS)
    if b"\0" in head.split(b"\n", 1)[0]:  # further down it is a damaged row
        raise InputError(f"{path}: is a binary file", f"{_READ_FORMATS} UTF-16 without a mark: `encoding=utf-16-le`.")


def _head_lines(head: bytes) -> list[bytes]:
    return [line.strip() for line in head.removeprefix(BOM).strip().split(b"\n") if line.strip()]


def _suffix(path: str | Path) -> str:
    return Path(path).suffix.lower()


def is_json(line: bytes) -> bool:
    """Return whether a line is one complete JSON value."""
    try:
        orjson.loads(line)
    except orjson.JSONDecodeError:
        return False
    return True


def is_row(line: bytes, *, lenient: bool = False) -> bool:
    """Return whether a line is one complete object, as a row may be."""
    if len(line) > _LARGE:
        return False
    try:
        value: Any = parse_row(line, lenient=lenient)[0]
    except RepeatedKeyError:
        return True
    except RowJsonError:
        return False
    return isinstance(value, dict)
