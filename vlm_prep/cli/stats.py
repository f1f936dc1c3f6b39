"""`vlm-prep stats`: what a store holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from annotated_doc import Doc

from vlm_prep.cli import flags, options
from vlm_prep.cli.place import AnyStore


@flags.command
def command(
    store: AnyStore,
    html: Annotated[Path | None, Doc("Write them with charts and rejects as a page, too.")] = None,
    as_json: flags.AsJson = False,
) -> None:
    """Show rows, tokens, lengths, rejects, fill and the proof of a finished store."""
    if html is not None:
        from vlm_prep.core.atomic_files import write_bytes_atomically
        from vlm_prep.report.view.viewing import overview

        write_bytes_atomically(html, overview(store).encode("utf-8", "replace"))
    options.show_store(store, as_json)
