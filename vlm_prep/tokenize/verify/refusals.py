"""Rows that the real processor cannot take or makes otherwise, the same whatever the workers, their order and kills.

Compared are rows that follow from the source alone: the share that is chosen by hash, by each task, and over the whole
run the first row of each shape. Where the processor refuses one, every row of the shape to blame is compared, in all
tasks, and those that it refuses are noted as poison, so that their tasks are done again without them; or with them,
where it makes another row and is asked for it (`asking`). A row that is refused alone among others of its shape, and is
not compared, is not found (`verify_fraction=1` compares all).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from vlm_prep.core.errors import RejectReason
from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.engine.stage import Send
from vlm_prep.engine.tasks import Poison, Record, Task
from vlm_prep.tokenize.verify.choose import ROWS_PER_KIND
from vlm_prep.tokenize.verify.shapes import Shape


@dataclass
class Refusals:
    """Finds the rows of a run that the real processor cannot take, see the module.

    Args:
        tasks: of the run, in order.
        suspects: rows to compare whatever their shapes.
    """

    tasks: Sequence[Task]
    suspects: frozenset[int] = frozenset()
    _compared: set[int] = field(default_factory=set)
    _closed: set[Shape] = field(default_factory=set)

    def knows(self, equal: Iterable[int]) -> None:
        """Take in rows that were compared, and are equal, when the run began."""
        self._compared.update(equal)

    def find(self, records: Sequence[Record], shards: Path, send: Send) -> list[Poison]:
        """Return the rows to reject that are not rejected yet.

        Where a run is killed while they are noted, it must find the rest again: rows that showed which shapes to
        compare come last.

        Raises:
            ExactnessError: a row differs from the real processor's output.
        """
        shapes = {shape for record in records for shape in record.facts.get("refused", ())}
        showed = {number for record in records for number in record.facts.get("refused", {}).values()}
        for record, numbers in self._firsts(records):
            task = self._task(record, numbers)
            for number, shape, _, _ in send("refused_rows", task):
                shapes.add(shape)
                showed.add(number)
            self._compared |= set(numbers)
        return self._search(records, shapes, showed, send)

    def spread(self, refused: Sequence[Poison], records: Sequence[Record], send: Send) -> list[Poison]:
        """Return rows that were refused when more were compared, and all others of their shapes that are, too."""
        shapes: set[Shape] = set()
        for poison in refused:
            record = next(each for each in records if poison.row in self.tasks[each.task].numbers)
            shapes |= {shape for _, shape, _, _ in send("refused_rows", self._task(record, [poison.row]))}
        showed = {poison.row for poison in refused}
        found = {poison.row: poison for poison in self._search(records, shapes, showed, send)}
        return [*found.values(), *(poison for poison in refused if poison.row not in found)]

    def _search(
        self, records: Sequence[Record], shapes: set[Shape], showed: Container[int], send: Send
    ) -> list[Poison]:
        """Compare all rows of some shapes; return those that are refused, and those that showed it last."""
        shapes = shapes - self._closed
        found: dict[int, Poison] = {}
        for record in records if shapes else ():
            if shapes & {*record.facts.get("shapes", ()), *record.facts.get("refused", ())}:
                for number, _, reason, message in send("refused_rows", self._task(record), shapes):
                    found[number] = Poison(row=number, reason=reason.value, message=message)
        self._closed |= shapes
        return sorted(found.values(), key=lambda poison: (poison.row in showed, poison.row))

    def _firsts(self, records: Sequence[Record]) -> Iterable[tuple[Record, list[int]]]:
        """The first rows of the run's shapes, and the suspects, that no process has compared, by record."""
        seen: set[Shape] = set()
        for record in records:
            firsts = record.facts.get("firsts", {})
            numbers = {number for shape, number in firsts.items() if shape not in seen}
            seen |= set(firsts)
            numbers |= self.suspects.intersection(self.tasks[record.task].numbers)
            if left := sorted(numbers - set(record.facts.get("equal", ())) - self._compared):
                yield record, left

    def _task(self, record: Record, numbers: Sequence[int] | None = None) -> Task:
        task = self.tasks[record.task]
        only = tuple(number for number in numbers or task.numbers if number not in record.poison)
        return replace(task, only=only, poison=())


def top_up(
    config: TokenizeConfig, records: Sequence[Record], shards: Path, send: Send, done: Counter[str]
) -> tuple[Counter[str], list[Poison]]:
    """Compare more rows of the kinds of which fewer than eight were chosen; return how many,
    and those that the real processor cannot take.

    Args:
        config: settings.
        records: whose rows there are.
        shards: where their shards are.
        send: has a worker compare a row.
        done: how many rows of each kind other records had compared.
    """
    added: Counter[str] = Counter()
    refused: list[Poison] = []
    if config.verify_fraction <= 0:
        return added, refused
    for record in records:
        done.update(record.facts["checked"])
    for record in records:
        for kind, places in record.facts["spare"].items():
            for number, shard, index in places:
                if done[kind] >= ROWS_PER_KIND:
                    break
                info = record.shards[shard]
                alone = Task(index=record.task, start=number, stop=number + 1)
                counts, reject = send("check_written", alone, shards / info.name, info, index)
                if reject is not None:
                    refused.append(Poison(row=number, reason=reject.reason.value, message=reject.message))
                done.update(counts)
                added.update(counts)
    return added, refused


@dataclass
class LastCheck:
    """What a run compares when its tasks are done: shapes that it met first, then kinds of which it compared too few.

    Args:
        refusals: of the run.
        config: its settings.
        say: tells the user a line.
        before: how many rows of each kind the store had compared.
    """

    refusals: Refusals
    config: TokenizeConfig
    say: Callable[[str], None]
    before: Counter[str] = field(default_factory=Counter)
    compared: list[Counter[str]] = field(default_factory=list)
    """What the last call compared beside what the records tell; empty before there is nothing to do again."""

    def refused(self, records: Sequence[Record], shards: Path, send: Send) -> list[Poison]:
        """Return the rows whose tasks are to be done again, see `engine.stage.Stage.check`."""
        refused = self.refusals.find(records, shards, send)
        if not refused:
            compared, refused = top_up(self.config, records, shards, send, self.before.copy())
            refused = self.refusals.spread(refused, records, send)
            self.compared[:] = [compared]
        if refused:
            self.say(_said_of(refused))
        return refused


def _said_of(refused: Sequence[Poison]) -> str:
    """Return what to tell the user of rows that were found."""
    others = sum(poison.reason == RejectReason.PROCESSOR_DIFFERS.value for poison in refused)
    cannot = f"the processor cannot take {len(refused) - others} rows more" if len(refused) > others else ""
    makes = f"it makes {others} rows otherwise than we do, and is asked for them" if others else ""
    return f"note: {'; '.join(each for each in (cannot, makes) if each)}: their tasks are done again"
