"""`vlm-prep pack`: documents into packs, packs to ranks."""

from __future__ import annotations

from typing import Annotated

import typer

from vlm_prep.cli import options
from vlm_prep.cli.place import CacheBytes, CacheDir, cache_of, place_for, run_and_show
from vlm_prep.core.settings import Layout, MediaMode, PackConfig, PackPositions, ShardFormat, TarMedia


def command(
    source: Annotated[str, typer.Argument(help="The output of `vlm-prep tokenize`: a folder, or s3://bucket/prefix.")],
    pack_length: Annotated[int, typer.Option(min=1, help="Tokens in a pack.")],
    out: options.Out = None,
    work_dir: options.WorkDir = None,
    world_size: Annotated[int, typer.Option(min=1, help="Ranks to make shards for.")] = 1,
    layout: Annotated[
        Layout, typer.Option(help="Shards for each rank, or the plan alone over the tokenized store.")
    ] = "ranks",
    tokens_per_second: Annotated[
        float | None,
        typer.Option(
            help="Qwen2.5-VL's vision_config.tokens_per_second or Qwen-Omni's position_id_per_seconds, if the model's "
            "is not the published one."
        ),
    ] = None,
    format: Annotated[
        ShardFormat, typer.Option(help="Arrow shards for ShardDataset and datasets, or tars for webdataset.")
    ] = "arrow",
    tar_media: Annotated[
        TarMedia, typer.Option(help="In tars: a pack's media files as one field, or a field each.")
    ] = "joined",
    positions: Annotated[
        PackPositions,
        typer.Option(help="Those of the processor's family, or plain, for a model that only borrowed the processor."),
    ] = "family",
    media: Annotated[
        MediaMode | None,
        typer.Option(help="Raise media to the files' bytes or the processor's tensors. [default: as tokenized]"),
    ] = None,
    audio: options.AudioPayloadOption = "waveform",
    trust_remote_code: options.TrustRemoteCode = False,
    workers: options.Workers = None,
    max_reject_rate: options.RejectRate = 0.05,
    sample_timeout: options.SampleTimeout = 300.0,
    worker_memory: options.WorkerMemory = "8G",
    fresh: options.Fresh = False,
    part: options.InPart = None,
    engine: options.UseEngine = "local",
    ray_address: options.RayAddress = None,
    cache_dir: CacheDir = None,
    cache_bytes: CacheBytes = None,
    dry_run: Annotated[bool, typer.Option(help="Plan and show the fill; write nothing.")] = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Pack documents into sequences of exact length, per rank, with positions."""
    from vlm_prep.pack.pack_run import dry_run as preview
    from vlm_prep.pack.pack_run import pack
    from vlm_prep.shards.object_store import store_path

    options.check_positive(tokens_per_second, "--tokens-per-second")
    config = PackConfig(
        pack_length=pack_length,
        world_size=world_size,
        layout=layout,
        tokens_per_second=tokens_per_second,
        format=format,
        tar_media=tar_media,
        media=media,
        audio=audio,
        positions=positions,
    )
    store = store_path(source, cache_of(cache_dir, cache_bytes))
    if dry_run:
        options.show_json(preview(store, config))
        return
    place = place_for(source, out, ".packed", work_dir, part)
    run = options.run_options(
        place.folder, workers, fresh, max_reject_rate, quiet, sample_timeout, worker_memory, part, engine, ray_address
    )
    run_and_show(lambda: pack(store, config, run, trust_remote_code=trust_remote_code), place, as_json, run.say)
