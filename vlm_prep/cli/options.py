"""Options that several commands share."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer

from vlm_prep.core.errors import InputError, OutputError
from vlm_prep.core.remote import is_remote
from vlm_prep.core.settings import (
    AudioPayload,
    ControlTokens,
    MediaMode,
    RewrittenHistory,
    ToolText,
    TrainEnd,
    TrainOn,
)
from vlm_prep.engine.array_parts import parse_part
from vlm_prep.engine.local import Limits
from vlm_prep.engine.stage import Engine, RunOptions

if TYPE_CHECKING:
    from vlm_prep.ingest.source import Samples

DEFAULT_WORKERS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
"""The processors this process may use."""

Out = Annotated[
    str | None,
    typer.Option(
        "--out",
        "-o",
        help="Folder to write, or s3://bucket/prefix; a rerun continues. [default: SOURCE's name + the stage's end]",
    ),
]
WorkDir = Annotated[
    Path | None,
    typer.Option(help="Folder in which a store for an object store is made first. [default: as without --out]"),
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Worker processes; the output does not depend on it. [default: one for each processor of this machine, "
        "or of the cluster at --ray-address]",
    ),
]
UseEngine = Annotated[Engine, typer.Option("--engine", help="Work on this machine, or on a Ray cluster.")]
RayAddress = Annotated[
    str | None, typer.Option(help="Of the Ray cluster, auto or host:port. [default: start one on this machine]")
]
SampleTimeout = Annotated[float, typer.Option(help="Reject a row that keeps a worker busy for more seconds.")]
WorkerMemory = Annotated[
    str, typer.Option(help="Reject a row that needs more memory of a worker, e.g. 8G (the libraries take about 1G).")
]
Fresh = Annotated[bool, typer.Option(help="Discard another run's output in --out and start over.")]
InPart = Annotated[
    str | None,
    typer.Option(
        "--part",
        help="Do part i of n (i/n, from 1/n to n/n) and nothing else: for the jobs of a scheduler's array, which share "
        "the folder --out and need nothing else of each other. `vlm-prep finish OUT` when all are done.",
    ),
]
RejectRate = Annotated[
    float, typer.Option(min=0.0, max=1.0, help="Exit with status 3 when a larger share of rows is rejected.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no notes.")]

Dataset = Annotated[
    list[str] | None, typer.Option("--dataset", help="Only this dataset of a meta JSON; may be repeated.")
]
Format = Annotated[
    str | None, typer.Option("--format", help="How a data file's rows are read: sharegpt, messages, alpaca or asr.")
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
ProcessorArg = Annotated[
    list[str] | None,
    typer.Option(
        "--processor-arg",
        help="A setting of the image, video or audio processor as key=value, e.g. max_pixels=501760; may be repeated.",
    ),
]
ChatTemplate = Annotated[
    Path | None, typer.Option(help="A Jinja file to use in place of the processor's own chat template.")
]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run the Python code that comes with the processor.")
]
Split = Annotated[str | None, typer.Option(help="Split of a dataset folder. [default: train, or the only one]")]
SystemPrompt = Annotated[str | None, typer.Option(help="System turn of every asr row. [default: none]")]
UserPrompt = Annotated[str | None, typer.Option(help="Text before the audio of every asr row. [default: none]")]
MinDuration = Annotated[float | None, typer.Option(min=0.0, help="Reject rows with shorter audio, in seconds.")]
MaxDuration = Annotated[float | None, typer.Option(min=0.0, help="Reject rows with longer audio, in seconds.")]
MediaPayload = Annotated[
    MediaMode,
    typer.Option(help="Store references to media files, the files' bytes, or the processor's tensors (pixels)."),
]
AudioPayloadOption = Annotated[
    AudioPayload, typer.Option("--audio", help="With --media pixels: store audio as waveform or as features.")
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
ThinkingPrefix = Annotated[
    bool,
    typer.Option("--thinking-prefix", help="Gemma 4: an empty thinking channel, untrained, before each answer."),
]
ToolTextOption = Annotated[
    ToolText, typer.Option("--tool-text", help="Tools for a template that ignores them: write them as text, or reject.")
]
ControlTokensOption = Annotated[
    ControlTokens,
    typer.Option("--control-tokens", help="Control tokens typed in the data: plain text, a reject, or let them act."),
]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first N rows.")]


_EXAMPLES = {"--processor-arg": "max_pixels=501760", "--column": "messages=conversations", "--tag": "user_tag=human"}


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


def settings(values: list[str] | None) -> dict[str, Any]:
    """Read repeated key=value options; a value that is JSON is read as such (numbers, true, lists, objects).

    Raises:
        InputError: a value without "=".
    """
    found: dict[str, Any] = {}
    for key, value in (pairs(values, "--processor-arg") or {}).items():
        try:
            found[key] = orjson.loads(value)
        except orjson.JSONDecodeError:
            found[key] = value
    return found


def read_template(path: Path | None) -> str | None:
    """Return the text of a chat template file.

    Raises:
        InputError: it cannot be read.
    """
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--chat-template {path}: {error}", "give a Jinja file in UTF-8") from error


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


def bytes_of(text: str, option: str) -> int:
    """Read a size such as 8G, 512M or 1.5GiB.

    Raises:
        InputError: it is none.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT])(?:i?B)?", text.strip(), re.IGNORECASE)
    if found is None or float(found[1]) == 0:
        raise InputError(f"{option} {text!r}: expected a size", f"for example: {option} 8G")
    return int(float(found[1]) * 1024 ** ("KMGT".index(found[2].upper()) + 1))


def run_options(
    out: Path,
    workers: int | None,
    fresh: bool,
    reject_rate: float,
    quiet: bool,
    sample_timeout: float = Limits.sample_timeout,
    worker_memory: str = "8G",
    part: str | None = None,
    engine: Engine = "local",
    ray_address: str | None = None,
) -> RunOptions:
    """Return how a stage runs.

    Raises:
        InputError: a value is not usable, or two exclude each other.
    """
    check_positive(sample_timeout, "--sample-timeout")
    if part is not None and fresh:
        raise InputError("--fresh and --part: one part would discard what the others did", f"delete {out} first")
    if ray_address is not None and engine != "ray":
        raise InputError("--ray-address has no meaning without --engine ray")
    return RunOptions(
        out=out,
        workers=workers or (0 if ray_address else DEFAULT_WORKERS),
        engine=engine,
        ray_address=ray_address,
        sample_timeout=sample_timeout,
        worker_memory=bytes_of(worker_memory, "--worker-memory"),
        fresh=fresh,
        part=None if part is None else parse_part(part),
        max_reject_rate=reject_rate,
        progress=False if quiet else None,
        say=sayer(quiet),
    )


def sayer(quiet: bool) -> Callable[[str], None]:
    """Return how the user is told a line."""
    return _silent if quiet else _say


def _say(line: str) -> None:
    typer.echo(line, err=True)


def _silent(line: str) -> None:
    """--quiet: errors alone are shown."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a store's rows came from."""

    source: dict[str, Any]
    """Arguments of `ingest.source.open_samples`."""
    processor: str

    def samples(self) -> Samples:
        """Open the rows again."""
        from vlm_prep.ingest.source import open_samples

        return open_samples(**self.source)


def origin_of(store: Path, source: str | None, processor: str | None) -> Origin:
    """Return where a store's rows came from, or where the user says they are now.

    Raises:
        InputError: it is not known, or gone.
    """
    from vlm_prep.shards.layout import read_origin

    return origin_in(store, read_origin(store) or {}, source, processor)


def origin_in(store: Path, found: dict[str, Any], source: str | None, processor: str | None) -> Origin:
    """Return where rows came from by what a folder notes of it. Raises as `origin_of`."""
    opened = dict(found.get("source", {}))
    if source:
        opened["path"] = source if is_remote(source) else os.path.abspath(source)
    if "path" not in opened or not (is_remote(opened["path"]) or os.path.exists(opened["path"])):
        raise InputError(f"{store}: its source is not at {opened.get('path', 'a known place')}", "give --source")
    return Origin(source=opened, processor=processor or found.get("processor", ""))


def show_json(value: Any) -> None:
    """Print a value as JSON."""
    typer.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())


def show_store(folder: str | Path, as_json: bool) -> None:
    """Print a store's statistics."""
    from vlm_prep.report import statistics as stats

    found = stats.collect(folder)
    if as_json:
        show_json(found)
    else:
        typer.echo(stats.render(found))
