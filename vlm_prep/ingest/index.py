"""Where the rows of a data file are, found without parsing them.

Stands between `meta` and `row_source`: the main process builds one index for each file, workers then read any row
with one `pread`. JSON lines are found by numpy over 8 MiB pieces, rows of other JSON by `json_scan`. Measured on one
core, index and lines and all: 1.3-1.8 GB/s for JSON lines of 0.4-2 KB, 190-225 MB/s for arrays of such rows, 80 MB/s
for rows of 380 bytes.

Invariant: `starts[i]:ends[i]` is row i and nothing else, blanks and separators left out. Memory is 24 bytes a
row; the pages of the map are given back every 16 MiB. What is inside a row is the row's own matter and is judged when
it is read.
"""

from __future__ import annotations

import os
import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from vlm_prep.core.errors import InputError
from vlm_prep.ingest.json_scan import BOM, LENIENT_BETWEEN, elements
from vlm_prep.ingest.sniff import text_form
from vlm_prep.ingest.spec import TextForm, TextReading

_CHUNK = 8 << 20
_LINE_BLANKS = b" \t\r\n"
_COMMENT = re.compile(rb"\s*(?://.*|#.*|/\*(?:[^*]|\*(?!/))*+\*/)\s*", re.DOTALL)
_BEFORE_COMMENTS = np.frombuffer(b"/# \t", np.uint8)


@dataclass(frozen=True, slots=True)
class RowIndex:
    """Byte ranges and lines of a file's rows; three arrays of shape (rows,), int64."""

    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    """Exclusive."""
    lines: NDArray[np.int64]
    """1-based line on which each row starts."""
    kind: TextForm
    notes: frozenset[str] = frozenset()
    """What of the file as a whole was read in another form, of `formats.noticed.NOTES`; it holds for each row."""

    def __len__(self) -> int:
        return len(self.starts)


def build_index(path: str | Path, reading: TextReading | None = None) -> RowIndex:
    """Find every row of `path`.

    Args:
        path: in UTF-8.
        reading: how the user says it is to be read.

    Raises:
        InputError: the file holds no rows that are known, or the brackets and commas around them do not add up; with
            the line.
    """
    reading = reading or TextReading()
    form = text_form(path, reading)
    if form in ("lines", "cr_lines"):
        return _index_lines(path, form, lenient=reading.lenient_json)
    found, noticed = array("q"), set[str]()
    for element in elements(path, form, rows_key=reading.rows_key, lenient=reading.lenient_json, noticed=noticed):
        found.extend(element)
    starts, ends, lines = np.array(found, dtype=np.int64).reshape(-1, 3).T.copy()
    return RowIndex(starts, ends, lines, form, frozenset(noticed | _form_note(form)))


def _form_note(form: TextForm) -> set[str]:
    """Return the note of a form that is not one of the two usual ones."""
    return set() if form in ("array", "lines") else {f"read_{form}"}


def read_row(file: BinaryIO, start: int, end: int) -> bytes:
    """Return the bytes `start:end` of an open file.

    `pread` and not a map: pages of a map count as the worker's own memory, and a forked file position is
    shared.

    Raises:
        InputError: the file ends before `end`; it was changed after it was indexed.
    """
    data = os.pread(file.fileno(), end - start, start)
    if len(data) != end - start:
        raise InputError(f"{file.name}: the file became shorter while it was read", "Start the run again.")
    return data


# ---- JSON lines ----


def _index_lines(path: str | Path, form: TextForm, *, lenient: bool) -> RowIndex:
    end = b"\r" if form == "cr_lines" else b"\n"
    blocks = [_rows_of_block(*block, end[0], lenient) for block in _line_blocks(path, end)]
    starts, ends, lines = (np.concatenate(column) for column in zip(*(block[:3] for block in blocks), strict=True))
    noticed = {LENIENT_BETWEEN} if any(block[3] for block in blocks) else set()
    return RowIndex(starts, ends, lines, form, frozenset(noticed | _form_note(form)))


def _line_blocks(path: str | Path, line_end: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield (whole lines, their offset in the file, the number of the first one)."""
    with open(path, "rb") as file:
        rest = file.read(len(BOM))
        offset, line, rest = (len(BOM), 1, b"") if rest == BOM else (0, 1, rest)
        while chunk := file.read(_CHUNK):
            cut = chunk.rfind(line_end) + 1
            if not cut:  # a line longer than a chunk
                rest += chunk
                continue
            block = rest + chunk[:cut]
            yield block, offset, line
            offset, line, rest = offset + len(block), line + block.count(line_end), chunk[cut:]
        yield rest, offset, line


def _rows_of_block(
    block: bytes, offset: int, line: int, line_end: int, lenient: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], bool]:
    """Return starts, ends and lines of a block's rows, and whether lines of comments were left out."""
    data = np.frombuffer(block, dtype=np.uint8)
    ends = np.flatnonzero(data == line_end)
    if not block.endswith(bytes((line_end,))):
        ends = np.append(ends, len(block))
    starts = np.concatenate([np.zeros(1, dtype=np.int64), ends[:-1] + 1])
    keep = starts < ends
    for number in np.flatnonzero(keep)[data[starts[keep]] == BOM[0]]:  # of a file that was appended
        starts[number] += len(BOM) if block.startswith(BOM, starts[number]) else 0
    keep &= starts < ends
    # only a line that begins with a blank can be all blank, so Python looks at few
    for number in np.flatnonzero(keep)[data[starts[keep]] <= ord(" ")]:
        keep[number] = bool(block[starts[number] : ends[number]].strip(_LINE_BLANKS))
    has_comments = False
    if lenient:
        for number in np.flatnonzero(keep)[np.isin(data[starts[keep]], _BEFORE_COMMENTS)]:
            keep[number] = _COMMENT.fullmatch(block[starts[number] : ends[number]]) is None
            has_comments |= not keep[number]
    starts, ends, lines = starts[keep], ends[keep], np.flatnonzero(keep) + line
    ends = ends - (data[ends - 1] == 13)
    return starts + offset, ends + offset, lines.astype(np.int64), bool(has_comments)
