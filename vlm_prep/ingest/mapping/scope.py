"""One row as a mapping sees it.

A path is a column, or a column and what is inside of it: `gt.answer`, `choices.0`, and `shots.*.file` of each element
of a list, as a list. A column that has the whole path for its name comes first. On the way a text that is JSON is read
as such, since tables hold objects so (`ground_truth` of CORD). What is drawn (a prompt out of several) depends on the
sample's id and on how often was drawn before, and on nothing else: the same on every machine, and for any number of
workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import xxhash

from vlm_prep.core.errors import Reject, RejectReason
from vlm_prep.core.row_json import RowJsonError, parse_row
from vlm_prep.core.visible import excerpt

Path = tuple[str, ...]
_SHOWN = 20


class Absent(Reject):
    """Nothing stands where a mapping reads: no column, or null. Some values go on without it."""


class Scope:
    """A row, or what stands in one element of a list of it.

    Args:
        row: its columns.
        draws: what draws start from: the sample's id.
        lenient: whether texts are read as JSON leniently.
        outer: where names are looked up that the element has not.
    """

    def __init__(self, row: dict[str, Any], draws: str, *, lenient: bool = False, outer: Scope | None = None) -> None:
        self.row, self.draws, self._lenient, self._outer = row, draws, lenient, outer
        self._drawn = 0

    def inner(self, row: dict[str, Any], place: int) -> Scope:
        """Return the scope of an element of a list."""
        return Scope(row, f"{self.draws}/{place}", lenient=self._lenient, outer=self)

    def parsed(self, value: Any, what: str) -> Any:
        """Return the value of a text that is a JSON object or list, see `parsed`."""
        return parsed(value, what, lenient=self._lenient)

    def draw(self, count: int) -> int:
        """Return a number below `count`, the same one each time for this row."""
        self._drawn += 1
        return xxhash.xxh3_64_intdigest(f"{self.draws}:{self._drawn}".encode(errors="surrogatepass")) % count

    def get(self, path: Path) -> Any:
        """Return what a path leads to; None where a column or key holds nothing.

        Raises:
            Absent: missing_column, the row has no such column, or its value nothing of this name.
        """
        found, value = self._find(path)
        if found:
            return value
        has = ", ".join(excerpt(name) for name in list(self.row)[:_SHOWN]) or "none"
        raise Absent(RejectReason.MISSING_COLUMN, f"no column {'.'.join(path)!r} (mapping); the row has {has}")

    def find(self, path: Path) -> Any:
        """Return what a path leads to; None where there is nothing."""
        return self._find(path)[1]

    def _find(self, path: Path) -> tuple[bool, Any]:
        whole = ".".join(path)
        if whole in self.row:
            return True, self.row[whole]
        if path[0] not in self.row:
            return (False, None) if self._outer is None else self._outer._find(path)  # noqa: SLF001
        return self._inside(self.row[path[0]], path[1:], whole)

    def _inside(self, value: Any, steps: Sequence[str], whole: str) -> tuple[bool, Any]:
        for place, step in enumerate(steps):
            value = self.parsed(value, whole)
            if isinstance(value, list) and step == "*":
                return True, [self._inside(each, steps[place + 1 :], whole)[1] for each in value]
            if isinstance(value, dict):
                if step not in value:
                    return False, None
                value = value[step]
            elif isinstance(value, list) and step.isdecimal():
                if int(step) >= len(value):
                    return False, None
                value = value[int(step)]
            else:
                return value is None, None
        return True, value


def parsed(value: Any, what: str, *, lenient: bool = False) -> Any:
    """Return the value of a text that is a JSON object or list; anything else as it is.

    Raises:
        Reject: bad_json, it begins like one and is none.
    """
    if not isinstance(value, str) or value.lstrip()[:1] not in ("{", "["):
        return value
    try:
        return parse_row(value.encode(), lenient=lenient)[0]
    except (RowJsonError, UnicodeEncodeError) as error:
        raise Reject(RejectReason.BAD_JSON, f"{what} is no JSON: {error}; {excerpt(value)}") from error
