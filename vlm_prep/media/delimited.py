"""CSV and TSV text as JSON lines, a record on the line where it began, so that a row is found by its line.

The first record names the columns. Values are texts, except in columns that hold seconds or rates. CSV is quoted as
RFC 4180 says; where its first line has semicolons or tabs and no comma, these part the fields, as spreadsheets of many
countries write them. TSV knows no quotes, as Common Voice writes it, unless the whole file is written as pandas and
spreadsheets quote: each field with a quote in it stands in quotes, which are doubled inside. Where they would stand for
commas alone, as Excel has it, they may be quotations as well: such a record is doubtful. One that is, or has another
number of fields than the first, is written as what is wrong with it, a text, which no reader takes for a row.
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from vlm_prep.core.visible import excerpt

_NUMBERS: Final = frozenset(
    (*("offset", "duration", "start", "end", "start_time", "end_time", "begin_time", "audio_start", "audio_end"),
     *("video_start", "video_end", "fps", "sample_fps"))
)  # fmt: skip
_LONGEST: Final = 1 << 30
_LONGEST_QUOTED: Final = 1 << 26
"""Of a field, while it is asked whether a TSV has quotes: a quote that nothing closes would take the whole file."""
_SPECIAL: Final = frozenset('"\t\r\n')
"""What a field stands in quotes for."""
_NEEDS: Final = _SPECIAL | {","}


@dataclass(frozen=True)
class Dialect:
    """How the records of a text are written."""

    delimiter: str
    quoted: bool
    is_usual: bool = True
    """Whether so as its name says."""
    is_doubtful: bool = False
    """Whether quotes may be a spreadsheet's or the text's own."""


def delimiter_of(name: str | Path) -> str | None:
    """Return what parts the fields of a file by its name (without the ending of its compression); None for others."""
    return {".csv": ",", ".tsv": "\t"}.get(os.path.splitext(name)[1].lower())


def dialect_of(file: Iterable[str], delimiter: str) -> Dialect:
    """Tell how the records of a text are written whose name says what parts their fields; `file` has its lines."""
    if delimiter == "\t":
        quoted = _is_quoted(file)
        return Dialect(delimiter, bool(quoted), is_usual=not quoted, is_doubtful=quoted is None)
    first = next(iter(file), "")
    other = next((sign for sign in ";\t" if sign in first and "," not in first), None)
    return Dialect(other or delimiter, quoted=True, is_usual=other is None)


def _is_quoted(file: Iterable[str]) -> bool | None:
    """Whether a TSV is written with quotes: what has to stand in them does, something has to, and nothing does without
    need (a comma is one for spreadsheets), as a sentence that is a quotation would; or all of the first line does.
    None where all fields with a comma stand in quotes, and no other field does."""
    taken: list[str] = []

    def lines() -> Iterator[str]:
        for line in file:
            taken.append(line)
            yield line

    csv.field_size_limit(_LONGEST_QUOTED)
    needed, everywhere, in_doubt, plain_comma = False, False, False, False
    try:
        for number, record in enumerate(csv.reader(lines(), delimiter="\t", strict=True)):
            written = "".join(taken)
            taken.clear()
            if '"' not in written:
                plain_comma = plain_comma or "," in written
                continue
            at, quoted = 0, []
            for field in record:
                is_quoted = written[at : at + 1] == '"'
                as_written = '"' + field.replace('"', '""') + '"' if is_quoted else field
                if written[at : at + len(as_written)] != as_written or (not is_quoted and '"' in field):
                    return False
                quoted.append(is_quoted)
                at += len(as_written) + 1
            if number == 0:
                everywhere = all(quoted)
            in_quotes = [field for field, is_quoted in zip(record, quoted, strict=True) if is_quoted]
            if not everywhere and any(_NEEDS.isdisjoint(field) for field in in_quotes):
                return False
            needed |= any(not _SPECIAL.isdisjoint(field) for field in in_quotes)
            in_doubt |= bool(in_quotes)
            plain_comma |= any("," in field for field, one in zip(record, quoted, strict=True) if not one)
    except csv.Error:
        return False
    if needed or everywhere:
        return True
    return None if in_doubt and not plain_comma else False


def json_lines(lines: Iterable[str], dialect: Dialect) -> Iterator[str]:
    """Yield the records of delimited text as JSON, each with its line end, and line ends alone for lines between.

    Raises:
        csv.Error: the text is not CSV (an open quote at its end).
    """
    csv.field_size_limit(_LONGEST)
    quoting: Any = csv.QUOTE_MINIMAL if dialect.quoted else csv.QUOTE_NONE
    reader = csv.reader(lines, delimiter=dialect.delimiter, quoting=quoting, strict=True)
    names, written = next(reader, []), 0
    if twice := [name for place, name in enumerate(names) if name in names[:place]]:
        raise csv.Error(f"two columns are named {excerpt(twice[0])} in the first line")
    begins = reader.line_num
    for record in reader:
        if record:
            yield "\n" * (begins - written)
            yield orjson.dumps(_row(names, record, dialect), option=orjson.OPT_APPEND_NEWLINE).decode()
            written = begins + 1
        begins = reader.line_num


def _row(names: list[str], record: list[str], dialect: Dialect) -> dict[str, Any] | str:
    if len(record) != len(names):
        return f"{len(record)} fields, and {len(names)} columns in the first line"
    if dialect.is_doubtful and (doubt := next((field for field in record if field.startswith('"')), None)):
        what = f"{excerpt(doubt)} stands in quotes, which may be a spreadsheet's or its own"
        return f'{what}: name the file .csv for the first, or write them twice, as in """yes, no""", for the other'
    return {name: _value(name, value) for name, value in zip(names, record, strict=True)}


def _value(name: str, value: str) -> str | float:
    if name not in _NUMBERS:
        return value
    try:
        number = float(value)
    except ValueError:
        return value
    return number if math.isfinite(number) else value
