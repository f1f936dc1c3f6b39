"""What the stages before rejected: that of `ingest` is told by the tokenized store made of it, and by its packs.

A store's own accounts stay its own: `rows_in` is what the stage was given. What was lost on the way to it stands in
`totals.earlier`, a table for each store that it was made of, and at the head of rejects.parquet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlm_prep.core.records import Rejected
from vlm_prep.shards.layout import read_rejects
from vlm_prep.shards.reader import Store

EARLIER = "earlier"
"""Where the totals of a manifest hold them."""
_OF_EACH = ("rows_in", "rows_written", "rows_rejected", "rejects")


@dataclass(frozen=True, kw_only=True)
class Earlier:
    """What was rejected before a stage."""

    accounts: tuple[dict[str, Any], ...] = ()
    """{stage, rows_in, rows_written, rows_rejected, rejects} of each store that rejected rows, first stages first."""
    rejects: tuple[Rejected, ...] = ()
    """All of their rejects, in that order."""


def earlier_of(stores: Sequence[Store]) -> Earlier:
    """Return what was rejected on the way to the rows of some stores, by them and by those before."""
    accounts: list[dict[str, Any]] = []
    rejects: list[Rejected] = []
    for store in stores:
        totals = store.manifest.totals
        accounts += totals.get(EARLIER, ())
        if totals.get("rows_rejected"):
            accounts.append({"stage": store.manifest.stage, **{name: totals[name] for name in _OF_EACH}})
        if accounts:
            rejects += (Rejected(**each) for each in read_rejects(store.folder))
    return Earlier(accounts=tuple(accounts), rejects=tuple(rejects))


def rejected_earlier(totals: Mapping[str, Any]) -> int:
    """Return how many rows were rejected before a store's stage: as many stand first in its rejects.parquet."""
    return sum(each["rows_rejected"] for each in totals.get(EARLIER, ()))
