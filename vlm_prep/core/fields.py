"""What a setting is: one annotated field of a dataclass, from which flags, run files and documentation are derived.

    max_length: Annotated[int | None, Doc("Most tokens in a row. [default: no limit]"), Ge(1)] = None

is `--max-length` of every command that takes the group, `max_length:` of every run file, a line of the documentation,
and its bound is held for whoever makes the object in Python. The text is said to users; a field that none of them sets
has no `Doc` and is no setting.
"""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Iterable
from dataclasses import MISSING, Field, dataclass, fields
from datetime import date
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from annotated_doc import Doc
from annotated_types import Ge, Gt, Le

from vlm_prep.core.errors import InputError

Note = TypeVar("Note")


@dataclass(frozen=True)
class Flag:
    """How a setting is written on the command line, where its name alone does not say it."""

    name: str | None = None
    """Of one value of a setting that takes several: `--dataset` for `datasets`."""
    short: str | None = None
    example: str | None = None
    """Of a key=value pair."""
    metavar: str | None = None
    """What stands for the value in `--help`."""


@dataclass(frozen=True)
class Positional:
    """An argument without a flag on the command line."""


@dataclass(frozen=True)
class OnlyFlag:
    """Given on the command line alone: in run files its name means a field of the command's groups, or nothing."""


@dataclass(frozen=True)
class IsPath:
    """A file or folder (or an address on an object store), relative to the run file that names it."""

    only_existing: bool = False
    """It is one only if it exists; otherwise the text means something else, as the id of a processor on the hub."""


@dataclass(frozen=True)
class ReadsFile:
    """The setting is the text of a file; flags and run files name the file."""

    inline: bool = False
    """A run file may also hold what the file would: keys and values below the setting."""


@dataclass(frozen=True)
class Later:
    """A setting that came after stores were written: at its default it is in no fingerprint, so theirs stay."""


@dataclass(frozen=True)
class Setting:
    """One setting, read off its annotation."""

    name: str
    kind: Any
    """Its type without annotations and without None."""
    optional: bool
    """Whether it may be None."""
    default: Any
    """MISSING where there is none."""
    notes: tuple[Any, ...]
    group: type | None = None
    """The class that declares it."""

    def note(self, kind: type[Note]) -> Note | None:
        """Return the annotation of a kind, None where there is none."""
        return next((each for each in self.notes if isinstance(each, kind)), None)

    @property
    def path(self) -> IsPath | None:
        """How it is a path; None where it is none."""
        return self.note(IsPath) or (IsPath() if self.kind is Path else None)

    @property
    def text(self) -> str:
        """What is said about it."""
        doc = self.note(Doc)
        return "" if doc is None else doc.documentation

    @property
    def flag(self) -> str:
        """How it is written on the command line."""
        own = self.note(Flag)
        return (own and own.name) or "--" + self.name.replace("_", "-")

    @property
    def choices(self) -> tuple[str, ...]:
        """The values that it may have, where they are words."""
        return get_args(self.kind) if get_origin(self.kind) is Literal else ()

    @property
    def is_map(self) -> bool:
        """Whether it takes keys and values."""
        return get_origin(self.kind) is dict

    @property
    def is_list(self) -> bool:
        """Whether it takes several values."""
        return get_origin(self.kind) is list

    @property
    def help(self) -> str:
        """Its text with default and bounds, as `--help` and the documentation show it."""
        said = self.default not in (MISSING, None, False, {}, [])
        ends = [f"default: {shown(self.default)}"] if said else []
        low, high = self.note(Ge), self.note(Le)
        if low and high:
            ends.append(f"{low.ge:g} to {high.le:,}" if isinstance(high.le, int) else f"{low.ge:g} to {high.le:g}")
        return self.text + (f" [{'; '.join(ends)}]" if ends else "")

    def check(self, value: Any) -> None:
        """Hold the bounds.

        Raises:
            InputError: the value is outside of them, or none of the words that it may be.
        """
        if value is None:
            return
        if self.choices and value not in self.choices:
            hint = f"it is one of: {', '.join(self.choices)}.{did_you_mean(str(value), self.choices)}"
            raise InputError(f"`{self.name}={value}`: no such value", hint)
        for bound in self.notes:
            for each in value if self.is_list else (value,):
                if problem := _outside(each, bound):
                    raise InputError(f"`{self.name}={shown(each)}`: expected a number {problem}")


def _outside(value: Any, bound: Any) -> str | None:
    """Return what a number should be that is not within a bound; infinity and nan are within none."""
    if isinstance(bound, Gt) and not bound.gt < value < math.inf:
        return f"above {bound.gt}"
    if isinstance(bound, Ge) and not bound.ge <= value < math.inf:
        return f"of {bound.ge} or more"
    if isinstance(bound, Le) and not value <= bound.le:
        return f"of {bound.le} or less"
    return None


def shown(value: Any) -> str:
    """Return a value as it is written on a command line and in a run file."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:g}" if isinstance(value, float) else str(value)


class Settings:
    """A group of settings; subclasses are frozen dataclasses, and a dataclass of several groups inherits them."""

    title: ClassVar[str] = "Options"
    """Over its settings in `--help` and documentation."""

    def __post_init__(self) -> None:
        for setting in settings_of(type(self)):
            setting.check(getattr(self, setting.name))

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict, which the fingerprint covers."""
        later = {each.name: each.default for each in settings_of(type(self)) if each.note(Later)}
        values = {each.name: getattr(self, each.name) for each in fields(self)}  # type: ignore[arg-type]
        return {name: value for name, value in values.items() if name not in later or value != later[name]}


_READ: dict[type, tuple[Setting, ...]] = {}


def settings_of(group: type) -> tuple[Setting, ...]:
    """Return the settings of a class, those of the groups that it inherits first."""
    if group not in _READ:
        _READ[group] = _of_class(group)
    return _READ[group]


def _of_class(group: Any) -> tuple[Setting, ...]:
    hints = get_type_hints(group, include_extras=True)
    found = (_of_field(group, each, hints[each.name]) for each in fields(group))
    return tuple(each for each in found if each.text)


def _of_field(group: type, field: Field[Any], hint: Any) -> Setting:
    made = field.default_factory is not MISSING and field.default_factory()
    default = made if field.default_factory is not MISSING else field.default
    declaring = next(each for each in group.__mro__ if field.name in inspect.get_annotations(each))
    return read_annotation(field.name, hint, default, declaring)


def read_annotation(name: str, hint: Any, default: Any = MISSING, group: type | None = None) -> Setting:
    """Return the setting that `name: hint = default` declares."""
    kind, *notes = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    parts = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    alone = [each for each in parts if each is not NoneType]
    whole = alone[0] if len(alone) == 1 else Union[tuple(alone)]  # noqa: UP007 - the parts are known at run time
    return Setting(name, whole, len(alone) < len(parts), default, tuple(notes), group)


def is_day(text: str) -> bool:
    """Whether a text is a day of the calendar in ISO form."""
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ` Did you mean 'x'?` for the nearest of `known`, or nothing where none is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else ""
