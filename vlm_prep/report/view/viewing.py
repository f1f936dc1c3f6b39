"""A finished store as a page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlm_prep.core.errors import InputError
from vlm_prep.pack.mix_file import is_mix
from vlm_prep.pack.mix_rows import mix_text, open_mix
from vlm_prep.report import statistics
from vlm_prep.report.view import charts
from vlm_prep.report.view.page import Page, render
from vlm_prep.report.view.picked_rows import pick
from vlm_prep.report.view.shown_rejects import shown_rejects
from vlm_prep.report.view.shown_rows import Reader, documents_of, shown_row, shown_sample
from vlm_prep.shards.earlier import EARLIER
from vlm_prep.shards.joined import PickedStore
from vlm_prep.shards.layout import read_rejects
from vlm_prep.shards.object_store import StorePath
from vlm_prep.shards.reader import Store
from vlm_prep.shards.schema import MEDIA_COLUMN

MOST_REJECTS = 5_000
MOST_PACKS = 300
"""Shown as bars."""


def view(
    folder: str | StorePath, *, rows: int, seed: int, reader: Reader | None = None, title: str | None = None
) -> str:
    """Return the page of a store.

    Args:
        folder: a store of ingest, tokenize or pack.
        rows: how many rows to show.
        seed: of the random sample among them.
        reader: how ids become text; None shows the stored conversations.
        title: of the page; None names the folder.

    Raises:
        StoreError: unfinished, damaged or no store.
        InputError: a store that holds no rows to show: tars, or an index over another store.
    """
    store = opened(folder)
    manifest = store.manifest
    if manifest.extra.get("format") == "webdataset" or manifest.extra.get("layout") == "index":
        raise InputError(f"{folder} holds no rows that can be shown", "view the tokenized store that it was made of")
    shown, figures, packs = _rows(store, rows, seed, reader or Reader())
    rejects = [] if isinstance(store, PickedStore) else read_rejects(store.folder)
    facts = mix_text(store) if isinstance(store, PickedStore) else statistics.render(statistics.collect(folder))
    return render(
        Page(
            title=title or str(folder),
            about=_about(store, len(shown)),
            facts=facts,
            rows=shown,
            total=len(store),
            rejects=shown_rejects(store, rejects[:MOST_REJECTS], rows),
            rejected=len(rejects),
            charts=[each for each in (*figures, *_of_totals(manifest.totals)) if each],
            packs=packs,
        )
    )


def opened(folder: str | StorePath) -> Store:
    """Open a store, or what a mix file takes of several.

    Raises:
        StoreError: unfinished, damaged or no store.
    """
    return open_mix(str(folder)) if is_mix(folder) else Store(folder)


def overview(folder: str | StorePath) -> str:
    """Return the page of a store's numbers: its statistics, charts and rejects, without rows.

    Raises:
        StoreError: unfinished, damaged or no store.
    """
    store = Store(folder)
    totals, rejects = store.manifest.totals, read_rejects(store.folder)
    has_lengths = any("input_ids" in shard.schema.names for shard in store.shards[:1] if shard.path.suffix == ".arrow")
    limit = store.manifest.config.get("pack_length", store.manifest.config.get("max_length"))
    figures = _figures(store, store.lengths(), limit) if has_lengths else []
    return render(
        Page(
            title=str(folder),
            about=_about(store, 0),
            facts=statistics.render(statistics.collect(folder)),
            rows=[],
            total=len(store),
            rejects=shown_rejects(store, rejects[:MOST_REJECTS], 0),
            rejected=len(rejects),
            charts=[each for each in (*figures, *_of_totals(totals)) if each],
        )
    )


def _about(store: Store, shown: int) -> str:
    totals = store.manifest.totals
    before = "".join(
        f"{each['stage']} before it rejected {each['rows_rejected']:,}; " for each in totals.get(EARLIER, ())
    )
    return (
        f"output of {store.manifest.stage}: {totals['rows_in']:,} rows in = {totals['rows_written']:,} written + "
        f"{totals['rows_rejected']:,} rejected; {before}{shown:,} shown here"
    )


def _rows(store: Store, count: int, seed: int, reader: Reader) -> tuple[list[dict[str, Any]], list[str], str]:
    stage, config = store.manifest.stage, store.manifest.config
    if not len(store):
        return [], [], ""
    if stage == "ingest":
        picked = pick(np.ones(len(store), np.int64), count, limit=None, seed=seed)
        return [{**shown_sample(store.row(row)), "row": row, "why": why} for row, why in picked.items()], [], ""
    lengths = store.lengths()
    limit = config.get("max_length") if stage == "tokenize" else config["pack_length"]
    figures = _figures(store, lengths, limit)
    picked = pick(lengths, count, limit=limit, seed=seed)
    if stage == "tokenize":
        shown = [{**shown_row(store.row(row), reader), "row": row, "why": why} for row, why in picked.items()]
        share = np.array([100 * row["trained"] / max(1, row["tokens"]) for row in shown])
        figures += [charts.histogram("Trained share of the rows shown", share, "%"), _of_media(shown)]
        return shown, figures, ""
    documents = [
        {**shown_row(document, reader), "row": row, "pack": row, "why": why}
        for row, why in picked.items()
        for document in documents_of(store.row(row))
    ]
    return documents[:count], [*figures, _of_media(documents)], _packs(store, config["pack_length"])


def _of_media(rows: Sequence[dict[str, Any]]) -> str:
    """Tokens per media, of rows with text: without a tokenizer there are no runs of its tokens."""
    runs = (run for row in rows for run in row.get("runs", ()))
    times = np.array([run["times"] for run in runs if "times" in run], np.int64)
    return charts.histogram("Tokens per media of the rows shown", times, "tokens")


def _of_steps(steps: dict[str, Any]) -> str:
    """How far the packs that ranks take in one step lie apart in cost, and would if they were dealt at random."""
    found = {"as dealt": steps, "at random": steps.get("random_deal", {})}
    spreads = {
        f"{name}, {part}": 100 * each["cost_spread"][part]
        for name, each in found.items()
        if "cost_spread" in each
        for part in ("median", "p99")
    }
    return charts.bars("Difference in cost of a step's packs", spreads, "%")


def _packs(store: Store, length: int) -> str:
    numbers = range(min(MOST_PACKS, len(store)))
    packs = [(f"pack {number}", store.row(number)["seq_lens"].tolist()) for number in numbers]
    return charts.pack_bars(packs, length)


def _figures(store: Store, lengths: NDArray[np.int64], limit: int | None) -> list[str]:
    what = "Tokens in a pack" if store.manifest.stage == "pack" else "Tokens in a row"
    figures = [charts.histogram(what, lengths, "tokens", mark=limit)]
    sizes = _pixels(store)
    if len(sizes):
        figures.append(charts.histogram("Size of pictures and videos", sizes / 1e3, "thousand pixels"))
    figures.append(_of_steps(store.manifest.extra.get("plan", {}).get("steps", {})))
    return figures


def _pixels(store: Store) -> NDArray[np.int64]:
    found = [np.empty(0, np.int64)]
    for shard in store.shards:
        for chunk in shard.column(MEDIA_COLUMN).chunks:
            items = chunk.flatten()
            sides = [items.field(side).drop_null().to_numpy().astype(np.int64) for side in ("height", "width")]
            if len(sides[0]) == len(sides[1]):
                found.append(sides[0] * sides[1])
    return np.concatenate(found)


def _of_totals(totals: dict[str, Any]) -> Sequence[str]:
    datasets: dict[str, dict[str, Any]] = totals.get("datasets", {})
    written = {name: counts["rows_written"] for name, counts in datasets.items()}
    return (
        charts.bars("Rows written by data set", written),
        charts.bars("Tokens by data set", {name: counts.get("tokens", 0) for name, counts in datasets.items()}),
        charts.bars("Rows by kinds of media", totals.get("kinds", {})),
        charts.bars("Rejected rows by reason", totals.get("rejects", {})),
        charts.bars("Packs by rank", {f"rank {n}": count for n, count in enumerate(totals.get("packs_by_rank", []))}),
    )
