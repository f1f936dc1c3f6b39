"""Rows of a finished store by number: samples, packs by rank, or packs assembled from an index.

All of them answer the same questions, so the dataset does not care which store it reads, or how many.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vlm_prep.core.errors import StoreError
from vlm_prep.pack.assemble import assemble_pack
from vlm_prep.pack.mix_file import is_mix
from vlm_prep.pack.mix_rows import open_mix
from vlm_prep.pack.model_rule import stored_rule
from vlm_prep.pack.pack_plan import PLAN_SPLIT, rank_split
from vlm_prep.shards.cache import ShardCache
from vlm_prep.shards.joined import of_rows, open_sources, opened_by
from vlm_prep.shards.layout import must_be_unchanged
from vlm_prep.shards.manifest import Manifest, read_manifest
from vlm_prep.shards.mapped import open_shards_of
from vlm_prep.shards.media_kinds import Kinds, kinds_of
from vlm_prep.shards.object_store import StorePath, store_path
from vlm_prep.shards.reader import Store
from vlm_prep.shards.schema import BESIDE
from vlm_prep.stream.order import Numbers, Places

_NOT_TRAINED = ("conversation", "dataset", *BESIDE)
"""Columns that no batch holds; reading their text would cost more than a row's tokens."""
Make = Callable[[Callable[[], dict[str, Any]]], Any]


class Rows(Protocol):
    """Numbered rows."""

    manifest: Manifest
    places: Places
    """How the rows lie on disk."""

    def __len__(self) -> int: ...

    def row(self, index: int) -> dict[str, Any]:
        """Return a row, numbers as numpy views of the shard."""

    def made(self, index: int, make: Make) -> Any:
        """Return what `make` makes of a row, see `ShardReader.made`; None where rows are not made together."""

    def drop_cut(self) -> None:
        """Close shards whose files were cut while they were mapped, see `OpenShards.drop_cut`."""

    def columns(self) -> tuple[str, ...]:
        """Name the columns of a row."""

    def lengths(self) -> Numbers:
        """Return (rows,) the tokens of each row; opens every shard to read its list offsets."""

    def kinds(self) -> Kinds:
        """Return (rows,) the kinds of media of each row, a bit each (`media_kinds.KINDS`)."""

    def where(self, index: int) -> str:
        """Name the shard and the row in it."""

    def fetched(self, rounds: int, world_size: int, *, shuffle: bool) -> int:
        """Return the bytes, at most, of the object store's shards from which this machine reads in so many rounds."""


class _InTurn:
    """Rows that lie in stores in turn: row n is row n // stores of store n % stores. One store has all."""

    def __init__(self, manifest: Manifest, stores: Sequence[Store]) -> None:
        self.manifest, self._stores = manifest, stores
        self._length = sum(len(store) for store in stores)
        self._opened = opened_by(stores)
        self.places = _places(stores, len(stores), manifest)

    def __len__(self) -> int:
        return self._length

    def _at(self, index: int) -> tuple[Store, int]:
        row, store = divmod(index, len(self._stores))
        return self._stores[store], row

    def row(self, index: int) -> dict[str, Any]:
        """See `Rows.row`."""
        store, row = self._at(index)
        return store.row(row, _NOT_TRAINED)

    def made(self, index: int, make: Make) -> Any:
        """See `Rows.made`."""
        store, place = self._at(index)
        shard, row = store.locate(place)
        return shard.made(row, make, _NOT_TRAINED)

    def drop_cut(self) -> None:
        """See `Rows.drop_cut`."""
        for opened in self._opened:
            opened.drop_cut()

    def columns(self) -> tuple[str, ...]:
        """See `Rows.columns`."""
        return _columns(self._stores)

    def lengths(self) -> Numbers:
        """See `Rows.lengths`."""
        return self._in_turn([store.lengths() for store in self._stores])

    def kinds(self) -> Kinds:
        """See `Rows.kinds`."""
        return self._in_turn([kinds_of(store) for store in self._stores])

    def _in_turn(self, values: Sequence[NDArray[Any]]) -> NDArray[Any]:
        if len(values) == 1:
            return values[0]
        joined = np.zeros(self._length, values[0].dtype)
        for number, each in enumerate(values):
            joined[number :: len(values)] = each
        return joined

    def where(self, index: int) -> str:
        """See `Rows.where`."""
        return _place(*self._at(index))


class SampleRows(_InTurn):
    """The rows of a tokenized store."""

    def __init__(self, folder: StorePath, manifest: Manifest, *, verify: bool) -> None:
        super().__init__(manifest, [Store(folder, manifest=manifest, verify=verify)])

    def fetched(self, rounds: int, world_size: int, *, shuffle: bool) -> int:
        """See `Rows.fetched`."""
        return sum(self._stores[0].bytes_fetched[: _shards(self.places, rounds, shuffle)])


class RankPacks(_InTurn):
    """Packs of a store with a folder for each planned rank: pack p is row p // ranks of rank p % ranks."""

    def __init__(self, folder: StorePath, manifest: Manifest, *, verify: bool) -> None:
        world = int(manifest.config["world_size"])
        opened = open_shards_of(folder, manifest)
        ranks = [
            Store(folder, split=rank_split(rank), verify=verify, manifest=manifest, open_shards=opened)
            for rank in range(world)
        ]
        super().__init__(manifest, ranks)
        for rank, store in enumerate(ranks):
            if len(store) != len(range(rank, self._length, world)):
                what = f"{len(store)} of {self._length} packs for rank {rank} of {world}"
                raise StoreError(f"{folder}: its manifest says {what}", "pack again")

    def fetched(self, rounds: int, world_size: int, *, shuffle: bool) -> int:
        """See `Rows.fetched`; rank r of any world reads the folders r, r + world_size, ... modulo their number."""
        count, planned = _shards(self.places, rounds, shuffle), len(self._stores)
        each = sorted((sum(store.bytes_fetched[:count]) for store in self._stores), reverse=True)
        here = int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # torchrun's
        return sum(each[: here * (planned // math.gcd(planned, world_size))])


class MixRows(_InTurn):
    """The rows that a mix file takes of its stores, see `pack.mix_rows`."""

    def __init__(self, path: str, *, verify: bool) -> None:
        store = open_mix(path, verify=verify)
        super().__init__(store.manifest, [store])
        self._store = store

    def kinds(self) -> Kinds:
        """See `Rows.kinds`."""
        return of_rows(self._store, kinds_of)

    def fetched(self, rounds: int, world_size: int, *, shuffle: bool) -> int:
        """See `Rows.fetched`; the rows of a mix may come from all over its stores."""
        return sum(self._store.bytes_fetched)


class IndexPacks:
    """Packs of a plan, assembled from the tokenized store when they are read.

    Raises:
        StoreError: the tokenized store is gone or is not the one the plan was made for.
    """

    def __init__(self, folder: StorePath, manifest: Manifest, *, verify: bool, cache: ShardCache | None = None) -> None:
        self.manifest = manifest
        self._plan = Store(folder, split=PLAN_SPLIT, verify=verify, manifest=manifest)
        self.places = _places([self._plan], int(manifest.config["world_size"]), manifest)
        self._source = open_sources(folder, manifest, cache, verify=verify)
        self._opened = opened_by([self._plan, self._source])
        self._rule = stored_rule(manifest.processor)
        self._tensors = [tensor["name"] for tensor in manifest.processor["tensors"]]

    def __len__(self) -> int:
        return len(self._plan)

    def row(self, index: int) -> dict[str, Any]:
        """See `Rows.row`."""
        plan = self._plan.row(index)
        documents = [self._source.row(int(row), _NOT_TRAINED) for row in plan["rows"]]
        return assemble_pack(documents, int(plan["pack_id"]), self._rule, self._tensors)

    def made(self, index: int, make: Make) -> Any:
        """See `Rows.made`; a pack's documents lie all over the store."""
        return None

    def drop_cut(self) -> None:
        """See `Rows.drop_cut`."""
        for opened in self._opened:
            opened.drop_cut()

    def columns(self) -> tuple[str, ...]:
        """See `Rows.columns`."""
        return _columns([self._source])

    def lengths(self) -> Numbers:
        """See `Rows.lengths`."""
        return self._by_pack(self._source.lengths(), np.add)

    def kinds(self) -> Kinds:
        """See `Rows.kinds`."""
        return self._by_pack(kinds_of(self._source), np.bitwise_or)

    def _by_pack(self, documents: NDArray[Any], join: np.ufunc) -> NDArray[Any]:
        """Join the values of each pack's documents."""
        rows = [np.asarray(chunk.flatten()) for shard in self._plan.shards for chunk in shard.column("rows").chunks]
        counts = self._plan.lengths("rows")
        starts = np.cumsum(counts) - counts
        return np.asarray(join.reduceat(documents[np.concatenate(rows)], starts)) if len(counts) else documents[:0]

    def where(self, index: int) -> str:
        """See `Rows.where`."""
        return _place(self._plan, index)

    def fetched(self, rounds: int, world_size: int, *, shuffle: bool) -> int:
        """See `Rows.fetched`; the documents of a pack come from all over the tokenized store."""
        count = _shards(self.places, rounds, shuffle)
        return sum(self._plan.bytes_fetched[:count]) + sum(self._source.bytes_fetched)


def _place(store: Store, index: int) -> str:
    shard, row = store.locate(index)
    return f"{shard.path}, row {row}"


def _columns(stores: Sequence[Store]) -> tuple[str, ...]:
    shards = [shard for store in stores for shard in store.shards]
    return tuple(shards[0].schema.names) if shards else ()


def _places(stores: Sequence[Store], group: int, manifest: Manifest) -> Places:
    shards = [shard.info for store in stores for shard in store.shards]
    rows = sum(len(store) for store in stores)
    return Places.of(
        rows,
        group=group,
        batches=sum(len(info.batches) for info in shards),
        shards=len(shards),
        epochs=manifest.extra.get("plan", {}).get("epochs", {}).get("packs", ()),
    )


def _shards(places: Places, rounds: int, shuffle: bool) -> int:
    return rounds * (places.shards_at_a_time if shuffle else 1)


def names_of(row: dict[str, Any]) -> str:
    """Name the samples of a row, as far as it was read."""
    names = [row["sample_id"]] if "sample_id" in row else row.get("sample_ids", [])
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return f" ({', '.join(names[:8])}{more})" if names else ""


def open_rows(path: str | StorePath, *, verify: bool, cache: ShardCache | None = None) -> Rows:
    """Open a tokenized or packed store, or a mix of tokenized ones.

    Args:
        path: a folder, a place on an object store, or a mix file.
        verify: see `Store`.
        cache: for shards of an object store.

    Raises:
        StoreError: unfinished, damaged, or not a store that can be streamed.
        InputError: the object store could not be asked.
    """
    if is_mix(path):
        return MixRows(str(path), verify=verify)
    folder = store_path(path, cache)
    return rows_of(folder, read_manifest(folder), verify=verify, cache=cache)


def rows_of(folder: StorePath, manifest: Manifest, *, verify: bool, cache: ShardCache | None = None) -> Rows:
    """Open a store by its manifest, see `open_rows`; it may be one that is not written yet."""
    if verify:
        must_be_unchanged(folder, manifest)
    if manifest.stage == "tokenize":
        return SampleRows(folder, manifest, verify=verify)
    if manifest.stage == "pack":
        if manifest.extra.get("format") == "webdataset":
            raise StoreError(
                f"{folder} is in webdataset format", "read it with webdataset, or pack to arrow for ShardDataset"
            )
        if manifest.extra["layout"] == "index":
            return IndexPacks(folder, manifest, verify=verify, cache=cache)
        return RankPacks(folder, manifest, verify=verify)
    raise StoreError(f"{folder} holds the output of `{manifest.stage}`", "tokenize it first")
