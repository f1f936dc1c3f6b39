"""A setting is said once: every command that it shapes has it, with one default and one text."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from dataclasses import dataclass, fields
from typing import Annotated, ClassVar

import pytest
import typer
from annotated_doc import Doc
from annotated_types import Ge, Gt
from typer.testing import CliRunner

from vlm_prep.cli import doctor, flags, ingest, labels, main, plan, tokenize
from vlm_prep.core.errors import InputError
from vlm_prep.core.fields import Later, Settings, settings_of
from vlm_prep.core.pack_settings import PackConfig
from vlm_prep.core.settings import (
    IngestConfig,
    LabelConfig,
    LengthConfig,
    MediaCheck,
    PayloadConfig,
    ProcessorConfig,
    SourceConfig,
    TokenizeConfig,
)

COMMANDS = {
    "tokenize": tokenize.command,
    "plan": plan.command,
    "labels": labels.command,
    "doctor": doctor.command,
    "ingest": ingest.command,
}
HAVE = {
    SourceConfig: ("tokenize", "plan", "labels", "ingest"),
    ProcessorConfig: ("tokenize", "plan", "labels", "doctor"),
    LabelConfig: ("tokenize", "plan", "labels", "doctor"),
    MediaCheck: ("tokenize", "plan", "labels", "ingest"),
    LengthConfig: ("tokenize", "labels"),
    PayloadConfig: ("tokenize", "plan"),
}
SEVERAL = {("plan", "max_pixels"), ("labels", "limit")}
"""Options of a command's own: plan shows several budgets, labels has another default."""


@functools.cache
def options_of(name: str) -> dict[str, tuple[object, str]]:
    """Return {flag: (default, help)} of a command, as Typer has them."""
    command = typer.main.get_command(main.app).commands[name]  # type: ignore[attr-defined]
    return {flag: (each.default, each.help) for each in command.params for flag in each.opts}


@pytest.mark.parametrize("group", HAVE, ids=lambda group: group.__name__)
def test_a_setting_of_rows_is_an_option_of_every_command_that_it_shapes(group: type) -> None:
    for setting in settings_of(group):
        told = {name: options_of(name)[setting.flag] for name in HAVE[group] if (name, setting.name) not in SEVERAL}
        assert len(set(told.values())) == 1, told
        assert next(iter(told.values()))[1] == flags.with_flags(setting.help)


def test_every_setting_that_shapes_a_store_is_a_setting_of_some_command() -> None:
    for group in (TokenizeConfig, IngestConfig, PackConfig, SourceConfig):
        assert [each.name for each in settings_of(group)] == [each.name for each in fields(group)]


def test_a_default_of_the_command_line_is_that_of_the_library() -> None:
    asked = flags.read(tokenize.command, ["rows.jsonl", "--processor", "p"])
    assert asked["config"] == TokenizeConfig()
    assert asked["rows"] == SourceConfig()
    asked = flags.read(labels.command, ["rows.jsonl", "--processor", "p"])
    assert asked["config"] == TokenizeConfig()


@dataclass(frozen=True, kw_only=True)
class Colours(Settings):
    """A group with every kind of setting."""

    title: ClassVar[str] = "Colours"
    shade: Annotated[float, Gt(0), Doc("How dark.")] = 0.5
    bright: Annotated[bool, Doc("Whether it is bright.")] = True
    names: Annotated[list[str] | None, flags.Flag("--name"), Doc("Of the colours.")] = None
    parts: Annotated[dict[str, object] | None, flags.Flag("--part"), Doc("Of a colour.")] = None
    count: Annotated[int | None, Ge(1), Later(), Doc("How many.")] = None


@flags.command
def paint(colours: Colours, dry: Annotated[bool, Doc("Do nothing.")] = False) -> None:
    """Paint."""
    print(colours, dry)


app = typer.Typer(rich_markup_mode=None)
app.command(cls=flags.Grouped)(paint)


def test_a_field_becomes_an_option_without_another_edit() -> None:
    words = "--shade 2 --no-bright --name red --name blue --part r=1 --part g=x --dry"
    asked = flags.read(paint, words.split())
    assert asked["colours"] == Colours(shade=2, bright=False, names=["red", "blue"], parts={"r": 1, "g": "x"})
    assert asked["dry"] is True
    told = CliRunner().invoke(app, ["--help"]).stdout
    assert "Colours:" in told
    assert "How dark. [default: 0.5]" in told


@pytest.mark.parametrize("words", [["--shade", "0"], ["--shade", "nan"], ["--count", "0"]])
def test_a_bound_is_held_on_the_command_line_as_in_python(words: list[str]) -> None:
    with pytest.raises(InputError, match=words[0].removeprefix("--")):
        flags.read(paint, words)


def test_a_word_that_is_no_choice_is_refused_in_python_too() -> None:
    with pytest.raises(InputError, match="train_on=asistant") as found:
        TokenizeConfig(train_on="asistant")  # type: ignore[arg-type]
    assert "Did you mean 'assistant'" in str(found.value.hint)


def test_a_later_setting_changes_no_fingerprint_at_its_default() -> None:
    assert "count" not in Colours().to_json()
    assert Colours(count=1).to_json()["count"] == 1


def test_a_message_of_the_library_names_settings_and_the_command_line_flags() -> None:
    assert flags.with_flags("`max_length` and `train_on=last`") == "--max-length and --train-on last"
    assert flags.with_flags("`train_reasoning=false`, `columns`") == "--no-train-reasoning, --column"
    assert flags.with_flags("`vlm-prep finish`, `no_setting`") == "`vlm-prep finish`, `no_setting`"


def test_no_help_takes_the_datasets_library_for_a_setting() -> None:
    names = [setting.name for group in flags.groups() for setting in settings_of(group) if "`datasets`" in setting.help]
    assert names == []


def test_help_is_as_wide_as_the_terminal_and_in_groups() -> None:
    told = {}
    for columns in (80, 200):
        ended = subprocess.run(
            [sys.executable, "-m", "vlm_prep.cli.main", "tokenize", "-h"],
            env={**os.environ, "COLUMNS": str(columns)},
            capture_output=True,
            text=True,
            check=True,
        )
        told[columns] = ended.stdout.splitlines()
    assert 100 < max(map(len, told[200])) <= 200
    assert max(map(len, told[80])) <= 80
    for title in ("Source and rows:", "Processor:", "Labels and text:", "Media payload:", "Length:", "Run:"):
        assert title in told[80]


def test_settings_are_said_once() -> None:
    """No two groups that meet in a command have a setting of one name."""
    for name in COMMANDS:
        names = [each.name for each in flags._COMMANDS[name].settings]
        assert len(set(names)) == len(names)
