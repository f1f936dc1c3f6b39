"""`vlm-prep show`: everything known of one row of a store."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Annotated

from annotated_doc import Doc

from vlm_prep.cli import flags, options, terminal
from vlm_prep.cli.place import AnyStore
from vlm_prep.cli.store_reader import reader_for
from vlm_prep.core.fields import Flag, IsPath, Positional
from vlm_prep.core.settings import ProcessorConfig
from vlm_prep.core.visible import visible


@flags.command
def command(
    store: AnyStore,
    row: Annotated[
        str,
        Positional(),
        Doc("Number of a row or a pack, a sample_id (photos/17), or the row's own id (id:17)."),
    ],
    config: ProcessorConfig,
    processor: Annotated[
        str | None,
        Flag(short="-p"),
        IsPath(only_existing=True),
        Doc("Whose tokenizer writes the ids out. [default: that of the store, where it is on this machine]"),
    ] = None,
    as_json: flags.AsJson = False,
) -> None:
    """Show a row: its place, columns, media and geometry, its text with what is trained, or why it is rejected."""
    from vlm_prep.report import row_text
    from vlm_prep.report.found_rows import find_rejects, find_rows, notes_of
    from vlm_prep.shards.reader import Store

    opened = Store(store)
    found = [
        replace(each, where=each.where | ({"notes": ", ".join(notes)} if notes else {}))
        for each in find_rows(opened, row)
        for notes in [notes_of(opened, str(each.row["sample_id"]))]
    ]
    rejects = list(find_rejects(opened, row))
    reader = reader_for(opened, processor, config)
    if as_json:
        options.show_json([*(row_text.to_json(each, reader) for each in found), *rejects])
        return
    for each in found:
        for line in row_text.render(each, reader, colour=sys.stdout.isatty()):
            terminal.echo_styled(line)
        terminal.echo()
    for reject in rejects:
        for name, value in reject.items():
            terminal.echo(visible(f"{name:<18} {value}"))
        terminal.echo()
