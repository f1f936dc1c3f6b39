"""`vlm-prep stats`: what a store holds."""

from __future__ import annotations

from typing import Annotated

import typer

from vlm_prep.cli import options


def command(
    store: Annotated[str, typer.Argument(help="A folder made by ingest, tokenize or pack, or s3://bucket/prefix.")],
    as_json: options.AsJson = False,
) -> None:
    """Show rows, tokens, lengths, rejects, fill and the proof of a finished store."""
    options.show_store(store, as_json)
