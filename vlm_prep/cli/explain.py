"""`vlm-prep explain`: how one row is read, step by step."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from typing import Annotated, Any

from annotated_doc import Doc

from vlm_prep.cli import flags, options, terminal
from vlm_prep.core.fields import Flag, IsPath, Positional
from vlm_prep.core.records import Encoded, Media
from vlm_prep.core.settings import PayloadConfig, ProofConfig, SourceConfig, TokenizeConfig


@flags.command
def command(
    source: flags.Source,
    row: Annotated[str, Positional(), Doc("Number of a row, from 0, or its sample_id, e.g. photos/17.")],
    rows: SourceConfig,
    config: Annotated[TokenizeConfig, flags.Without(PayloadConfig, ProofConfig)],
    processor: Annotated[
        str | None,
        Flag(short="-p"),
        IsPath(only_existing=True),
        Doc("Show the row as the model of this processor reads it, too: Hugging Face id, folder, or builtin name."),
    ] = None,
    as_json: flags.AsJson = False,
) -> None:
    """Show how a row is read: the raw row, what it is taken for, its media, and with a processor text and labels."""
    from vlm_prep.ingest.source import open_samples
    from vlm_prep.media.probe import probe
    from vlm_prep.media.rules import rules_of
    from vlm_prep.report import row_steps as report

    samples = open_samples(source, **asdict(rows))
    number = report.number_of(samples, row)
    rules = rules_of(config, samples.data_files)

    def header_of(media: Media) -> Media:
        return probe(media, decode=config.check_media != "header", rules=rules)[0]

    def encode() -> list[Any]:
        from vlm_prep.report import labels_text
        from vlm_prep.tokenize.bounded_rows import bounded_rows
        from vlm_prep.tokenize.tokenize_job import TokenizeJob

        job = TokenizeJob(samples, str(processor), replace(config, media="reference", verify_fraction=0.0))
        job.setup()
        tokenizer, media = job.encoder.adapter.hf.tokenizer, set(job.encoder.adapter.run_ids)
        colour = sys.stdout.isatty() and not as_json
        return [
            (each, labels_text.render(each, tokenizer, media, colour=colour) if isinstance(each, Encoded) else "")
            for each in bounded_rows(job, number, number + 1)
        ]

    steps = report.explain(samples, number, header_of, encode if processor else None)
    if as_json:
        options.show_json([{"step": step.name, "facts": step.facts} for step in steps])
        return
    for line in report.render(steps):
        terminal.echo_styled(flags.with_flags(line) if line.startswith(report.REJECTED) else line)
