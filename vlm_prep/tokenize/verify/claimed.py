"""Which shapes of rows some worker of a run compares, so that others need not.

A worker notes the rows that it will compare in a file beside the shards, and passes over a shape for which a row before
its own is noted. Nothing is concluded from a note: that the first row of each shape was compared is what the records
say, and `refusals` sees to it at the end of the run. So a note that is lost, cut, or left by a worker that was killed
costs a comparison, then, and no more.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import xxhash

from vlm_prep.core.errors import Reject
from vlm_prep.core.records import Encoded
from vlm_prep.engine.tasks import Heartbeat
from vlm_prep.shards.reader import ShardReader
from vlm_prep.shards.shard_info import ShardInfo
from vlm_prep.tokenize.verify.choose import UNREADABLE, check_row
from vlm_prep.tokenize.verify.real_processor import Oracle
from vlm_prep.tokenize.verify.shapes import Shape, blamed_shape, shapes_of

_FILE = "claimed-shapes"
BEGINNING = -1
"""In the place of a row: the shape is compared when the run begins, before all others."""
Place = tuple[int, int, int]
"""A document of a task: its row's number, its shard in the task, and its row there."""


class ClaimedShapes:
    """The notes of a run.

    Args:
        folder: where its workers write shards.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / _FILE

    def claim(self, number: int, shapes: Iterable[Shape]) -> None:
        """Note that a row will be compared for its shapes, where no row before it is noted."""
        first = self._first()
        self._write(f"{number} {name}" for name in map(_name, shapes) if first.get(name, number + 1) > number)

    def leave(self, number: int, shapes: Iterable[Shape]) -> None:
        """Note that a row was not compared for its shapes after all: its media do not decode, or it is refused."""
        self._write(f"{number} {name} not" for name in map(_name, shapes))

    def _write(self, notes: Iterable[str]) -> None:
        lines = [f"{note}\n" for note in notes]
        if not lines:
            return
        with contextlib.suppress(PermissionError):  # of another user's part of the run
            file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                os.write(file, "".join(lines).encode())  # one write: lines of several workers do not mix
            finally:
                os.close(file)

    def falls_to(self, number: int, shapes: Iterable[Shape]) -> bool:
        """Whether a row is the first that is noted for one of its shapes."""
        first = self._first()
        return any(first.get(name, number) >= number for name in map(_name, shapes))

    def _first(self) -> dict[str, int]:
        """{shape: the first row that is noted for it}."""
        try:
            lines = self._path.read_text(errors="replace").splitlines()
        except OSError:
            return {}
        found: dict[str, set[int]] = {}
        for line in lines:
            number, _, rest = line.partition(" ")
            name, _, left = rest.partition(" ")
            if not number.removeprefix("-").isdecimal() or not name:
                continue
            rows = found.setdefault(name, set())
            (rows.discard if left else rows.add)(int(number))
        return {name: min(rows) for name, rows in found.items() if rows}


def _name(shape: Shape) -> str:
    return xxhash.xxh3_64_hexdigest(shape.encode())


class TaskComparisons:
    """Which documents of a task are compared, once they are written: chosen ones, and the first ones of shapes.

    Args:
        claims: of the run.
        believed: shapes that this process has compared; it is added to.
    """

    def __init__(self, claims: ClaimedShapes, believed: set[Shape]) -> None:
        self._claims, self._believed = claims, believed
        self._chosen: list[Place] = []
        self._first: dict[Place, list[Shape]] = {}
        self._shapes: dict[Place, tuple[Shape, ...]] = {}
        self._found: dict[Place, bool] = {}
        self._blamed: dict[Place, Shape] = {}

    def takes(self, place: Place, encoded: Encoded, firsts: Mapping[Shape, int], *, chosen: bool) -> bool:
        """Whether a document may be compared.

        Args:
            place: where it is.
            encoded: the document.
            firsts: the first row of each shape of the task.
            chosen: whether it is of the compared share.
        """
        number, shapes = place[0], shapes_of(encoded)
        new = [shape for shape in dict.fromkeys(shapes) if firsts[shape] == number]
        if new:
            self._first[place] = new
        claimed = [shape for shape in new if shape not in self._believed]
        if claimed:
            self._claims.claim(number, claimed)
        if chosen:
            self._chosen.append(place)
        if not claimed and not chosen:
            return False
        self._shapes[place], self._blamed[place] = shapes, blamed_shape(encoded)
        return True

    def compare(
        self, oracle: Oracle, shards: Path, infos: Sequence[ShardInfo], heartbeat: Heartbeat
    ) -> Iterator[tuple[int, Shape, Counter[str] | Reject]]:
        """Compare what falls to this process; yield of the chosen ones (number, shape to blame, what was found).

        Raises:
            ExactnessError: a document differs from the real processor's output.
        """
        for place, chosen in self._places():
            number, shard, index = place
            heartbeat(number)
            row = ShardReader(shards / infos[shard].name, infos[shard]).row(index)
            counts: Counter[str] | Reject
            try:
                counts = check_row(oracle, row)
            except Reject as reject:
                counts = reject
            self._found[place] = isinstance(counts, Counter) and not counts[UNREADABLE]
            if self._found[place]:
                self._believed.update(self._shapes[place])
            if chosen:
                yield number, self._blamed[place], counts

    def _places(self) -> Iterator[tuple[Place, bool]]:
        """Yield (document, whether it is of the compared share) of what is to be compared.

        First ones come from the last to the first: the rarest shapes are last, and what is frequent may have been
        noted meanwhile by who does the rows before.
        """
        for place in self._chosen:
            yield place, True
        for place in reversed(list(self._first)):
            left = [shape for shape in self._first[place] if shape not in self._believed]
            if left and place not in self._found and self._claims.falls_to(place[0], left):
                yield place, False

    def equal(self, before: Collection[int] = ()) -> set[int]:
        """Return the rows that are first of a shape and were compared, as a whole: no difference was found.

        Args:
            before: rows of which that is known.
        """
        rows: dict[int, bool] = dict.fromkeys(before, True)
        for place in self._first:
            rows[place[0]] = rows.get(place[0], True) and self._found.get(place, place[0] in before)
        for place, equal in self._found.items():
            rows[place[0]] = rows.get(place[0], False) and equal
        return {number for number, equal in rows.items() if equal}
