"""`vlm-prep labels`: see what is trained before a long run, and have CI see it."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer
from annotated_doc import Doc
from annotated_types import Ge

from vlm_prep.cli import flags, options, terminal
from vlm_prep.cli.store_reader import reader_for
from vlm_prep.core.errors import InputError
from vlm_prep.core.fields import Flag, IsPath, Positional
from vlm_prep.core.records import Encoded, Rejected
from vlm_prep.core.remote import is_remote
from vlm_prep.core.settings import PayloadConfig, ProofConfig, SourceConfig, TokenizeConfig
from vlm_prep.core.visible import visible

DEFAULT_LIMIT = 20
FOUND = 1
"""Exit status of an audit that found a row or turn to look at."""


@flags.command
def command(
    source: Annotated[str, Positional(), IsPath(), Doc("A source, or a store made by ingest, tokenize or pack.")],
    rows: SourceConfig,
    config: Annotated[TokenizeConfig, flags.Without(PayloadConfig, ProofConfig)],
    processor: Annotated[
        str | None,
        Flag(short="-p"),
        IsPath(only_existing=True),
        Doc("The processor; a store has its own, unless it is not on this machine."),
    ] = None,
    row: Annotated[list[str] | None, Doc("Of a store, only this row, by number or id; may be repeated.")] = None,
    limit: Annotated[int | None, Ge(1), Doc("The first N rows. [default: 20; with --audit all]")] = None,
    audit: Annotated[bool, Doc("Count by dataset and role; status 1 when a row or turn end is not trained.")] = False,
    as_json: flags.AsJson = False,
) -> None:
    """Show rows as the model reads them: trained tokens in green (between ⟦ ⟧ when not a terminal)."""
    if is_store(source):
        if audit:
            raise InputError(
                f"`audit` counts the rows of a source, and {source} is a store",
                "give what it was made of, with `processor`; `vlm-prep stats` counts what the store holds",
            )
        _show_store(source, processor, config, row, limit or DEFAULT_LIMIT, as_json)
        return
    if row:
        raise InputError("`row`: rows of a source are shown by `vlm-prep explain`", "leave it out, or give a store")
    if processor is None:
        raise InputError(f"--processor is missing: {source} is no tokenized store", "the labels depend on it")
    from vlm_prep.ingest.source import open_samples
    from vlm_prep.tokenize.bounded_rows import bounded_rows
    from vlm_prep.tokenize.tokenize_job import TokenizeJob

    samples = open_samples(source, **asdict(replace(rows, limit=limit or (None if audit else DEFAULT_LIMIT))))
    job = TokenizeJob(samples, processor, replace(config, media="reference", verify_fraction=0.0))
    job.setup()
    results = bounded_rows(job, 0, len(samples))
    if audit:
        _audit(job.encoder, results, as_json)
    else:
        _show(job.encoder, results, as_json)


def is_store(source: str) -> bool:
    """Whether a source is a finished store with tokens."""
    from vlm_prep.shards.manifest import MANIFEST, read_manifest

    is_finished = is_remote(source) or (Path(source) / MANIFEST).exists()
    return is_finished and read_manifest(source).stage in ("tokenize", "pack")


def _show_store(
    folder: str, processor: str | None, config: TokenizeConfig, names: list[str] | None, limit: int, as_json: bool
) -> None:
    """Show rows of a store as they are stored, with what of them is trained."""
    from vlm_prep.report import row_text
    from vlm_prep.report.found_rows import all_rows, find_rows, is_tars
    from vlm_prep.shards.reader import Store

    store = Store(folder)
    if is_tars(store):
        raise InputError(f"{folder} holds tars", "look at the tokenized store that it was made of")
    found = (each for name in names for each in find_rows(store, name)) if names else islice(all_rows(store), limit)
    reader = reader_for(store, processor, config.processor)
    if as_json:
        options.show_json([row_text.to_json(each, reader) for each in found])
        return
    for each in found:
        facts = row_text.facts_of(each)
        place = ", ".join(f"{name} {facts[name]}" for name in ("pack", "document", "row") if name in facts)
        terminal.echo(visible(f"{facts['sample_id']} ({place}): {facts['tokens']} tokens, {facts['trained']} trained"))
        for line in row_text.text_of(each, reader, colour=sys.stdout.isatty()):
            terminal.echo_styled(line)
        terminal.echo()
    total = store.manifest.totals.get("rows_written", len(store))
    terminal.echo(f"{folder}: {total:,} rows" + ("" if names else f", the first {min(limit, total):,} shown"), err=True)


def _audit(encoder: Any, results: Any, as_json: bool) -> None:
    from vlm_prep.report.audit import Audit

    found = Audit(encoder)
    for result in results:
        found.add(result)
    options.show(found.to_json(), lambda _: found.render(), as_json)
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
