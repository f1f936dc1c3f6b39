"""What a command takes: the settings that its function's parameters name, and their values."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import orjson
import typer

from vlm_prep.core.errors import InputError
from vlm_prep.core.fields import Flag, OnlyFlag, Positional, ReadsFile, Setting, Settings, read_annotation, settings_of
from vlm_prep.core.regular_files import read_given
from vlm_prep.processors.chat_template import FILES

CommandFunction = Callable[..., None]


@dataclass(frozen=True)
class Without:
    """Of a parameter that is a group of settings: leave those of some of its groups at their defaults."""

    groups: tuple[type[Settings], ...]

    def __init__(self, *groups: type[Settings]) -> None:
        object.__setattr__(self, "groups", groups)


@dataclass(frozen=True)
class Taken:
    """What a command takes."""

    own: dict[str, Setting]
    """Its parameters that are settings themselves."""
    groups: dict[str, tuple[type[Settings], tuple[Setting, ...]]]
    """Its parameters that are groups of settings, and which settings of each."""

    @property
    def in_files(self) -> list[Setting]:
        """Those that a run file may say: all but the switches of a command itself, and what is a flag alone."""
        said = [each for each in self.settings if each.group or each.kind is not bool or each.default is True]
        fields = (each for name in self.groups for each in self.of_files(name))
        return [*(each for each in said if not each.note(OnlyFlag)), *fields]

    def of_files(self, group: str) -> list[Setting]:
        """Return the fields of a group that run files alone give: a flag of that name means something else."""
        only = {name for name, each in self.own.items() if each.note(OnlyFlag)}
        return [each for each in settings_of(self.groups[group][0]) if each.name in only]

    @property
    def settings(self) -> list[Setting]:
        """All settings, each once."""
        return [*self.own.values(), *(each for _, found in self.groups.values() for each in found)]

    def arguments(self, given: Mapping[str, Any], written: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of the command's function.

        Args:
            given: the options of the command line; None where one was not given.
            written: settings from elsewhere that stand behind them.

        Raises:
            InputError: a value is not usable, or one is missing.
        """
        given = self._placed(given, written)
        values = {
            each.name: _value(each, given.get(each.name), {} if each.note(OnlyFlag) else written)
            for each in self.settings
        }
        for each in self.own.values():
            each.check(values[each.name])
        own = {name: values[name] for name in self.own}
        made = {
            name: kind(
                **{each.name: values[each.name] for each in found},
                **{each.name: _value(each, None, written) for each in self.of_files(name)},
                **self._last(kind, own),
            )
            for name, (kind, found) in self.groups.items()
        }
        return own | made

    def _placed(self, given: Mapping[str, Any], written: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the options with the words of the command line at the arguments that a file does not say, where
        there are as many: in `explain --config job.yaml 17` the file says the source."""
        places = [each.name for each in self.own.values() if each.note(Positional) and not each.is_list]
        words = [given[name] for name in places if given.get(name) is not None]
        unsaid = [name for name in places if name not in written]
        if not words or len(words) != len(unsaid):
            return given
        return {**given, **dict.fromkeys(places), **dict(zip(unsaid, words, strict=True))}

    def _last(self, kind: type[Settings], own: Mapping[str, Any]) -> dict[str, Any]:
        """Return what several values of a parameter mean for the field of a group whose place it takes: the last."""
        fields = (
            each
            for each in settings_of(kind)
            if each.name in own and not each.is_list and not self.own[each.name].note(OnlyFlag)
        )
        return {each.name: own[each.name][-1] for each in fields if self.own[each.name].is_list and own[each.name]}


@cache
def taken(function: CommandFunction) -> Taken:
    """Return what a command's function takes."""
    parameters = inspect.signature(function, eval_str=True).parameters.values()
    own: dict[str, Setting] = {}
    groups: dict[str, type[Settings]] = {}
    left: dict[str, tuple[type[Settings], ...]] = {}
    for each in parameters:
        if each.annotation is typer.Context:
            continue
        kind, *notes = get_args(each.annotation) if get_origin(each.annotation) is Annotated else (each.annotation,)
        if inspect.isclass(kind) and issubclass(kind, Settings):
            groups[each.name] = kind
            left[each.name] = next((note.groups for note in notes if isinstance(note, Without)), ())
        else:
            default = MISSING if each.default is each.empty else each.default
            own[each.name] = read_annotation(each.name, each.annotation, default)
    return Taken(
        own,
        {
            name: (kind, tuple(s for s in settings_of(kind) if s.name not in own and s.group not in left[name]))
            for name, kind in groups.items()
        },
    )


def _value(setting: Setting, given: Any, written: Mapping[str, Any]) -> Any:
    """Return a setting's value: as given, else as written, else its default."""
    other = written.get(setting.name, setting.default)
    if setting.is_map:
        found = _pairs(setting, given or ())
        return {**(other or {}), **found} if found else other
    if given is None or (setting.is_list and not given):
        if other is MISSING:
            what = setting.name.upper() if setting.note(Positional) else setting.flag
            raise InputError(f"{what} is missing", f"{setting.text}")
        return other
    if setting.note(ReadsFile):
        return read_text(setting, given)
    return list(given) if setting.is_list else given


def _pairs(setting: Setting, values: Sequence[str]) -> dict[str, Any]:
    """Read key=value options; a value that may be anything and is JSON is read as such (numbers, true, lists)."""
    found: dict[str, Any] = {}
    text_only = get_args(setting.kind)[1] is str
    own = setting.note(Flag)
    for value in values:
        key, equals, name = value.partition("=")
        if not equals or not key or not name:
            example = f"for example: {setting.flag} {own.example}" if own else None
            raise InputError(f"{setting.flag} {value!r}: expected key=value", example)
        try:
            found[key] = name if text_only else orjson.loads(name)
        except orjson.JSONDecodeError:
            found[key] = name
    return found


def read_text(setting: Setting, path: str | Path) -> str:
    """Return the text of the file that a setting names.

    Raises:
        InputError: it cannot be read.
    """
    if Path(path).is_dir():  # a processor's: its own template
        path = next((file for name in FILES if (file := Path(path) / name).is_file()), path)
    try:
        return read_given(Path(path))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"`{setting.name}={path}`: {error}", "give a file in UTF-8") from error
