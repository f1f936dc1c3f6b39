"""`vlm-prep stats`: what a store holds."""

from __future__ import annotations

from vlm_prep.cli import flags, options
from vlm_prep.cli.place import AnyStore


@flags.command
def command(store: AnyStore, as_json: flags.AsJson = False) -> None:
    """Show rows, tokens, lengths, rejects, fill and the proof of a finished store."""
    options.show_store(store, as_json)
