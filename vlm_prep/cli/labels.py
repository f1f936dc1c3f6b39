"""`vlm-prep labels`: see what is trained before a long run."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from vlm_prep.cli import options
from vlm_prep.core.config import TokenizeConfig, TrainOn


def command(
    source: Annotated[str, typer.Argument(help="A meta JSON, a data file, a dataset folder, or an ingested folder.")],
    processor: Annotated[
        str, typer.Option("--processor", "-p", help="Hugging Face id, folder, or builtin:qwen2.5-vl-mini.")
    ],
    limit: Annotated[int, typer.Option(min=1, help="Show the first N rows.")] = 20,
    train_on: Annotated[TrainOn, typer.Option(help="Train all assistant turns, or the last.")] = "assistant",
    fps: Annotated[float | None, typer.Option(help="Video frames a second. [default: the processor's]")] = None,
    dataset: options.Dataset = None,
) -> None:
    """Show rows as the model reads them: trained tokens in green (between ⟦ ⟧ when not a terminal)."""
    from vlm_prep.core.types import Rejected
    from vlm_prep.ingest.source import open_samples
    from vlm_prep.report import labels
    from vlm_prep.tokenize.job import TokenizeJob

    samples = open_samples(source, datasets=dataset, limit=limit)
    job = TokenizeJob(samples, processor, TokenizeConfig(train_on=train_on, fps=fps, media="reference"))
    job.setup()
    tokenizer, media = job.encoder.adapter.hf.tokenizer, set(job.encoder.adapter.run_ids)
    for result in job.results(0, len(samples)):
        if isinstance(result, Rejected):
            typer.echo(f"{result.sample_id}: rejected, {result.reason}: {result.message}\n")
        else:
            typer.echo(labels.render(result, tokenizer, media, colour=sys.stdout.isatty()) + "\n")
