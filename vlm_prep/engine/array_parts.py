"""A run that several machines do in parts, without a word between them.

    OUT/_work/parts/00003-of-00008    part 3 of 8 was begun
    OUT/_work/lock-00003-of-00008     who does it

Part i of n does the tasks t with t mod n = i - 1 and commits each as any run does; the records of all parts are those
of one run. A part excludes only another process that does the same part, and all of them exclude a whole run and the
finishing, which hold `_work/lock`: each side takes its own lock first and looks at the other's then, so of two that
meet one gives up.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from vlm_prep.core.atomic_files import write_bytes_atomically
from vlm_prep.core.errors import InputError, OutputError, StoreError
from vlm_prep.engine.lock import Lock
from vlm_prep.engine.ownership import read_plan
from vlm_prep.shards.manifest import WORK

_MOST_NAMED = 12
_NAME = re.compile(r"(\d{5})-of-(\d{5})")


@dataclass(frozen=True, kw_only=True)
class Part:
    """One of the `count` parts of a run; they are numbered from 1."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @property
    def name(self) -> str:
        """In the names of files."""
        return f"{self.number:05d}-of-{self.count:05d}"

    def owns(self, task: int) -> bool:
        """Whether the task of this number is the part's. Neighbours go to different parts: data sets differ in cost."""
        return task % self.count == self.number - 1

    def lock(self, folder: Path, say: Callable[[str], None]) -> Lock:
        """Return the part's lock."""
        return Lock(f"part {self} of {folder}", folder / WORK / f"lock-{self.name}", say)


def parse_part(text: str) -> Part:
    """Read "3/8".

    Raises:
        InputError: it is no such thing.
    """
    found = re.fullmatch(r"(\d{1,5})/(\d{1,5})", text)
    if found is None or not 1 <= int(found[1]) <= int(found[2]) < 100_000:
        raise InputError(f"`part={text!r}`: expected i/n with i from 1 to n", "for example: `part=3/8`")
    return Part(number=int(found[1]), count=int(found[2]))


def enter(folder: Path, part: Part) -> None:
    """Note that a part was begun.

    Raises:
        OutputError: the folder is made in another number of parts.
    """
    notes = folder / WORK / "parts"
    notes.mkdir(exist_ok=True)
    write_bytes_atomically(notes / part.name, b"", shared=True)
    if others := [each for each in _begun(folder) if each.count != part.count]:
        (notes / part.name).unlink(missing_ok=True)
        raise OutputError(
            f"{folder} is made in {others[0].count} parts, not in {part.count}",
            f"give `part=i/{others[0].count}`; the command without `part` does all that is missing",
        )


def must_be_idle(folder: Path, say: Callable[[str], None]) -> None:
    """Make sure that nobody does a part of the folder.

    Raises:
        OutputError: a process does, or one on another host may.
    """
    for part in _begun(folder):
        part.lock(folder, say).must_be_free()


def must_be_complete(folder: Path) -> None:
    """Make sure that all tasks of an unfinished folder are done.

    Raises:
        StoreError: some are not; their parts are named.
    """
    plan = read_plan(folder)
    done = {int(path.stem.removeprefix("task-")) for path in (folder / WORK / "done").glob("task-*.json")}
    missing = [task for task in range(plan.tasks) if task not in done]
    begun = _begun(folder)
    if not missing:
        return
    if not begun:
        raise StoreError(
            f"{folder} is unfinished: of {plan.tasks} tasks {len(missing)} are missing: {_listed(missing)}",
            f"run the same `vlm-prep {plan.stage}` command again, it continues where it stopped",
        )
    count = begun[0].count
    lines = list(_missing_parts(folder, missing, count, {each.number for each in begun}))
    raise StoreError(
        "\n    ".join([f"{folder}: {len(lines)} of {count} parts are missing:", *lines]),
        f"run the same `vlm-prep {plan.stage}` command with `part` for each of them, they continue where they stopped",
    )


def _missing_parts(folder: Path, missing: list[int], count: int, begun: set[int]) -> Iterator[str]:
    """Yield a line for each part that is not done."""
    for number in range(1, count + 1):
        part = Part(number=number, count=count)
        mine = [task for task in missing if part.owns(task)]
        if mine:
            yield f"`part={part}`: {_state(folder, part, number in begun)}; task(s) {_listed(mine)} missing"


def _state(folder: Path, part: Part, begun: bool) -> str:
    if not begun:
        return "never begun"
    try:
        part.lock(folder, print).must_be_free()
    except OutputError:
        return "at work"
    return "stopped"


def _listed(tasks: list[int]) -> str:
    more = [f"and {len(tasks) - _MOST_NAMED} more"] if len(tasks) > _MOST_NAMED else []
    return ", ".join([*map(str, tasks[:_MOST_NAMED]), *more])


def _begun(folder: Path) -> list[Part]:
    """Return the parts that were begun, in order."""
    found = (_NAME.fullmatch(path.name) for path in sorted((folder / WORK / "parts").glob("*")))
    return [Part(number=int(name[1]), count=int(name[2])) for name in found if name]
