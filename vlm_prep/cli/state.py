"""`vlm-prep state`: what a saved position says."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from annotated_doc import Doc

from vlm_prep.cli import flags, options, terminal
from vlm_prep.core.errors import InputError
from vlm_prep.core.fields import Positional
from vlm_prep.core.regular_files import read_given

app = typer.Typer(help="Look at saved positions in a stream.", no_args_is_help=True)


@flags.command
def show(
    file: Annotated[Path, Positional(), Doc("JSON: a state, or a loader's or checkpoint's dict that holds one.")],
    store: Annotated[str | None, Doc("Also say whether it is a position in this store.")] = None,
    as_json: flags.AsJson = False,
) -> None:
    """Show a saved position: store, seed, epoch, rows consumed."""
    state = _read(file)
    told: dict[str, Any] = state.to_json()
    if store is not None:
        told |= _beside(state.fingerprint, state.consumed, store)
    if as_json:
        options.show_json(told)
        return
    for name, value in told.items():
        terminal.echo(f"{name:<13} {value:,}" if type(value) is int else f"{name:<13} {value}")


app.command("show", cls=flags.Grouped)(show)


def _read(file: Path) -> Any:
    from vlm_prep.stream.run_state import State

    try:
        data = orjson.loads(read_given(file))
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}", "give a file with a state") from error
    except ValueError as error:  # of JSON, or of UTF-8
        raise InputError(f"{file} is not JSON: {error}", "save `state.to_json()` as JSON") from error
    if not isinstance(data, dict):
        raise InputError(f"{file} holds no state", "save `state.to_json()` as JSON")
    return State.from_loader(data)


def _beside(fingerprint: str, consumed: int, store: str) -> dict[str, Any]:
    """Compare a state with a store: the first word of a fingerprint is the store's, the rest how it is read."""
    from vlm_prep.stream.stored_rows import open_rows

    rows = open_rows(store, verify=False)
    fits = fingerprint.split(" ")[0] == rows.manifest.fingerprint
    left = {"rows": len(rows), "rows_left": max(0, len(rows) - consumed)} if fits else {}
    return {"of_this_store": fits, **left}
