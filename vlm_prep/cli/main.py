"""The command line's root: commands, and errors without a traceback."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import sys
import threading
import traceback
from pathlib import Path
from types import TracebackType
from typing import Annotated, Literal

import orjson
import typer

import vlm_prep
from vlm_prep.cli import (
    check_trainer,
    demo,
    diff,
    doctor,
    explain,
    export,
    families,
    finish,
    flags,
    gather,
    gc,
    ingest,
    init,
    job,
    labels,
    merge,
    mixes,
    pack,
    plan,
    presets,
    push_pull,
    rejects,
    retry,
    show,
    state,
    stats,
    status,
    terminal,
    tokenize,
    verify,
    view,
    why,
)
from vlm_prep.cli.typer_options import Root
from vlm_prep.core.errors import VlmPrepError
from vlm_prep.core.own_process import make_own
from vlm_prep.core.visible import visible, visible_json
from vlm_prep.processors import lean_imports

INTERRUPTED = 130
"""Typer's status after Ctrl-C."""
TERMINATED = 143
app = typer.Typer(
    name="vlm-prep",
    cls=Root,
    help="Turn raw multimodal chats into training-ready shards: exact, and before the GPUs are rented.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 10_000},
)


def _version(asked: bool) -> None:
    if asked:
        terminal.echo(f"vlm-prep {vlm_prep.__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Turn raw multimodal chats into training-ready shards."""


COMMANDS: dict[str, flags.CommandFunction] = {
    "init": init.command,
    "ingest": ingest.command,
    "plan": plan.command,
    "tokenize": tokenize.command,
    "pack": pack.command,
    "run": job.run,
    "finish": finish.command,
    "stats": stats.command,
    "status": status.command,
    "doctor": doctor.command,
    "families": families.command,
    "presets": presets.command,
    "labels": labels.command,
    "show": show.command,
    "explain": explain.command,
    "view": view.command,
    "rejects": rejects.command,
    "retry": retry.command,
    "why": why.command,
    "diff": diff.command,
    "merge": merge.command,
    "gather": gather.command,
    "gc": gc.command,
    "mix": mixes.mix,
    "verify": verify.command,
    "check-trainer": check_trainer.command,
    "export": export.command,
    "push": push_pull.push,
    "pull": push_pull.pull,
    "demo": demo.command,
}
_OWN_WORDS = {"allow_extra_args": True, "ignore_unknown_options": True}
for _name, _command in COMMANDS.items():
    app.command(_name, cls=flags.Grouped, context_settings=_OWN_WORDS if _name == "why" else {})(_command)
app.add_typer(state.app, name="state")


def main() -> None:
    """Run the command line; a fault prints one message and what to do, and sets the exit status."""
    _have_streams()
    lean_imports.install()
    lean_imports.no_pandas()
    make_own()
    sys.excepthook = _show_fault
    ending = _Ending()
    try:
        status = _run()
    except VlmPrepError as error:
        status = _say_error(error.message, error.hint, error.exit_code)
    except OSError as error:
        # a name that is too long, a folder that may not be read, a disk that is full where something was shown
        where = "" if error.filename is None else f": {visible(str(error.filename))[:200]}"
        status = _say_error(f"{error.strerror or error}{where}", None, 2)
    if status == INTERRUPTED:
        status = ending.status
        program = Path(sys.argv[0]).name
        line = ("python -m vlm_prep" if program == "__main__.py" else program) + f" {shlex.join(sys.argv[1:])}"
        _say(f"{ending.word}: what was committed is kept, run the same command again to continue:\n  {line}")
    sys.exit(status)


def _have_streams() -> None:
    """Let what a shell closed (`>&-`) be /dev/null: the first files that are opened would take its place, and what
    libraries print would be written into them."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))


def _run() -> int:
    """Run the command, show all that it printed, and return its status."""
    try:
        app(prog_name="vlm-prep")
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if status:
            return status
    sys.stdout.flush()  # at the interpreter's end a full disk would be a traceback, and status 120
    return 0


class _Ending:
    """How the command is asked to end. SIGTERM, of a scheduler or `kill`, does what Ctrl-C does; the first one counts:
    while workers end and files are put away, more of them change nothing."""

    def __init__(self) -> None:
        self.status, self.word = INTERRUPTED, "interrupted"
        # in a thread (tests, notebooks) signals are somebody else's
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._terminate)

    def _terminate(self, number: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self.status, self.word = TERMINATED, "terminated"
        raise KeyboardInterrupt


def _show_fault(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
    """Print the traceback of a fault of ours, whose message may quote data."""
    _say("".join(traceback.format_exception(kind, error, where)).rstrip())


def _say_error(message: str, hint: str | None, status: int) -> int:
    if "--json" in sys.argv:
        told = {"error": flags.with_flags(message), "hint": hint and flags.with_flags(hint), "status": status}
        _say(visible_json(orjson.dumps(told).decode()))
        return status
    _say(f"error: {flags.with_flags(message)}", "red")
    if hint:
        _say(f"  {flags.with_flags(hint)}")
    return status


def _say(line: str, colour: Literal["red"] | None = None) -> None:
    """Tell the user a line, if anybody listens."""
    with contextlib.suppress(OSError):
        terminal.echo(line, err=True, colour=colour)


if __name__ == "__main__":
    main()
