"""Media that lie inside a data file's rows: `file::row/pointer`.

    /data/train-00000-of-00002.parquet::17/audio      row 17 (0-based), column audio: its bytes
    /data/train.arrow::17/images/0                    the first of a list
    /data/rows.jsonl::5120+377/messages/0/content/1/image_url/url
                                                      the row of 377 bytes from byte 5120: a data: URL

The pointer is a JSON pointer (RFC 6901: `~1` for `/`, `~0` for `~`). It ends at bytes, at an object whose `bytes` they
are, or at base64 text. A uri names a place and not a content, as a path does: the digest beside it tells when the file
was changed.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Sequence
from typing import Any, Literal

import pyarrow as pa

from vlm_prep.core.errors import InputError, Reject, RejectReason
from vlm_prep.core.regular_files import open_regular
from vlm_prep.core.row_json import parse_row
from vlm_prep.media.table_rows import TableKind, read_scalar, table_kind
from vlm_prep.media.text_files import utf8_path

Place = int | tuple[int, int]
"""A table's row number, or (start, length) in bytes of a row of JSON text."""
_BOM = b"\xef\xbb\xbf"
_BASE64 = ";base64"


def cell_uri(path: str, place: Place, pointer: Sequence[str | int]) -> str:
    """Return the uri of what `pointer` leads to in a row of a data file."""
    row = str(place) if isinstance(place, int) else f"{place[0]}+{place[1]}"
    steps = (str(step).replace("~", "~0").replace("/", "~1") for step in pointer)
    return f"{path}::{'/'.join((row, *steps))}"


def rows_kind(path: str) -> TableKind | Literal["json"] | None:
    """Tell a file that holds rows by its first bytes; None for anything else.

    Raises:
        Reject: unreadable_file, of a compressed text.
    """
    kind = table_kind(path)
    if kind is not None or not os.path.isfile(path):
        return kind
    try:
        text = utf8_path(path)
    except InputError as error:
        raise Reject(RejectReason.UNREADABLE_FILE, error.message) from error
    with open_regular(text) as file:
        head = file.read(4096).removeprefix(_BOM).lstrip()
    return "json" if head.startswith((b"{", b"[")) else None


def read_cell(path: str, kind: TableKind | Literal["json"], key: str) -> bytes:
    """Return the bytes of the media at `key` in a data file.

    Raises:
        Reject: missing_key, empty_file or unreadable_file.
    """
    row, *steps = (step.replace("~1", "/").replace("~0", "~") for step in key.split("/"))
    try:
        value = _json_value(path, row, steps) if kind == "json" else _table_value(path, row, steps)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise Reject(RejectReason.MISSING_KEY, f"{path}: nothing at {key!r}") from error
    except (InputError, OSError) as error:
        message = error.message if isinstance(error, InputError) else f"{path}: {error.strerror or error}"
        raise Reject(RejectReason.UNREADABLE_FILE, message) from error
    data = _bytes_of(value, f"{path}::{key}")
    if not data:
        raise Reject(RejectReason.EMPTY_FILE, f"{path}::{key}: zero bytes")
    return data


def _table_value(path: str, row: str, steps: list[str]) -> Any:
    value = read_scalar(path, int(row), steps[0])
    for step in steps[1:]:
        # lists of all kinds, views too; an entry of a map is a tuple
        is_field = not isinstance(value, tuple) and pa.types.is_struct(value.type)
        value = value[step if is_field else int(step)]
    if not isinstance(value, tuple) and pa.types.is_struct(value.type):
        value = value["bytes"]  # what is beside it is not looked at
    if isinstance(value, tuple) or pa.types.is_nested(value.type):
        raise TypeError("no bytes and no text")
    return value.as_py()


def _json_value(path: str, row: str, steps: list[str]) -> Any:
    start, length = (int(part) for part in row.split("+"))
    if start < 0 or length < 0:
        raise IndexError(row)
    value = _parsed(path, start, length)
    for step in steps:
        value = value[int(step) if isinstance(value, list) else step]
    return value


def _parsed(path: str, start: int, length: int) -> Any:
    """Return a row's value; the last one is kept, since a row's media are read one after the other."""
    with open_regular(utf8_path(path)) as file:
        if start + length > os.fstat(file.fileno()).st_size:
            raise IndexError(start + length)
        data = os.pread(file.fileno(), length, start)
    if _last.get("data") != data:
        _last.update(data=data, value=parse_row(data, lenient=True)[0])
    return _last["value"]


_last: dict[str, Any] = {}


def _bytes_of(value: Any, where: str) -> bytes:
    if isinstance(value, dict):
        value = value.get("bytes")
    if isinstance(value, bytes):
        return value
    if value is None:
        given_back = "nothing stands there (a media store: given back by `vlm-prep gc --free`)"
        raise Reject(RejectReason.MISSING_KEY, f"{where}: {given_back}")
    if not isinstance(value, str):
        raise Reject(RejectReason.MISSING_KEY, f"{where}: no media, but {type(value).__name__}")
    return decode_base64(value, where)


def decode_base64(text: str, where: str) -> bytes:
    """Return the bytes of a data: URL or of plain base64 text.

    Raises:
        Reject: unreadable_file, it is neither.
    """
    if text[:5].lower() == "data:":
        header, comma, text = text.partition(",")
        if not comma or not header.lower().endswith(_BASE64):
            raise Reject(RejectReason.UNREADABLE_FILE, f"{where}: a data: URL that is not base64")
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise Reject(RejectReason.UNREADABLE_FILE, f"{where}: not valid base64: {error}") from error
