"""Let a command take settings: each field of a group becomes an option, told by its own annotation.

    @flags.command
    def tokenize(source: Source, rows: SourceConfig, config: TokenizeConfig, quiet: Quiet = False) -> None: ...

A parameter that is a group of settings (`core.fields.Settings`) gives an option for each of its fields, any other one
is an option itself. A parameter takes the place of a field with its name. No option has a default of its own, so what
was not given is known, and a run file or the field's default stands in for it.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Optional, get_args, get_origin

import orjson
import typer
from annotated_doc import Doc
from typer.core import TyperCommand

from vlm_prep.core import run_settings
from vlm_prep.core import settings as row_settings
from vlm_prep.core.errors import InputError
from vlm_prep.core.fields import (
    Flag,
    IsPath,
    Positional,
    ReadsFile,
    Setting,
    Settings,
    read_annotation,
    settings_of,
)

Source = Annotated[
    str, Positional(), IsPath(), Doc("A meta JSON, a data file, a dataset folder, or an ingested folder.")
]
Processor = Annotated[
    str,
    Flag(short="-p"),
    IsPath(only_existing=True),
    Doc("Hugging Face id, folder, or builtin:qwen2.5-vl-mini."),
]
AsJson = Annotated[bool, Flag("--json"), Doc("Print JSON.")]
Quiet = Annotated[bool, Flag(short="-q"), Doc("No progress, no notes.")]

CommandFunction = Callable[..., None]
_COMMANDS: list[Taken] = []
"""What the commands take that were made so far."""


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
        values = {each.name: _value(each, given.get(each.name), written) for each in self.settings}
        for each in self.own.values():
            each.check(values[each.name])
        own = {name: values[name] for name in self.own}
        made = {name: kind(**{each.name: values[each.name] for each in found})
                for name, (kind, found) in self.groups.items()}
        return own | made


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


def command(function: CommandFunction) -> CommandFunction:
    """Return a function for Typer in place of one that takes settings."""
    takes = taken(function)
    _COMMANDS.append(takes)
    _known.cache_clear()
    own = inspect.signature(function, eval_str=True).parameters.values()
    context = [each.replace(kind=each.KEYWORD_ONLY) for each in own if each.annotation is typer.Context]

    def called(**given: Any) -> None:
        function(**{each.name: given[each.name] for each in context}, **takes.arguments(given, {}))

    parameters = [*context, *(_parameter(each) for each in takes.settings)]
    called.__doc__ = function.__doc__
    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    called.__annotations__ = {each.name: each.annotation for each in parameters}
    called.takes = takes  # type: ignore[attr-defined]
    return called


def read(called: CommandFunction, arguments: Sequence[str]) -> dict[str, Any]:
    """Return the arguments that a command's function would be called with for the words of a command line."""
    takes: Taken = called.takes  # type: ignore[attr-defined]
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command(cls=Grouped)(called)
    return takes.arguments(typer.main.get_command(app).make_context("vlm-prep", list(arguments)).params, {})


# ---- options ----


def _parameter(setting: Setting) -> inspect.Parameter:
    """Return a parameter that Typer makes an option of."""
    kind: Any = setting.kind
    if setting.is_map:
        kind = list[str]
    elif setting.note(ReadsFile):
        kind = Path
    how: Any
    own = setting.note(Flag)
    if setting.note(Positional):
        how = typer.Argument(
            help=with_flags(setting.help), metavar=_metavar(setting) or setting.name.upper(), show_default=False
        )
    else:
        how = typer.Option(
            *_names(setting),
            *((own.short,) if own and own.short else ()),
            help=with_flags(setting.help) + (" [required]" if setting.default is MISSING else ""),
            metavar=_metavar(setting),
            show_default=False,
            rich_help_panel=getattr(setting.group, "title", None),
        )
    return inspect.Parameter(
        setting.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[Optional[kind], how]  # noqa: UP045
    )


def _metavar(setting: Setting) -> str | None:
    """Return what stands for the value in `--help`; None leaves it to Typer."""
    if setting.is_map:
        return "KEY=VALUE"
    own = setting.note(Flag)
    return (own and own.metavar) or (f"<{get_args(setting.kind)[0].__name__}>" if setting.is_list else None)


def _names(setting: Setting) -> Iterator[str]:
    """Yield how an option is written; a setting that is on or off can be said both ways, to override a run file."""
    if setting.kind is bool and (setting.group is not None or setting.default is True):
        yield f"{setting.flag}/--no-{setting.flag.removeprefix('--')}"
    else:
        yield setting.flag


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
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"`{setting.name}={path}`: {error}", "give a file in UTF-8") from error


class Grouped(TyperCommand):
    """A command whose options are shown in groups."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments, the command's own options, then each group's."""
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for each in self.get_params(ctx):
            record = each.get_help_record(ctx)
            if record is not None:
                argument = each.param_type_name == "argument"
                title = "Arguments" if argument else getattr(each, "rich_help_panel", None) or "Options"
                sections.setdefault(title, []).append(record)
        for title, records in sections.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


# ---- messages ----

_NAMED = re.compile(r"`([a-z_]+)(?:=([^`]*))?`")


def with_flags(text: str) -> str:
    """Return a message of the library, which names settings as `max_length` or `train_on=last`, with flags for them."""

    def flag(found: re.Match[str]) -> str:
        setting = _known().get(found[1])
        if setting is None:
            return found[0]
        if setting.kind is bool and found[2] in ("true", "false"):
            return setting.flag if found[2] == "true" else f"--no-{setting.flag.removeprefix('--')}"
        return setting.flag if found[2] is None else f"{setting.flag} {found[2]}"

    return _NAMED.sub(flag, text)


def groups() -> list[type[Settings]]:
    """Return all groups of settings there are."""
    found = [*vars(row_settings).values(), *vars(run_settings).values()]
    return [each for each in found if inspect.isclass(each) and issubclass(each, Settings) and each is not Settings]


@cache
def _known() -> dict[str, Setting]:
    """Return all settings there are that have flags, by name."""
    found = [each for group in groups() for each in settings_of(group)]
    own = [each for takes in _COMMANDS for each in takes.own.values() if not each.note(Positional)]
    return {each.name: each for each in (*own, *found)}
