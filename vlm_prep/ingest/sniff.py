"""What kind of text a data file is, from its first 64 KiB: a JSON array, JSON lines, or neither.

The content decides, not the suffix: `.json` files that hold JSON lines and `.jsonl` files that hold one array
are both common. A suffix only breaks the tie for a first line that is not JSON.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO, Final, Literal

import orjson

from vlm_prep.core.errors import InputError
from vlm_prep.core.regular_files import open_regular

RowKind = Literal["array", "lines"]
BOM: Final = b"\xef\xbb\xbf"
LINE_SUFFIXES: Final = (".jsonl", ".ndjson")

_HEAD = 64 << 10
_READ_FORMATS = "Rows are read from JSON arrays (.json) and lines (.jsonl), as UTF-8 text, and from Parquet and Arrow."
_MAGIC: Final[tuple[tuple[bytes, str], ...]] = (
    (b"PAR1", "Parquet"),
    (b"ARROW1", "Arrow"),
    (b"\xff\xff\xff\xff", "Arrow"),
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"PK\x03\x04", "zip"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)


def row_kind(path: str | Path) -> RowKind:
    """Tell a JSON array from JSON lines.

    Raises:
        InputError: `path` is missing, empty, or neither of the two.
    """
    with open_input(path) as file:
        head = file.read(_HEAD)
    check_text(path, head)
    lines = _head_lines(head)
    if lines[0].startswith(b"["):
        return "lines" if len(lines) > 1 and _suffix(path) in LINE_SUFFIXES and is_json(lines[0]) else "array"
    if _holds_json_lines(path, lines, cut=len(head) == _HEAD):
        return "lines"
    if lines[0].startswith(b"{"):
        hint = f"{_READ_FORMATS} Put the rows in an array, or each on a line of its own."
        raise InputError(f"{path}: holds one JSON object over several lines, not rows", hint)
    raise InputError(f"{path}: is neither a JSON array nor JSON lines", _READ_FORMATS)


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
        raise InputError(
            f"{path}: no such file", "Check the path; in a meta file it starts there."
        ) from error
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
        raise InputError(f"{path}: is a binary file", _READ_FORMATS)


def _head_lines(head: bytes) -> list[bytes]:
    return [line.strip() for line in head.removeprefix(BOM).strip().split(b"\n") if line.strip()]


def _holds_json_lines(path: str | Path, lines: list[bytes], *, cut: bool) -> bool:
    if lines[0].startswith(b"{") and (is_json(lines[0]) or (cut and len(lines) == 1)):
        return True  # a first row longer than the head is cut, and cannot be parsed
    # in a file that says it holds lines a bad first line is one bad row
    return _suffix(path) in LINE_SUFFIXES and any(line.startswith(b"{") for line in lines)


def _suffix(path: str | Path) -> str:
    return Path(path).suffix.lower()


def is_json(line: bytes) -> bool:
    """Return whether a line is one complete JSON value."""
    try:
        orjson.loads(line)
    except orjson.JSONDecodeError:
        return False
    return True
