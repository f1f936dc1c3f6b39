"""`vlm-prep export`: a store as the files of another trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from annotated_doc import Doc

from vlm_prep.cli import flags, options, terminal
from vlm_prep.cli.place import AnyStore
from vlm_prep.core.fields import Positional


@flags.command
def command(
    store: AnyStore,
    folder: Annotated[Path, Positional(), Doc("Where it goes; there must be nothing.")],
    to: Annotated[
        Literal["parquet", "lance", "llamafactory", "ms-swift", "megatron-indexed", "energon"],
        Doc(
            "parquet, lance, llamafactory (tokenized_path), ms-swift (--cached_dataset), megatron-indexed (text "
            "alone), energon (a WebDataset with its index)."
        ),
    ],
    as_json: flags.AsJson = False,
) -> None:
    """Write a store in the form that another trainer reads, whole or not at all; media with each row that has them."""
    from vlm_prep.trainers.exporting import export

    found = export(store, to, folder)
    if as_json:
        options.show_json(found.to_json())
    else:
        terminal.echo(f"{found.folder}: {found.rows:,} rows, {found.files} file(s), {found.nbytes / 2**20:.3f} MiB")
