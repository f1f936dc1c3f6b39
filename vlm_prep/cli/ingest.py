"""`vlm-prep ingest`: raw rows into samples with probed media."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from annotated_doc import Doc

from vlm_prep.cli import flags, options
from vlm_prep.cli.place import Work, place_for
from vlm_prep.core.run_settings import RunConfig
from vlm_prep.core.settings import IngestConfig, SourceConfig


@flags.command
def command(
    source: flags.Source,
    rows: SourceConfig,
    config: IngestConfig,
    run: RunConfig,
    dry_run: Annotated[bool, Doc("Read and check the sources; write nothing.")] = False,
    as_json: flags.AsJson = False,
    quiet: flags.Quiet = False,
) -> None:
    """Read raw chats of any supported format into one store of samples, with media headers probed."""
    work(source, rows, config, run, quiet).do_and_show(as_json, dry_run=dry_run)


def work(source: str, rows: SourceConfig, config: IngestConfig, run: RunConfig, quiet: bool) -> Work:
    """Open the source and return what is to be done."""
    from vlm_prep.ingest.ingest_run import ingest, ingest_identity
    from vlm_prep.ingest.source import open_samples

    place = place_for(source, run, ".ingested")
    how = options.run_options(place.folder, run, quiet)  # first, so that what opening the source logs is told
    samples = open_samples(source, **asdict(rows))
    return Work(
        place=place,
        say=how.say,
        run=lambda: ingest(samples, config, how),
        preview=lambda: {
            "rows": len(samples),
            "datasets": samples.describe(),
            "first_rows": samples.first_rows(),
        },
        identity=lambda: ingest_identity(samples, config),
    )
