"""`vlm-prep stats`: what a store holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vlm_prep.cli import options


def command(
    store: Annotated[Path, typer.Argument(help="A folder made by ingest, tokenize or pack.")],
    as_json: options.AsJson = False,
) -> None:
    """Show rows, tokens, lengths, rejects, fill and the proof of a finished store."""
    options.show_store(store, as_json)
