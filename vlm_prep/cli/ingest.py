"""`vlm-prep ingest`: raw rows into samples with probed media."""

from __future__ import annotations

from typing import Annotated

import typer

from vlm_prep.cli import options
from vlm_prep.cli.place import place_for, run_and_show
from vlm_prep.core.settings import CheckMedia, IngestConfig


def command(
    source: Annotated[str, typer.Argument(help="A meta JSON, a data file, or a dataset folder.")],
    out: options.Out = None,
    work_dir: options.WorkDir = None,
    check_media: Annotated[
        CheckMedia, typer.Option(help="Read headers and ends of pictures, or decode each one to find inner damage.")
    ] = "header",
    max_image_pixels: options.MaxImagePixels = 178_956_970,
    dataset: options.Dataset = None,
    format: options.Format = None,
    column: options.Column = None,
    tag: options.Tag = None,
    media_dir: options.MediaDir = None,
    sample_ratio: options.SampleRatio = None,
    split: options.Split = None,
    system_prompt: options.SystemPrompt = None,
    user_prompt: options.UserPrompt = None,
    min_duration: options.MinDuration = None,
    max_duration: options.MaxDuration = None,
    limit: options.Limit = None,
    workers: options.Workers = None,
    max_reject_rate: options.RejectRate = 0.05,
    sample_timeout: options.SampleTimeout = 300.0,
    worker_memory: options.WorkerMemory = "8G",
    fresh: options.Fresh = False,
    part: options.InPart = None,
    engine: options.UseEngine = "local",
    ray_address: options.RayAddress = None,
    dry_run: Annotated[bool, typer.Option(help="Read and check the sources; write nothing.")] = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Read raw chats of any supported format into one store of samples, with media headers probed."""
    from vlm_prep.ingest.ingest_run import ingest
    from vlm_prep.ingest.source import open_samples

    samples = open_samples(
        source,
        datasets=dataset,
        format=format,
        columns=options.pairs(column, "--column"),
        tags=options.pairs(tag, "--tag"),
        media_dir=media_dir,
        sample_ratio=sample_ratio,
        limit=limit,
        split=split,
        system_prompt=system_prompt,
        user_prompt=user_prompt,
        min_duration=min_duration,
        max_duration=max_duration,
    )
    if dry_run:
        options.show_json({"rows": len(samples), "datasets": samples.describe()})
        return
    place = place_for(source, out, ".ingested", work_dir, part)
    config = IngestConfig(check_media=check_media, max_image_pixels=max_image_pixels)
    run = options.run_options(
        place.folder, workers, fresh, max_reject_rate, quiet, sample_timeout, worker_memory, part, engine, ray_address
    )
    run_and_show(lambda: ingest(samples, config, run), place, as_json, run.say)
