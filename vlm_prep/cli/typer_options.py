"""Settings as Typer's options, and `--help` in groups."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import MISSING
from pathlib import Path
from typing import Annotated, Any, Optional, get_args

import typer
from typer.core import TyperCommand, TyperGroup

from vlm_prep.core.fields import Flag, Positional, ReadsFile, Setting
from vlm_prep.core.visible import visible


def parameter(setting: Setting, told: Callable[[str], str], title: str | None = None) -> inspect.Parameter:
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
            help=told(setting.help), metavar=_metavar(setting) or setting.name.upper(), show_default=False
        )
    else:
        how = typer.Option(
            *_names(setting),
            *((own.short,) if own and own.short else ()),
            help=told(setting.help) + (" [required]" if setting.default is MISSING else ""),
            metavar=_metavar(setting),
            show_default=False,
            rich_help_panel=title or getattr(setting.group, "title", None),
        )
    return inspect.Parameter(
        setting.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[Optional[kind], how],  # noqa: UP045
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


class Root(TyperGroup):
    """All commands. What click says of words that it cannot use repeats them: file names, where a shell wrote them."""

    def make_context(self, *arguments: Any, **settings: Any) -> Any:
        """Read the words of the command line before the command's name."""
        with _harmless():
            return super().make_context(*arguments, **settings)

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        with _harmless():
            return super().invoke(ctx)


@contextmanager
def _harmless() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if hasattr(error, "format_message"):  # click's, which Typer has under a name of its own
            error.message = visible(error.message, lines=True)  # type: ignore[attr-defined]
        raise


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
