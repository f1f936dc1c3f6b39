"""`vlm-prep why`: what differs between the run in a folder and the one that a command line asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlm_prep.cli import ingest, options, pack, tokenize
from vlm_prep.cli.place import local

if TYPE_CHECKING:
    from vlm_prep.shards.object_store import StorePath

_STAGES: dict[str, Any] = {"ingest": ingest.command, "tokenize": tokenize.command, "pack": pack.command}
_MEANING = {
    "samples.datasets": "input",
    "samples": "input",
    "config": "flag",
    "processor.chat_template": "template",
    "processor.tokenizer": "tokenizer",
    "processor": "processor",
    "source": "input",
    "shards": "input",
    "vlm_prep": "version",
    "schema": "version",
}


def command(
    context: typer.Context,
    store: Annotated[
        Path,
        typer.Argument(parser=local, help="A folder made by ingest, tokenize or pack, finished or not."),
    ],
    as_json: options.AsJson = False,
) -> None:
    """Say which input, flag, tokenizer or template differs: give SOURCE and the flags of the stage after the folder.

    Without SOURCE the store is compared with what its own source and processor are now. Exit status 1 when something
    differs, 0 when the same command would continue the run.
    """
    from vlm_prep.core.fingerprint import changes
    from vlm_prep.engine.ownership import read_run

    stage, then = read_run(store)
    now = _identity(stage, context.args) if context.args else _identity_of_origin(store, stage, then["config"])
    lines = changes(then, now)
    if as_json:
        options.show_json(lines)
    else:
        for line in lines:
            typer.echo(f"{_meaning(line):<10} {line}")
        typer.echo(f"{len(lines)} difference(s) from the {stage} in {store}" if lines else f"{store}: nothing changed")
    raise typer.Exit(1 if lines else 0)


def _meaning(line: str) -> str:
    name = line.partition(": ")[0]
    return next((meaning for head, meaning in _MEANING.items() if name.startswith(head)), "other")


_OF_SOURCE = (
    *("format", "media_dir", "sample_ratio", "limit"),
    *("split", "system_prompt", "user_prompt", "min_duration", "max_duration"),
)
"""Options that say how a source is read, as `open_samples` names them."""


def _identity(stage: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Return the identity of the run that the arguments of a stage's command ask for."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command()(_STAGES[stage])
    parsed = typer.main.get_command(app).make_context(f"vlm-prep {stage}", list(arguments)).params
    if stage == "pack":
        return _pack_identity(parsed["source"], parsed)
    source = {
        "path": parsed["source"],
        "datasets": list(parsed["dataset"] or ()) or None,
        "columns": options.pairs(list(parsed["column"] or ()), "--column"),
        "tags": options.pairs(list(parsed["tag"] or ()), "--tag"),
        **{name: parsed[name] for name in _OF_SOURCE},
    }
    if stage == "tokenize":
        template = parsed["chat_template"]
        parsed["chat_template"] = options.read_template(Path(template) if template else None)
        parsed["processor_args"] = options.settings(list(parsed["processor_arg"] or ()))
    return _samples_identity(stage, options.Origin(source=source, processor=parsed.get("processor", "")), parsed)


def _identity_of_origin(store: Path, stage: str, config: dict[str, Any]) -> dict[str, Any]:
    if stage == "pack":
        from vlm_prep.shards.manifest import read_manifest
        from vlm_prep.shards.object_store import beside

        return _pack_identity(beside(store, read_manifest(store).extra["source"]), config)
    return _samples_identity(stage, options.origin_of(store, None, None), config)


def _samples_identity(stage: str, origin: options.Origin, settings: dict[str, Any]) -> dict[str, Any]:
    from vlm_prep.core.settings import IngestConfig, TokenizeConfig

    if stage == "ingest":
        from vlm_prep.ingest.ingest_run import ingest_identity

        return ingest_identity(origin.samples(), IngestConfig(**_chosen(IngestConfig, settings)))
    from vlm_prep.engine.stage import RunOptions
    from vlm_prep.tokenize.tokenize_run import prepare

    config = TokenizeConfig(**_chosen(TokenizeConfig, settings))
    run = RunOptions(out=Path(), say=lambda line: None)
    return prepare(origin.samples(), origin.processor, config, run)[1]


def _pack_identity(source: str | StorePath, settings: dict[str, Any]) -> dict[str, Any]:
    from vlm_prep.core.settings import PackConfig
    from vlm_prep.pack.pack_run import pack_identity
    from vlm_prep.shards.reader import Store

    return pack_identity(Store(source, stage="tokenize"), PackConfig(**_chosen(PackConfig, settings)))


def _chosen(config: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that are a config's: options and fields have the same names."""
    return {each.name: settings[each.name] for each in fields(config)}
