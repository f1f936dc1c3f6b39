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
    flags,
    ingest,
    job,
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
    view,
    why,
)
from vlm_prep.core.errors import VlmPrepError
from vlm_prep.processors import lean_imports

INTERRUPTED = 130
app = typer.Typer(
    name="vlm-prep",
    help="Turn raw multimodal chats into training-ready shards: exact, and before the GPUs are rented.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 10_000},
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


_COMMANDS: dict[str, flags.CommandFunction] = {
    "ingest": ingest.command,
    "plan": plan.command,
    "tokenize": tokenize.command,
    "pack": pack.command,
    "run": job.run,
    "finish": finish.command,
    "stats": stats.command,
    "doctor": doctor.command,
    "labels": labels.command,
    "view": view.command,
    "rejects": rejects.command,
    "retry": retry.command,
    "why": why.command,
    "verify": verify.command,
    "push": push_pull.push,
    "pull": push_pull.pull,
    "demo": demo.command,
}
_OWN_WORDS = {"allow_extra_args": True, "ignore_unknown_options": True}
for _name, _command in _COMMANDS.items():
    app.command(_name, cls=flags.Grouped, context_settings=_OWN_WORDS if _name == "why" else {})(_command)
app.add_typer(state.app, name="state")


def main() -> None:
    """Run the command line; a fault prints one message and what to do, and sets the exit status."""
    lean_imports.install()
    try:
        app(prog_name="vlm-prep")
    except VlmPrepError as error:
        typer.secho(f"error: {flags.with_flags(error.message)}", fg="red", err=True)
        if error.hint:
            typer.echo(f"  {flags.with_flags(error.hint)}", err=True)
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
