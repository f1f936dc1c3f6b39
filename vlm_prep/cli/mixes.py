"""`vlm-prep mix`: what a mix file takes of its stores."""

from __future__ import annotations

from typing import Annotated

from annotated_doc import Doc

from vlm_prep.cli import flags, options, terminal
from vlm_prep.core.fields import Positional


@flags.command
def mix(
    file: Annotated[str, Positional(), Doc("A mix file (.yaml).")],
    as_json: flags.AsJson = False,
) -> None:
    """Say how many rows of each store a mix takes; `pack`, `view` and ShardDataset take it as they take a store."""
    from vlm_prep.pack.mix_rows import mix_text, open_mix

    store = open_mix(file)
    if as_json:
        told = {"rows": len(store), "fingerprint": store.manifest.fingerprint, **store.manifest.extra["mix"]}
        options.show_json(told)
    else:
        terminal.echo(mix_text(store))
