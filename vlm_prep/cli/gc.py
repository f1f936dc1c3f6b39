"""`vlm-prep gc`: what of a media store nothing refers to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from annotated_doc import Doc

from vlm_prep.cli import flags, options, terminal
from vlm_prep.core.fields import Flag, Positional
from vlm_prep.core.visible import visible


@flags.command
def command(
    store: Annotated[Path, Positional(), Doc("A media store, made by `vlm-prep gather`.")],
    used_by: Annotated[
        list[str],
        Flag("--used-by"),
        Doc("A store whose rows refer to it: ingested, tokenized or packed. Name all; may be repeated."),
    ],
    free: Annotated[bool, Doc("Give the bytes back; else only say what would be given back.")] = False,
    as_json: flags.AsJson = False,
) -> None:
    """Say how much of a media store the named stores do not refer to, and give it back with --free."""
    from vlm_prep.ingest.gather import gather_free
    from vlm_prep.report.statistics import byte_words
    from vlm_prep.shards.object_store import store_path

    found = gather_free.unused(store, [store_path(each) for each in used_by])
    if free and found.contents:
        gather_free.free(store, found)
    if as_json:
        options.show_json(
            {"contents": found.contents, "bytes": found.bytes, "all_bytes": found.all_bytes, "freed": free}
        )
        return
    done = "given back" if free else "not referred to by the stores named"
    size = byte_words(found.bytes), byte_words(found.all_bytes)
    terminal.echo(visible(f"{store}: {found.contents:,} contents, {size[0]} of {size[1]}, {done}"))
