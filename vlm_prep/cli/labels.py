"""`vlm-prep labels`: see what is trained before a long run, and have CI see it."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import asdict, replace
from typing import Annotated, Any

import typer
from annotated_doc import Doc
from annotated_types import Ge

from vlm_prep.cli import flags, options, terminal
from vlm_prep.core.records import Encoded, Rejected
from vlm_prep.core.settings import PayloadConfig, ProofConfig, SourceConfig, TokenizeConfig
from vlm_prep.core.visible import visible

DEFAULT_LIMIT = 20
FOUND = 1
"""Exit status of an audit that found a row or turn to look at."""


@flags.command
def command(
    source: flags.Source,
    processor: flags.Processor,
    rows: SourceConfig,
    config: Annotated[TokenizeConfig, flags.Without(PayloadConfig, ProofConfig)],
    limit: Annotated[int | None, Ge(1), Doc("The first N rows. [default: 20; with --audit all]")] = None,
    audit: Annotated[bool, Doc("Count by dataset and role; status 1 when a row or turn end is not trained.")] = False,
    as_json: flags.AsJson = False,
) -> None:
    """Show rows as the model reads them: trained tokens in green (between ⟦ ⟧ when not a terminal)."""
    from vlm_prep.ingest.source import open_samples
    from vlm_prep.tokenize.tokenize_job import TokenizeJob

    samples = open_samples(source, **asdict(replace(rows, limit=limit or (None if audit else DEFAULT_LIMIT))))
    job = TokenizeJob(samples, processor, replace(config, media="reference", verify_fraction=0.0))
    job.setup()
    results = job.results(0, len(samples))
    if audit:
        _audit(job.encoder, results, as_json)
    else:
        _show(job.encoder, results, as_json)


def _audit(encoder: Any, results: Any, as_json: bool) -> None:
    from vlm_prep.report.audit import Audit

    found = Audit(encoder)
    for result in results:
        found.add(result)
    if as_json:
        options.show_json(found.to_json())
    else:
        terminal.echo(found.render())
    if not found.sound:
        raise typer.Exit(FOUND)


def _show(encoder: Any, results: Any, as_json: bool) -> None:
    from vlm_prep.report import labels_text as labels

    tokenizer, media = encoder.adapter.hf.tokenizer, set(encoder.adapter.run_ids)
    if as_json:
        options.show_json([labels.to_json(result, tokenizer, media) for result in results])
        return
    rows: Counter[str] = Counter()
    for result in results:
        if isinstance(result, Encoded):
            rows["shown"] += result.document == 1
            terminal.echo_styled(labels.render(result, tokenizer, media, colour=sys.stdout.isatty()) + "\n")
        elif isinstance(result, Rejected):
            rows[result.reason] += 1
            terminal.echo(visible(f"{result.sample_id}: rejected, {result.reason}: {result.message}") + "\n")
    shown = rows.pop("shown", 0)
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in rows.most_common())
    rejected = f", {rows.total():,} rejected ({reasons})" if rows else ""
    terminal.echo(f"{shown + rows.total():,} rows: {shown:,} shown{rejected}")
