"""`vlm-prep ingest`: raw rows into samples with probed media."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from annotated_doc import Doc

from vlm_prep.cli import flags, options
from vlm_prep.cli.place import place_for, run_and_show
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
    from vlm_prep.ingest.ingest_run import ingest
    from vlm_prep.ingest.source import open_samples

    samples = open_samples(source, **asdict(rows))
    if dry_run:
        options.show_json({"rows": len(samples), "datasets": samples.describe(), "first_rows": samples.first_rows()})
        return
    place = place_for(source, run, ".ingested")
    how = options.run_options(place.folder, run, quiet)
    run_and_show(lambda: ingest(samples, config, how), place, as_json, how.say)
