"""Let a command take settings: each field of a group becomes an option, told by its own annotation.

    @flags.command
    def tokenize(source: Source, rows: SourceConfig, config: TokenizeConfig, quiet: Quiet = False) -> None: ...

A parameter that is a group of settings (`core.fields.Settings`) gives an option for each of its fields, any other one
is an option itself. A parameter takes the place of a field with its name; where it takes several values and the field
one, the field has the last. No option has a default of its own, so what
was not given is known, and a run file or the field's default stands in for it.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import typer
from annotated_doc import Doc

from vlm_prep.cli import terminal
from vlm_prep.cli.run_file import RunFile, read_run_file, settings_in
from vlm_prep.cli.takes import CommandFunction, Taken, Without, taken
from vlm_prep.cli.typer_options import Grouped, parameter
from vlm_prep.core import pack_settings, run_settings
from vlm_prep.core import settings as row_settings
from vlm_prep.core.fields import Flag, IsPath, Positional, Setting, Settings, read_annotation, settings_of
from vlm_prep.core.named_sources import is_placed, settled
from vlm_prep.core.run_yaml import run_yaml

__all__ = ["AsJson", "CommandFunction", "Grouped", "Processor", "Quiet", "Source", "Without", "command", "with_flags"]

Source = Annotated[
    str,
    Positional(),
    IsPath(),
    Doc(
        "A meta JSON, a data file, a dataset folder, an ingested folder, preset:NAME[=path], hf:owner/name[@revision], "
        "or mock:rows=8."
    ),
]
Processor = Annotated[
    str,
    Flag(short="-p"),
    IsPath(only_existing=True),
    Doc("Hugging Face id, folder, or builtin:qwen2.5-vl-mini."),
]
AsJson = Annotated[bool, Flag("--json"), Doc("Print JSON.")]
Quiet = Annotated[bool, Flag(short="-q"), Doc("No progress, no notes.")]

_RUNNING: ContextVar[str] = ContextVar("running", default="")
"""The name of the command that was called last: messages are for who wrote its line."""
_COMMANDS: dict[str, Taken] = {}
"""What the commands take that were made so far, by name."""


def command(function: CommandFunction) -> CommandFunction:
    """Return a function for Typer in place of one that takes settings; with groups of them it takes run files, too."""
    takes = taken(function)
    name = function.__module__.rpartition(".")[2] if function.__name__ == "command" else function.__name__
    _COMMANDS[name] = takes
    _known.cache_clear()
    own = inspect.signature(function, eval_str=True).parameters.values()
    context = [each.replace(kind=each.KEYWORD_ONLY) for each in own if each.annotation is typer.Context]

    def called(**given: Any) -> None:
        _RUNNING.set(name)
        arguments = takes.arguments(given, _written(name, given))
        if given.get("print_config"):
            terminal.echo(as_yaml(name, arguments), nl=False)
            return
        function(**{each.name: given[each.name] for each in context}, **arguments)

    files = [parameter(each, with_flags, "Run file") for each in _RUN_FILE] if takes.groups else []
    parameters = [*context, *(parameter(each, with_flags) for each in takes.settings), *files]
    called.__doc__ = function.__doc__
    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    called.__annotations__ = {each.name: each.annotation for each in parameters}
    called.name = name  # type: ignore[attr-defined]
    return called


_RUN_FILE = (
    read_annotation(
        "config_file",
        Annotated[
            Path,
            Flag("--config", metavar="FILE"),
            Doc("Settings in YAML, under their names here without dashes; what the command line says comes first."),
        ],
        None,
    ),
    read_annotation(
        "set",
        Annotated[
            list[str],
            Flag(metavar="KEY=VALUE"),
            Doc("Over a setting of the run file, e.g. processor_args.do_resize=true; may be repeated."),
        ],
        None,
    ),
    read_annotation(
        "print_config",
        Annotated[bool, Doc("Print the settings that the command would run with, as a run file.")],
        False,
    ),
)


def _written(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that the run file of a command line says."""
    if not _COMMANDS[name].groups or not (given.get("config_file") or given.get("set")):
        return {}
    file = read_run_file(given["config_file"], given["set"] or ())
    return settings_in(file, name, _COMMANDS[name].in_files, in_files())


def in_files() -> dict[str, list[Setting]]:
    """Return what a run file may say to each command."""
    return {name: takes.in_files for name, takes in _COMMANDS.items() if takes.groups}


def of_stage(stage: str, file: RunFile) -> dict[str, Any]:
    """Return the arguments that a stage's function is called with for a run file alone."""
    takes = _COMMANDS[stage]
    return takes.arguments({}, settings_in(file, stage, takes.in_files, in_files()))


def read(called: CommandFunction, arguments: Sequence[str]) -> dict[str, Any]:
    """Return the arguments that a command's function would be called with for the words of a command line."""
    name, given = _given(called, arguments)
    return _COMMANDS[name].arguments(given, _written(name, given))


def job_in(called: CommandFunction, arguments: Sequence[str]) -> RunFile:
    """Return the run file of a command line; one that says nothing where it names none."""
    _, given = _given(called, arguments)
    return read_run_file(given["config_file"], given["set"] or ())


def _given(called: CommandFunction, arguments: Sequence[str]) -> tuple[str, dict[str, Any]]:
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command(cls=Grouped)(called)
    name: str = called.name  # type: ignore[attr-defined]
    return name, typer.main.get_command(app).make_context(f"vlm-prep {name}", list(arguments)).params


def as_yaml(name: str, arguments: Mapping[str, Any]) -> str:
    """Return the arguments of a command's function as the run file that asks for them; paths are absolute."""
    takes = _COMMANDS[name]
    files = takes.in_files
    own = ((each, arguments[each.name]) for each in takes.own.values() if each in files)
    grouped = (
        (each, getattr(arguments[group], each.name))
        for group, (_, found) in takes.groups.items()
        for each in (*found, *takes.of_files(group))
    )
    values = ((each, _absolute(each, value)) for each, value in (*own, *grouped))
    return run_yaml(f"vlm-prep {name} --config FILE", values)


def _absolute(setting: Setting, value: Any) -> Any:
    path = setting.path
    if path is None or value is None or (path.only_existing and not Path(value).exists()):
        return value
    if setting.is_list:
        return [settled(each) if is_placed(each) else os.path.abspath(each) for each in value]
    if is_placed(value):
        return settled(value)
    return type(value)(os.path.abspath(value))


# ---- messages ----

_OF_FILE = "run"
"""The command whose settings stand in a file alone."""
_NAMED = re.compile(r"`([a-z_]+)(?:=([^`]*))?`")


def with_flags(text: str) -> str:
    """Return a message of the library, which names settings as `max_length` or `train_on=last`, with flags for them;
    where a job is run, which has no flags for its stages' settings, as its file names them."""
    by_file = _RUNNING.get() == _OF_FILE
    own = _COMMANDS[_OF_FILE].own if by_file else {}

    def flag(found: re.Match[str]) -> str:
        setting = _known().get(found[1])
        if setting is None:
            return found[0]
        if by_file and setting.name not in own:
            return setting.name if found[2] is None else f"{setting.name}: {found[2]}"
        if setting.kind is bool and found[2] in ("true", "false"):
            return setting.flag if found[2] == "true" else f"--no-{setting.flag.removeprefix('--')}"
        return setting.flag if found[2] is None else f"{setting.flag} {found[2]}"

    return _NAMED.sub(flag, text)


def groups() -> list[type[Settings]]:
    """Return all groups of settings there are."""
    modules = (row_settings, pack_settings, run_settings)
    found = {id(each): each for module in modules for each in vars(module).values()}.values()
    return [each for each in found if inspect.isclass(each) and issubclass(each, Settings) and each is not Settings]


@cache
def _known() -> dict[str, Setting]:
    """Return all settings there are that have flags, by name."""
    found = [each for group in groups() for each in settings_of(group)]
    own = [each for takes in _COMMANDS.values() for each in takes.own.values() if not each.note(Positional)]
    return {each.name: each for each in (*own, *found)}
