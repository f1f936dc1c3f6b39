"""`vlm-prep diff`: what differs between two stores."""

from __future__ import annotations

from collections import Counter
from typing import Annotated

import typer
from annotated_doc import Doc
from annotated_types import Ge

from vlm_prep.cli import flags, options, terminal
from vlm_prep.core.fields import Positional
from vlm_prep.core.visible import visible


@flags.command
def command(
    a: Annotated[str, Positional(), Doc("A store of ingest, tokenize or pack.")],
    b: Annotated[str, Positional(), Doc("Another one.")],
    limit: Annotated[int, Ge(0), Doc("Rows that are named of each kind; 0 for counts alone.")] = 20,
    as_json: flags.AsJson = False,
) -> None:
    """Say which rows only one store has, and which differ and in what; status 1 when any do."""
    from vlm_prep.report.differences import differences
    from vlm_prep.shards.reader import Store

    found = differences(Store(a), Store(b))
    if as_json:
        options.show_json(found.to_json())
        raise typer.Exit(0 if found.same else 1)
    for line in found.settings:
        terminal.echo(visible(f"setting    {line}"))
    terminal.echo(f"rows       {found.rows[0]:,} in A, {found.rows[1]:,} in B")
    for name, rows in (("only in A", found.only_a), ("only in B", found.only_b)):
        if rows:
            more = f", and {len(rows) - limit:,} more" if len(rows) > limit else ""
            terminal.echo(visible(f"{name}  {len(rows):,}: {', '.join(rows[:limit])}{more}"))
    for what, count in Counter(each for _, parts in found.differing for each in parts).most_common():
        terminal.echo(visible(f"differ     {count:,} in {what}"))
    for row, parts in found.differing[:limit]:
        terminal.echo(visible(f"  {row}: {', '.join(parts)}"))
    if not found.in_order:
        terminal.echo("order      the rows that both have stand in another order")
    if found.same:
        terminal.echo("the same rows in the same order")
    raise typer.Exit(0 if found.same else 1)
