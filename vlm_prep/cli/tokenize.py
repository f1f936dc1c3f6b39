"""`vlm-prep tokenize`: the main job."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from annotated_doc import Doc

from vlm_prep.cli import flags, options
from vlm_prep.cli.place import place_for, run_and_show
from vlm_prep.core.run_settings import RunConfig
from vlm_prep.core.settings import SourceConfig, TokenizeConfig


@flags.command
def command(
    source: flags.Source,
    processor: flags.Processor,
    rows: SourceConfig,
    config: TokenizeConfig,
    run: RunConfig,
    dry_run: Annotated[bool, Doc("Load, check and measure the first rows; write nothing.")] = False,
    as_json: flags.AsJson = False,
    quiet: flags.Quiet = False,
) -> None:
    """Tokenize and label multimodal chats into shards, and prove it against the real processor."""
    from vlm_prep.ingest.source import open_samples
    from vlm_prep.tokenize.tokenize_run import dry_run as preview
    from vlm_prep.tokenize.tokenize_run import tokenize

    samples = open_samples(source, **asdict(rows))
    place = place_for(source, run, ".tok")
    how = options.run_options(place.folder, run, quiet)
    if dry_run:
        options.show_json(preview(samples, processor, config, how))
        return
    run_and_show(lambda: tokenize(samples, processor, config, how), place, as_json, how.say)
