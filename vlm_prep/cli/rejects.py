"""`vlm-prep rejects`: which rows were not written, and why."""

from __future__ import annotations

from typing import Annotated

from annotated_doc import Doc
from annotated_types import Ge

from vlm_prep.cli import flags, options, terminal
from vlm_prep.cli.place import AnyStore
from vlm_prep.core.visible import visible


@flags.command
def command(
    store: AnyStore,
    reason: Annotated[str | None, Doc("Only this reason code.")] = None,
    limit: Annotated[int | None, Ge(1), Doc("Show the first N. [default: all]")] = None,
    as_json: flags.AsJson = False,
) -> None:
    """List the rows that were not written, by this stage or those before: sample, file and line, reason, message."""
    from vlm_prep.shards.layout import read_rejects
    from vlm_prep.shards.manifest import read_manifest
    from vlm_prep.shards.object_store import store_path

    read_manifest(store)
    rows = [row for row in read_rejects(store_path(store)) if reason in (None, row["reason"])][:limit]
    if as_json:
        options.show_json(rows)
        return
    for row in rows:
        place, message = f"{row['sample_id']}  {row['source']}:{row['line']}", flags.with_flags(row["message"])
        # one line each, whatever stands in a path
        kept = f"  {row['kept']}" if row.get("kept") else ""
        terminal.echo(visible(f"{place}{kept}  {row['reason']}: {message}"))
    terminal.echo(f"{len(rows)} rows", err=True)
