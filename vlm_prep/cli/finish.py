"""`vlm-prep finish`: a run that was done in parts becomes a store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from vlm_prep.cli import options
from vlm_prep.cli.place import CacheBytes, CacheDir, Place, cache_of, local, run_and_show
from vlm_prep.core.fingerprint import digest_json
from vlm_prep.engine.array_parts import must_be_complete
from vlm_prep.engine.ownership import RunPlan, read_plan
from vlm_prep.engine.stage import RunOptions
from vlm_prep.engine.workspace import Workspace
from vlm_prep.shards.cache import ShardCache
from vlm_prep.shards.manifest import MANIFEST, WORK, read_manifest
from vlm_prep.shards.object_store import store_path


def command(
    out: Annotated[
        Path,
        typer.Argument(parser=local, help="The folder that ingest, tokenize or pack wrote with --part."),
    ],
    source: Annotated[str | None, typer.Option(help="Where the source is now. [default: where it was]")] = None,
    processor: Annotated[
        str | None, typer.Option("--processor", "-p", help="Where the processor is now. [default: where it was]")
    ] = None,
    workers: options.Workers = None,
    max_reject_rate: options.RejectRate = 0.05,
    sample_timeout: options.SampleTimeout = 300.0,
    worker_memory: options.WorkerMemory = "8G",
    cache_dir: CacheDir = None,
    cache_bytes: CacheBytes = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Merge the parts of a run into a finished store; refused while tasks are missing, whose parts are named.

    The output of tokenize is compared with the real processor once more where parts saw few rows of a kind of media,
    so source and processor must be here.
    """
    run = options.run_options(out, workers, False, max_reject_rate, quiet, sample_timeout, worker_memory)
    if (out / MANIFEST).exists() or not (out / WORK).is_dir():
        manifest = read_manifest(out)
        # a kill between the manifest and the end leaves the work folder behind; this removes it
        Workspace(out, digest_json(manifest.identity), stage=manifest.stage, say=run.say).release()
        run.say(f"{out} is complete already: nothing to do")
        options.show_store(out, as_json)
        return
    must_be_complete(out)
    plan = read_plan(out)
    place = Place(folder=out)
    cache = cache_of(cache_dir, cache_bytes)
    run_and_show(lambda: _finish(plan, run, source, processor, cache), place, as_json, run.say)


def _finish(
    plan: RunPlan, run: RunOptions, source: str | None, processor: str | None, cache: ShardCache
) -> object:
    """Call the stage again, which finds all tasks done."""
    settings: dict[str, Any] = plan.identity["config"]
    if plan.stage == "pack":
        from vlm_prep.core.settings import PackConfig
        from vlm_prep.pack.pack_run import pack

        return pack(store_path(source or plan.again["source"], cache), PackConfig(**settings), run)
    origin = options.origin_in(run.out, plan.again, source, processor)
    if plan.stage == "ingest":
        from vlm_prep.core.settings import IngestConfig
        from vlm_prep.ingest.ingest_run import ingest

        return ingest(origin.samples(), IngestConfig(**settings), run)
    from vlm_prep.core.settings import TokenizeConfig
    from vlm_prep.tokenize.tokenize_run import tokenize

    return tokenize(origin.samples(), origin.processor, TokenizeConfig(**settings), run)
