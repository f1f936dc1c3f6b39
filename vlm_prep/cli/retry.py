"""`vlm-prep retry`: do rejected rows again, after their files were repaired."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vlm_prep.cli import options
from vlm_prep.cli.place import local
from vlm_prep.core.errors import InputError


def command(
    store: Annotated[Path, typer.Argument(parser=local, help="A finished folder made by ingest or tokenize.")],
    reason: Annotated[list[str], typer.Option(help="Rows rejected for this reason; may be repeated.")],
    source: Annotated[
        str | None, typer.Option(help="Where the source is now. [default: where it was]")
    ] = None,
    processor: Annotated[
        str | None, typer.Option("--processor", "-p", help="Where the processor is now. [default: where it was]")
    ] = None,
    workers: options.Workers = None,
    sample_timeout: options.SampleTimeout = 300.0,
    worker_memory: options.WorkerMemory = "8G",
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Do rows again that were rejected for a reason; what succeeds is added to the store as new shards."""
    from vlm_prep.engine.retry_rejects import settle
    from vlm_prep.shards.manifest import read_manifest

    run = options.run_options(store, workers, False, 1.0, quiet, sample_timeout, worker_memory)
    stage = read_manifest(store).stage
    if stage == "pack":
        raise InputError(f"{store}: nothing can be repaired in packs", "retry the tokenized store, then pack it again")
    if not settle(store, run.say):
        origin = options.origin_of(store, source, processor)
        if stage == "ingest":
            from vlm_prep.ingest.ingest_run import retry_ingest

            retry_ingest(origin.samples(), reason, run)
        else:
            from vlm_prep.tokenize.tokenize_run import retry_tokenize

            retry_tokenize(origin.samples(), origin.processor, reason, run)
    options.show_store(store, as_json)
