"""The command line's root: commands, and errors without a traceback."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

import vlm_prep
from vlm_prep.cli import (
    demo,
    doctor,
    finish,
    ingest,
    labels,
    pack,
    plan,
    push_pull,
    rejects,
    retry,
    state,
    stats,
    tokenize,
    verify,
    why,
)
from vlm_prep.core.errors import VlmPrepError

INTERRUPTED = 130
app = typer.Typer(
    name="vlm-prep",
    help="Turn raw multimodal chats into training-ready shards: exact, and before the GPUs are rented.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"vlm-prep {vlm_prep.__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Turn raw multimodal chats into training-ready shards."""


app.command("ingest")(ingest.command)
app.command("plan")(plan.command)
app.command("tokenize")(tokenize.command)
app.command("pack")(pack.command)
app.command("finish")(finish.command)
app.command("stats")(stats.command)
app.command("doctor")(doctor.command)
app.command("labels")(labels.command)
app.command("rejects")(rejects.command)
app.command("retry")(retry.command)
app.command(
    "why",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)(why.command)
app.command("verify")(verify.command)
app.add_typer(state.app, name="state")
app.command("push")(push_pull.push)
app.command("pull")(push_pull.pull)
app.command("demo")(demo.command)


def main() -> None:
    """Run the command line; a fault prints one message and what to do, and sets the exit status."""
    try:
        app()
    except VlmPrepError as error:
        typer.secho(f"error: {error.message}", fg="red", err=True)
        if error.hint:
            typer.echo(f"  {error.hint}", err=True)
        sys.exit(error.exit_code)
    except SystemExit as end:
        # Typer turns Ctrl-C into this status
        if end.code == INTERRUPTED:
            line = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
            typer.echo("interrupted: what was committed is kept, run the same command again to continue:", err=True)
            typer.echo(f"  {line}", err=True)
        raise


if __name__ == "__main__":
    main()
