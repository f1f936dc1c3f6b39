"""`vlm-prep demo`: the main job on the built-in data with the built-in processor, from rows to batches."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from annotated_doc import Doc
from annotated_types import Ge

from vlm_prep.cli import flags, terminal
from vlm_prep.core.fields import Flag
from vlm_prep.core.pack_settings import PackConfig
from vlm_prep.core.settings import TokenizeConfig

PROCESSOR = "builtin:qwen2.5-vl-mini"
PACK_LENGTH = 2048


@flags.command
def command(
    out: Annotated[Path, Flag(short="-o"), Doc("Folder for the demo's stores.")] = Path("out/demo"),
    workers: Annotated[int, Ge(1), Doc("Worker processes; the output does not depend on it.")] = 1,
) -> None:
    """Ingest, tokenize, pack and stream a small built-in data set, and show what came out."""
    from vlm_prep.builtin import builtin_data
    from vlm_prep.engine.stage import RunOptions
    from vlm_prep.ingest.source import open_samples
    from vlm_prep.pack.pack_run import pack
    from vlm_prep.report import statistics as stats
    from vlm_prep.tokenize.tokenize_run import tokenize

    started = time.monotonic()
    tokenized, packed = out / "tok", out / "packed"
    terminal.echo(f"1. ingest and tokenize the built-in data with {PROCESSOR}")
    samples = open_samples(builtin_data())
    tokenize(
        samples,
        PROCESSOR,
        TokenizeConfig(max_length=PACK_LENGTH, fps=2.0),
        RunOptions(out=tokenized, workers=workers, fresh=True),
    )
    terminal.echo(stats.render(stats.collect(tokenized)))
    terminal.echo(f"\n2. pack into sequences of {PACK_LENGTH} for 2 ranks")
    pack(
        tokenized,
        PackConfig(pack_length=PACK_LENGTH, world_size=2),
        RunOptions(out=packed, workers=workers, fresh=True),
    )
    terminal.echo(stats.render(stats.collect(packed)))
    terminal.echo("\n3. stream one epoch through the collaters")
    for line in _stream(tokenized, packed):
        terminal.echo(f"  {line}")
    terminal.echo(f"\nDone in {time.monotonic() - started:.0f} s. The files: {tokenized} and {packed}. Try next:")
    # make runs the command by its path, in an environment that the user's shell may not have on its PATH
    run = "vlm-prep" if shutil.which("vlm-prep") else os.path.relpath(sys.argv[0])
    terminal.echo(f"  {run} stats {packed} --json")
    terminal.echo(f"  {run} labels {os.path.relpath(builtin_data())} --processor {PROCESSOR} --fps 2 --limit 3")
    terminal.echo(f"  {run} pack {tokenized} --pack-length 4096 --layout index --out {out / 'index'}")


def _stream(tokenized: Path, packed: Path) -> Iterator[str]:
    from torch.utils.data import DataLoader

    from vlm_prep.stream import PackedCollate, PadCollate, ShardDataset

    samples = ShardDataset(tokenized, seed=0)
    padded = DataLoader(samples, batch_size=4, collate_fn=PadCollate.for_store(samples))
    yield _epoch("padded, 4 samples a batch", padded, "input_ids")
    for rank in range(2):
        packs = ShardDataset(packed, rank=rank, world_size=2, seed=0)
        loader = DataLoader(packs, batch_size=1, collate_fn=PackedCollate.for_store(packs, mask="varlen"))
        yield _epoch(f"packed, rank {rank} of 2", loader, "input_ids")


def _epoch(label: str, loader: Any, key: str) -> str:
    batches = tokens = patches = 0
    for batch in loader:
        batches += 1
        tokens += batch[key].numel()
        for name in ("pixel_values", "pixel_values_videos"):
            if name in batch:
                patches += len(batch[name])
    return f"{label}: {batches} batches, {tokens:,} token places, {patches:,} patches of pixels"
