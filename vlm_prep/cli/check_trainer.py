"""`vlm-prep check-trainer`: what a trainer would meet, before the GPUs are rented."""

from __future__ import annotations

from typing import Annotated

import typer
from annotated_doc import Doc
from annotated_types import Ge

from vlm_prep.cli import flags, options, terminal
from vlm_prep.cli.place import AnyStore
from vlm_prep.core.fields import IsPath
from vlm_prep.core.settings import TrustRemoteCode

FOUND = 1
"""Exit status when something was found."""


@flags.command
def command(
    store: AnyStore,
    batches: Annotated[int, Ge(1), Doc("Batches that each rank loads.")] = 2,
    world_size: Annotated[int, Ge(1), Doc("Ranks, each in a process of its own.")] = 1,
    batch_size: Annotated[int, Ge(1), Doc("Rows, or packs, of a batch.")] = 1,
    seed: Annotated[int, Doc("Of the order.")] = 0,
    model: Annotated[
        str | None,
        IsPath(only_existing=True),
        Doc("The model's folder or config.json (no weights). [default: the one that the store knows]"),
    ] = None,
    attention: Annotated[str, Doc("What the model runs: sdpa, eager, flash_attention_2, ...")] = "sdpa",
    dummy: Annotated[bool, Doc("Give batches without media a stand-in.")] = False,
    trust_remote_code: TrustRemoteCode = False,
    as_json: flags.AsJson = False,
) -> None:
    """Load batches as training would; say whether a model takes them and ranks stay in step (status 1: no)."""
    from vlm_prep.processors.model_config import read_config
    from vlm_prep.trainers.ranks import TrainerOptions, check_trainer

    found = check_trainer(
        store,
        TrainerOptions(
            batches=batches,
            world_size=world_size,
            batch_size=batch_size,
            seed=seed,
            dummy=dummy,
            attention=attention,
            model=None if model is None else read_config(model),
            trust_remote_code=trust_remote_code,
        ),
    )
    if as_json:
        options.show_json(found.to_json())
    else:
        for each in found.batches:
            media = "+".join(each.kinds) or "text"
            loss = "" if each.loss is None else f", loss {each.loss:.4f}"
            size = each.nbytes / 2**20
            terminal.echo(
                f"rank {each.rank}, step {each.step}: {each.tokens:,} tokens, {each.trained:,} trained, {media}, "
                f"{size:.3f} MiB{loss}"
            )
        first, largest = found.batches[0], max(found.batches, key=lambda each: each.nbytes)
        for name, what in {**first.tensors, **largest.tensors}.items():
            terminal.echo(f"  {name:<24} {what}")
        terminal.echo(f"{found.layout}, for {found.model or 'a model that is not known'}")
        for line in found.notes:
            terminal.echo(f"note: {line}")
        for line in found.faults:
            terminal.echo(f"fault: {line}")
        if found.sound:
            terminal.echo("sound")
    if not found.sound:
        raise typer.Exit(FOUND)
