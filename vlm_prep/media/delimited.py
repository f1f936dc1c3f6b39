"""CSV and TSV text as JSON lines, a record on the line where it began, so that a row is found by its line.

The first record names the columns. Values are texts, except in columns that hold seconds or rates. TSV knows no
quotes, as Common Voice writes it; CSV is quoted as RFC 4180 says. A record with another number of fields than the first
is written as what is wrong with it, a text, which no reader takes for a row.
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import orjson

from vlm_prep.core.visible import excerpt

_NUMBERS: Final = frozenset(
    (*("offset", "duration", "start", "end", "start_time", "end_time", "begin_time", "audio_start", "audio_end"),
     *("video_start", "video_end", "fps", "sample_fps"))
)  # fmt: skip
_LONGEST: Final = 1 << 30


def delimiter_of(name: str | Path) -> str | None:
    """Return what parts the fields of a file by its name (without the ending of its compression); None for others."""
    return {".csv": ",", ".tsv": "\t"}.get(os.path.splitext(name)[1].lower())


def json_lines(lines: Iterable[str], delimiter: str) -> Iterator[str]:
    """Yield the records of delimited text as JSON, each with its line end, and line ends alone for lines between.

    Raises:
        csv.Error: the text is not CSV (an open quote at its end).
    """
    csv.field_size_limit(_LONGEST)
    quoting: Any = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
    reader = csv.reader(lines, delimiter=delimiter, quoting=quoting, strict=True)
    names, written = next(reader, []), 0
    if twice := [name for place, name in enumerate(names) if name in names[:place]]:
        raise csv.Error(f"two columns are named {excerpt(twice[0])} in the first line")
    begins = reader.line_num
    for record in reader:
        if record:
            yield "\n" * (begins - written)
            yield orjson.dumps(_row(names, record), option=orjson.OPT_APPEND_NEWLINE).decode()
            written = begins + 1
        begins = reader.line_num


def _row(names: list[str], record: list[str]) -> dict[str, Any] | str:
    if len(record) != len(names):
        return f"{len(record)} fields, and {len(names)} columns in the first line"
    return {name: _value(name, value) for name, value in zip(names, record, strict=True)}


def _value(name: str, value: str) -> str | float:
    if name not in _NUMBERS:
        return value
    try:
        number = float(value)
    except ValueError:
        return value
    return number if math.isfinite(number) else value
