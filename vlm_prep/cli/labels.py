"""`vlm-prep labels`: see what is trained before a long run, and have CI see it."""

from __future__ import annotations

import sys
from collections import Counter
from typing import Annotated, Any

import typer

from vlm_prep.cli import options
from vlm_prep.core.records import Encoded, Rejected
from vlm_prep.core.settings import Overlong, TokenizeConfig

DEFAULT_LIMIT = 20
FOUND = 1
"""Exit status of an audit that found a row or turn to look at."""


def command(
    source: Annotated[str, typer.Argument(help="A meta JSON, a data file, a dataset folder, or an ingested folder.")],
    processor: Annotated[
        str, typer.Option("--processor", "-p", help="Hugging Face id, folder, or builtin:qwen2.5-vl-mini.")
    ],
    limit: Annotated[
        int | None, typer.Option(min=1, help="The first N rows. [default: 20; with --audit all]", show_default=False)
    ] = None,
    audit: Annotated[
        bool, typer.Option("--audit", help="Count by dataset and role; status 1 when a row or turn end is not trained.")
    ] = False,
    train_on: options.TrainOnOption = "assistant",
    train_end: options.TrainEndOption = "all",
    train_reasoning: options.TrainReasoning = True,
    train_tool_calls: options.TrainToolCalls = True,
    rewritten_history: options.RewrittenHistoryOption = "reject",
    loss_weights: options.LossWeights = False,
    control_tokens: options.ControlTokensOption = "text",
    tool_text: options.ToolTextOption = "inline",
    max_length: Annotated[int | None, typer.Option(min=1, help="Most tokens in a row. [default: no limit]")] = None,
    overlong: Annotated[
        Overlong, typer.Option(help="Longer rows: reject, cut whole turns off the end, or stop.")
    ] = "drop",
    fps: Annotated[float | None, typer.Option(help="Video frames a second. [default: the processor's]")] = None,
    processor_arg: options.ProcessorArg = None,
    chat_template: options.ChatTemplate = None,
    trust_remote_code: options.TrustRemoteCode = False,
    thinking_prefix: options.ThinkingPrefix = False,
    dataset: options.Dataset = None,
    format: options.Format = None,
    column: options.Column = None,
    tag: options.Tag = None,
    media_dir: options.MediaDir = None,
    sample_ratio: options.SampleRatio = None,
    as_json: options.AsJson = False,
) -> None:
    """Show rows as the model reads them: trained tokens in green (between ⟦ ⟧ when not a terminal)."""
    from vlm_prep.ingest.source import open_samples
    from vlm_prep.tokenize.tokenize_job import TokenizeJob

    options.check_positive(fps, "--fps")
    options.check_history(train_on, rewritten_history)
    samples = open_samples(
        source,
        datasets=dataset,
        format=format,
        columns=options.pairs(column, "--column"),
        tags=options.pairs(tag, "--tag"),
        media_dir=media_dir,
        sample_ratio=sample_ratio,
        limit=limit or (None if audit else DEFAULT_LIMIT),
    )
    config = TokenizeConfig(
        train_on=train_on,
        train_end=train_end,
        train_reasoning=train_reasoning,
        train_tool_calls=train_tool_calls,
        rewritten_history=rewritten_history,
        loss_weights=loss_weights,
        control_tokens=control_tokens,
        tool_text=tool_text,
        max_length=max_length,
        overlong=overlong,
        fps=fps,
        processor_args=options.settings(processor_arg),
        chat_template=options.read_template(chat_template),
        trust_remote_code=trust_remote_code,
        thinking_prefix=thinking_prefix,
        media="reference",
        verify_fraction=0.0,
    )
    job = TokenizeJob(samples, processor, config)
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
        typer.echo(found.render())
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
            typer.echo(labels.render(result, tokenizer, media, colour=sys.stdout.isatty()) + "\n")
        elif isinstance(result, Rejected):
            rows[result.reason] += 1
            typer.echo(f"{result.sample_id}: rejected, {result.reason}: {result.message}\n")
    shown = rows.pop("shown", 0)
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in rows.most_common())
    rejected = f", {rows.total():,} rejected ({reasons})" if rows else ""
    typer.echo(f"{shown + rows.total():,} rows: {shown:,} shown{rejected}")
