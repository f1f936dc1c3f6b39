"""Options that several commands share."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from vlm_prep.core.config import ControlTokens, RewrittenHistory, ToolText, TrainEnd, TrainOn
from vlm_prep.core.errors import InputError, OutputError, RejectRateError
from vlm_prep.engine.stage import RunOptions

DEFAULT_WORKERS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
"""The processors this process may use."""

Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="Folder to write; a rerun continues. [default: SOURCE's name + the stage's end]"),
]
Workers = Annotated[int, typer.Option(min=1, help="Worker processes. The output does not depend on it.")]
Fresh = Annotated[bool, typer.Option(help="Discard another run's output in --out and start over.")]
RejectRate = Annotated[
    float, typer.Option(min=0.0, max=1.0, help="Exit with status 3 when a larger share of rows is rejected.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no notes.")]

Dataset = Annotated[
    list[str] | None, typer.Option("--dataset", help="Only this dataset of a meta JSON; may be repeated.")
]
Format = Annotated[
    str | None, typer.Option("--format", help="How a data file's rows are read: sharegpt, messages or alpaca.")
]
Column = Annotated[
    list[str] | None,
    typer.Option("--column", help="A data file's column as role=name, e.g. messages=conversations; may be repeated."),
]
Tag = Annotated[
    list[str] | None,
    typer.Option("--tag", help="A data file's tag as tag=value, e.g. user_tag=human; may be repeated."),
]
MediaDir = Annotated[str | None, typer.Option(help="Where a data file's relative media paths start.")]
SampleRatio = Annotated[float | None, typer.Option(help="Share of a data file's rows, or how often each (2.5).")]
MaxImagePixels = Annotated[
    int, typer.Option(min=1, max=357_913_940, help="Reject larger pictures; Pillow refuses more than the maximum.")
]
TrainOnOption = Annotated[
    TrainOn, typer.Option("--train-on", help="Train all assistant turns, the last one, or all text.")
]
TrainEndOption = Annotated[
    TrainEnd, typer.Option("--train-end", help="The token that ends a turn: train all, the last turn's, or none.")
]
TrainReasoning = Annotated[bool, typer.Option(help="Train reasoning, or mask it.")]
TrainToolCalls = Annotated[bool, typer.Option(help="Train tool calls, or mask them.")]
RewrittenHistoryOption = Annotated[
    RewrittenHistory,
    typer.Option(
        "--rewritten-history",
        help="Trained turns that the chat template rewrites once others follow (it drops reasoning): reject the row, "
        "split it into documents that end with such a turn, or mask the turn.",
    ),
]
LossWeights = Annotated[
    bool, typer.Option(help="Store each token's weight, as the data gives them; without it such rows are rejected.")
]
ToolTextOption = Annotated[
    ToolText, typer.Option("--tool-text", help="Tools for a template that ignores them: write them as text, or reject.")
]
ControlTokensOption = Annotated[
    ControlTokens,
    typer.Option("--control-tokens", help="Control tokens typed in the data: plain text, a reject, or let them act."),
]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first N rows.")]


_EXAMPLES = {"--column": "messages=conversations", "--tag": "user_tag=human"}


def pairs(values: list[str] | None, option: str) -> dict[str, str] | None:
    """Read repeated key=value options.

    Raises:
        InputError: a value without "=".
    """
    if not values:
        return None
    found: dict[str, str] = {}
    for value in values:
        key, equals, name = value.partition("=")
        if not equals or not key or not name:
            raise InputError(f"{option} {value!r}: expected key=value", f"for example: {option} {_EXAMPLES[option]}")
        found[key] = name
    return found


def check_history(train_on: TrainOn, rewritten_history: RewrittenHistory) -> None:
    """Refuse to train all text of documents that repeat each other's beginnings.

    Raises:
        InputError: both are asked for.
    """
    if train_on == "all" and rewritten_history == "split":
        raise InputError(
            "--train-on all with --rewritten-history split would train the beginning of a split row several times",
            "use --rewritten-history reject or mask, or --train-on assistant",
        )


def out_for(source: str | Path, out: Path | None, end: str) -> Path:
    """Return the folder to write: what was asked for, or the source's name with the stage's end, in this folder.

    Raises:
        OutputError: it is the source itself.
    """
    chosen = out or Path(Path(source).stem + end)
    must_differ(source, chosen)
    return chosen


def check_positive(value: float | None, option: str) -> None:
    """Refuse zero, negative numbers, infinity and nan.

    Raises:
        InputError: the option's value is one of them.
    """
    if value is not None and not 0 < value < math.inf:
        raise InputError(f"{option} {value:g}: expected a number above 0")


def must_differ(source: str | Path, out: Path) -> None:
    """Refuse to write into the folder that is read: --fresh would delete it first.

    Raises:
        OutputError: they are the same folder.
    """
    if out.exists() and Path(source).exists() and out.samefile(source):
        raise OutputError(f"{out} is the source itself", "choose another --out")


def run_options(out: Path, workers: int, fresh: bool, reject_rate: float, quiet: bool) -> RunOptions:
    """Return how a stage runs."""
    return RunOptions(
        out=out,
        workers=workers,
        fresh=fresh,
        max_reject_rate=reject_rate,
        progress=False if quiet else None,
        say=_silent if quiet else _say,
    )


def _say(line: str) -> None:
    typer.echo(line, err=True)


def _silent(line: str) -> None:
    """--quiet: errors alone are shown."""


def show_json(value: Any) -> None:
    """Print a value as JSON."""
    typer.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())


def run_and_show(run: Callable[[], object], out: Path, as_json: bool) -> None:
    """Run a stage and show the statistics of its output, also when it is complete with too many rejects."""
    try:
        run()
    except RejectRateError:
        show_store(out, as_json)
        raise
    show_store(out, as_json)


def show_store(folder: Path, as_json: bool) -> None:
    """Print a store's statistics."""
    from vlm_prep.report import stats

    found = stats.collect(folder)
    if as_json:
        show_json(found)
    else:
        typer.echo(stats.render(found))
