"""`vlm-prep why`: what differs between the run in a folder and the one that a command line asks for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from annotated_doc import Doc

from vlm_prep.cli import flags, ingest, options, pack, terminal, tokenize
from vlm_prep.cli.place import Local, TrustPlaces, local, place_for
from vlm_prep.cli.run_file import STAGES, RunFile

if TYPE_CHECKING:
    from vlm_prep.core.pack_settings import PackConfig
    from vlm_prep.shards.object_store import StorePath

_STAGES: dict[str, flags.CommandFunction] = {
    "ingest": ingest.command,
    "tokenize": tokenize.command,
    "pack": pack.command,
}
_MEANING = {
    "media": "media",
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


@flags.command
def command(
    context: typer.Context,
    store: Annotated[Local, Doc("A folder made by ingest, tokenize or pack, finished or not.")],
    trust_places: TrustPlaces = False,
    all_media: Annotated[bool, Doc("Compare the media of all rows. [default: of up to 4,096, evenly spread]")] = False,
    as_json: flags.AsJson = False,
) -> None:
    """Say which input, flag, tokenizer or template differs.

    Give SOURCE and the flags of the stage, or --config FILE, after the folder; the store's own run.yaml with other
    flags behind it is the shortest; with a job's file the stores before it are compared, too. Without them the store is
    compared with what its own source and processor are now.
    Exit status 1 when something differs, 0 when the same command would continue the run.
    """
    from vlm_prep.core.fingerprint import changes
    from vlm_prep.engine.ownership import read_run
    from vlm_prep.shards.manifest import must_hold_rows

    folder = local(store)
    stage, then = read_run(folder)
    must_hold_rows(folder, stage)
    if context.args:
        now = _identity(stage, context.args)
    else:
        now = _identity_of_origin(folder, stage, then["config"], trust_places)
    earlier = _earlier_stages(stage, context.args)
    lines = [*changes(then, now), *_changed_media(folder, stage, all_media), *earlier]
    if as_json:
        options.show_json(lines)
    else:
        for line in lines:
            terminal.echo(f"{_meaning(line):<10} {line}")
        found = f"{len(lines)} difference(s) from the {stage} in {store}"
        terminal.echo(found if lines else f"{store}: nothing changed")
        if stage == "tokenize" and all(line.startswith("media: ") or _is_made_good(line) for line in lines):
            words = context.args
            origin = _origin(words) if words else options.origin_of(folder, None, None, trust_places)
            _say_update(folder, origin, now)
    raise typer.Exit(1 if lines else 0)


def _earlier_stages(stage: str, words: Sequence[str]) -> Iterator[str]:
    """Yield what differs in the stores from which a job makes this one: what they hold is in this store's rows."""
    from vlm_prep.core.fingerprint import changes
    from vlm_prep.engine.ownership import read_run

    job = flags.job_in(_STAGES[stage], words) if words else RunFile()
    before = job.sections[: job.sections.index(stage)] if stage in job.sections else ()
    for each in before:
        asked = flags.of_stage(each, job)
        folder = place_for(asked["source"], asked["run"], f".{STAGES[each]}").folder
        if not folder.exists():
            continue  # this store holds what it took from there
        made, then = read_run(folder)
        yield from (f"{made}: {line}" for line in changes(then, identity_of(each, asked)))


def _is_made_good(line: str) -> bool:
    from vlm_prep.tokenize.update_run import is_made_good

    return is_made_good(line)


def _changed_media(folder: Path, stage: str, all_media: bool) -> list[str]:
    """Return a line for each media of a finished store that is no longer what the store says of it."""
    from vlm_prep.media.changed_media import MANY, changed_media
    from vlm_prep.shards.manifest import MANIFEST
    from vlm_prep.shards.reader import Store

    if stage == "pack" or not (folder / MANIFEST).is_file():
        return []
    return [f"media: {line}" for line in changed_media(Store(folder, stage=stage), None if all_media else MANY)]


def _origin(words: Sequence[str]) -> options.Origin:
    asked = flags.read(_STAGES["tokenize"], words)
    return options.Origin(source={"path": asked["source"], **asdict(asked["rows"])}, processor=asked["processor"])


def _say_update(folder: Path, origin: options.Origin, now: dict[str, Any]) -> None:
    """Say what `tokenize --update` would do with a finished store, media that changed included."""
    from vlm_prep.core.errors import StoreError
    from vlm_prep.shards.manifest import MANIFEST
    from vlm_prep.tokenize.update_run import look

    if not (folder / MANIFEST).exists():
        return
    try:
        plan = look(origin.samples(), now, folder).plan
    except StoreError as error:
        terminal.echo(f"update     not possible: {error.message}")
        return
    terminal.echo(f"update     {'nothing to do' if plan.nothing else plan.said()}")


def _meaning(line: str) -> str:
    stage, colon, rest = line.partition(": ")
    name = (rest if colon and stage in _STAGES else line).partition(": ")[0]
    return next((meaning for head, meaning in _MEANING.items() if name.startswith(head)), "other")


def _identity(stage: str, words: Sequence[str]) -> dict[str, Any]:
    """Return the identity of the run that the words behind a stage's command ask for."""
    return identity_of(stage, flags.read(_STAGES[stage], words))


def identity_of(stage: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return the identity of the run that a stage's command would do with these arguments."""
    if stage == "pack":
        return _pack_identity([asked["source"], *(asked.get("sources") or ())], asked["config"])
    origin = options.Origin(
        source={"path": asked["source"], **asdict(asked["rows"])}, processor=asked.get("processor", "")
    )
    return _samples_identity(stage, origin, asked["config"])


def _identity_of_origin(store: Path, stage: str, config: dict[str, Any], trust_places: bool) -> dict[str, Any]:
    from vlm_prep.core.pack_settings import PackConfig
    from vlm_prep.core.settings import IngestConfig, TokenizeConfig
    from vlm_prep.core.stored_settings import stored_settings

    if stage == "pack":
        from vlm_prep.shards.joined import source_folders
        from vlm_prep.shards.layout import read_origin
        from vlm_prep.shards.manifest import read_manifest

        packing = stored_settings(PackConfig, config, store)
        found = read_origin(store) or {"sources": [*map(str, source_folders(store, read_manifest(store)))]}
        return _pack_identity(options.packed_from(store, found, None, trust_places), packing)
    # code first: whoever trusts the places of a store does not yet trust its code
    settings = stored_settings(IngestConfig if stage == "ingest" else TokenizeConfig, config, store)
    return _samples_identity(stage, options.origin_of(store, None, None, trust_places), settings)


def _samples_identity(stage: str, origin: options.Origin, config: Any) -> dict[str, Any]:
    if stage == "ingest":
        from vlm_prep.ingest.ingest_run import ingest_identity

        return ingest_identity(origin.samples(), config)
    from vlm_prep.engine.stage import RunOptions
    from vlm_prep.tokenize.tokenize_run import prepare

    run = RunOptions(out=Path(), say=lambda line: None)
    return prepare(origin.samples(), origin.processor, config, run)[1]


def _pack_identity(sources: Sequence[str | StorePath], config: PackConfig) -> dict[str, Any]:
    from vlm_prep.pack.pack_run import pack_identity
    from vlm_prep.pack.pack_source import open_packable

    return pack_identity(open_packable(sources), config)
