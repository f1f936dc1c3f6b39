"""Any row of a finished store, by its number, its sample_id or its own id: a sample, a document of a pack, or a reject.

store                 number                        sample_id
ingested, tokenized   of the row                    the row, or the documents that it became
packed                of the pack: its documents    the document, wherever it was put
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from vlm_prep.core.errors import InputError
from vlm_prep.core.visible import excerpt
from vlm_prep.pack.pack_plan import rank_split
from vlm_prep.report.view.shown_rows import documents_of
from vlm_prep.shards.joined import open_sources
from vlm_prep.shards.layout import read_origin, read_rejects
from vlm_prep.shards.object_store import RemotePath
from vlm_prep.shards.reader import Store
from vlm_prep.shards.row_ledger import read_ledger
from vlm_prep.shards.schema import KEPT
from vlm_prep.shards.store_names import ROWS_FILE
from vlm_prep.tokenize.row_facts import ROWS

Row = Mapping[str, Any]
BY_ID = "id:"
"""What stands before an id that would be taken for a number."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """A row and where it is."""

    row: Row
    """Of an ingested or a tokenized store, or a document of a pack with the columns of one; see `documents_of`."""
    where: dict[str, Any]
    """What is known of its place: row, shard, pack, document."""


def is_tars(store: Store) -> bool:
    """Whether a store's shards are tars, whose rows are read with webdataset alone."""
    return store.manifest.extra.get("format") == "webdataset"


def find_rows(store: Store, row: str) -> Iterator[Found]:
    """Yield the rows that a number or an id means, mostly one.

    Raises:
        InputError: there is none, or the store is one of tars.
    """
    if is_tars(store):
        raise InputError(f"{store.folder} holds tars", "look at the tokenized store that it was made of")
    by_id, by_number = _READ[_kind(store)]
    if is_number(store, row):
        yield from by_number(store, int(row))
        return
    found = False
    for each in by_id(store, row.removeprefix(BY_ID)):
        found = True
        yield each
    if not found and not any(find_rejects(store, row)):
        raise InputError(
            f"{store.folder}: no row {excerpt(row)}",
            f"numbers are 0 to {len(store) - 1:,}; else a sample_id, or its own id",
        )


def is_number(store: Store, row: str) -> bool:
    """Whether a text is the number of a row or a pack: ids may be numbers, too, as `id:17`, `0017`, or past the end."""
    return row.isdecimal() and str(int(row)) == row and int(row) < len(store)


def find_rejects(store: Store, row: str) -> Iterator[dict[str, Any]]:
    """Yield the rejects of a row, of this stage or of one before, by sample_id or its own id."""
    name = row.removeprefix(BY_ID)
    for reject in read_rejects(store.folder) if not is_number(store, row) else ():
        if name == reject["sample_id"] or name == own_id(reject.get(KEPT)):
            yield reject


def own_id(kept: str | None) -> str | None:
    """Return the id that a row had in its data file, as text, from its kept columns."""
    found = orjson.loads(kept).get("id") if kept else None
    return None if found is None else str(found)


def notes_of(store: Store, sample_id: str) -> list[str]:
    """Return what was done to a row of a tokenized store that the statistics count, by the store's record of its rows.

    Raises:
        StoreError: the record is damaged.
    """
    folder = store.folder
    if isinstance(folder, RemotePath) or store.manifest.stage != "tokenize" or not (folder / ROWS_FILE).is_file():
        return []
    ledger = read_ledger(folder, store.manifest, (read_origin(folder) or {}).get(ROWS))
    name = sample_id.partition("~")[0]
    return (ledger.notes[ledger.sample_ids.index(name)] or []) if name in ledger.sample_ids else []


def all_rows(store: Store) -> Iterator[Found]:
    """Yield every row, or every document of every pack, in the store's order."""
    _, by_number = _READ[_kind(store)]
    for number in range(len(store)):
        yield from by_number(store, number)


def _kind(store: Store) -> str:
    if store.manifest.stage != "pack":
        return "rows"
    return str(store.manifest.extra["layout"])


def _row(store: Store, number: int) -> Iterator[Found]:
    shard, local = store.locate(number)
    yield Found(row=store.row(number), where={"row": number, "shard": f"{shard.path.name}, row {local}"})


def _pack(store: Store, number: int) -> Iterator[Found]:
    pack = store.row(number)
    shard, local = store.locate(number)
    split = rank_split(int(pack["pack_id"]) % int(store.manifest.config["world_size"]))
    for place, document in enumerate(documents_of(pack)):
        where = {"pack": int(pack["pack_id"]), "document": place, "shard": f"{split}/{shard.path.name}, row {local}"}
        yield Found(row=document, where=where)


def _numbered_pack(store: Store, number: int) -> Iterator[Found]:
    """Yield the documents of pack `number`, which is row number // ranks of its rank."""
    world = int(store.manifest.config["world_size"])
    begins = [0, *accumulate(sum(info.rows for info in shards) for shards in store.manifest.splits.values())]
    yield from _pack(store, begins[number % world] + number // world)


def _planned(store: Store, number: int) -> Iterator[Found]:
    pack = store.row(number)
    source = _source(store)
    for place, row in enumerate(pack["rows"].tolist()):
        where = {"pack": int(pack["pack_id"]), "document": place, "row": row, "store": str(source.locate(row)[0].path)}
        yield Found(row=source.row(row), where=where)


def _source(store: Store) -> Store:
    return open_sources(store.folder, store.manifest, verify=False)


def _row_by_id(store: Store, name: str) -> Iterator[Found]:
    for number in _numbers(store, name):
        yield from _row(store, number)


def _numbers(store: Store, name: str) -> Iterator[int]:
    """Yield the numbers of rows that have an id, or are documents of such a row."""
    begin = 0
    for shard in store.shards:
        ids = shard.column("sample_id")
        hits = pc.or_(pc.equal(ids, name), pc.starts_with(ids, name + "~"))
        if KEPT in shard.schema.names:
            hits = pc.or_(hits, pc.match_substring(shard.column(KEPT), name))
        for place in pc.indices_nonzero(hits).to_pylist():
            row = shard.row(place)
            if name in (row["sample_id"], row["sample_id"].rpartition("~")[0], own_id(row.get(KEPT))):
                yield begin + place
        begin += len(shard)


def _document_by_id(store: Store, name: str) -> Iterator[Found]:
    for number, place in _documents(store, name):
        yield from (each for each in _pack(store, number) if each.where["document"] == place)


def _documents(store: Store, name: str) -> Iterator[tuple[int, int]]:
    begin = 0
    for shard in store.shards:
        for at, chunk in _chunks(shard.column("sample_ids")):
            flat, parents = chunk.flatten(), pc.list_parent_indices(chunk)
            hits = pc.or_(pc.equal(flat, name), pc.starts_with(flat, name + "~"))
            if KEPT in shard.schema.names:
                kept = shard.column(KEPT).slice(at, len(chunk)).combine_chunks().flatten()
                same = [own_id(each) == name for each in kept.to_pylist()] if _any(kept, name) else [False] * len(flat)
                hits = pc.or_(hits, pa.array(same))
            for place in pc.indices_nonzero(hits).to_pylist():
                pack = parents[place].as_py()
                first = pc.index(parents, pack).as_py()
                yield begin + at + pack, place - first
        begin += len(shard)


def _any(texts: pa.Array, part: str) -> bool:
    return bool(pc.any(pc.match_substring(texts, part)).as_py())


def _chunks(column: pa.ChunkedArray) -> Iterator[tuple[int, pa.ListArray]]:
    start = 0
    for chunk in column.chunks:
        yield start, chunk
        start += len(chunk)


def _planned_by_id(store: Store, name: str) -> Iterator[Found]:
    wanted = set(_numbers(_source(store), name))
    for number in range(len(store)) if wanted else ():
        if not wanted.isdisjoint(store.row(number)["rows"].tolist()):
            yield from (each for each in _planned(store, number) if each.where["row"] in wanted)


_READ: Mapping[str, tuple[Callable[[Store, str], Iterator[Found]], Callable[[Store, int], Iterator[Found]]]] = {
    "rows": (_row_by_id, _row),
    "ranks": (_document_by_id, _numbered_pack),
    "index": (_planned_by_id, _planned),
}
