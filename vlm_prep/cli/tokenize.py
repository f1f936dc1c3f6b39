"""`vlm-prep tokenize`: the main job."""

from __future__ import annotations

import re
from dataclasses import asdict
from functools import cache
from typing import Annotated

from annotated_doc import Doc

from vlm_prep.cli import flags, options
from vlm_prep.cli.place import Work, place_for
from vlm_prep.core.run_settings import RunConfig
from vlm_prep.core.settings import SourceConfig, TokenizeConfig


@flags.command
def command(
    source: flags.Source,
    processor: flags.Processor,
    rows: SourceConfig,
    config: TokenizeConfig,
    run: RunConfig,
    update: Annotated[
        bool,
        Doc(
            "Bring a finished store in `out` up to its source: rows that were added or changed, media contents "
            "included, are done, the others stay."
        ),
    ] = False,
    dry_run: Annotated[bool, Doc("Load, check and measure the first rows; write nothing.")] = False,
    as_json: flags.AsJson = False,
    quiet: flags.Quiet = False,
) -> None:
    """Tokenize and label multimodal chats into shards, and prove it against the real processor."""
    work(source, processor, rows, config, run, quiet, update=update).do_and_show(as_json, dry_run=dry_run)


def work(
    source: str,
    processor: str,
    rows: SourceConfig,
    config: TokenizeConfig,
    run: RunConfig,
    quiet: bool,
    *,
    update: bool = False,
) -> Work:
    """Open the source and return what is to be done."""
    from vlm_prep.ingest.source import open_samples
    from vlm_prep.tokenize.tokenize_run import begin, dry_run, tokenize
    from vlm_prep.tokenize.update_run import update as update_store

    if config.exact_length is not None and source.startswith("mock:") and not re.search(r"(words|tokens)=", source):
        source += f",tokens={config.exact_length}"
    place = place_for(source, run, ".tok")
    how = options.run_options(place.folder, run, quiet)  # first, so that what opening the source logs is told
    samples = open_samples(source, **asdict(rows))
    begun = cache(lambda: begin(samples, processor, config, how))  # loads the processor

    def run_stage() -> object:
        if update:
            return update_store(samples, processor, config, how)
        return tokenize(samples, processor, config, how, begun=begun())

    return Work(
        place=place,
        say=how.say,
        run=run_stage,
        identity=lambda: begun()[1],
        preview=lambda: dry_run(samples, processor, config, how),
    )
