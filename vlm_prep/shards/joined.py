"""Several stores read as one, their rows numbered through: for packs and mixes over stores made alike.

Nothing is copied. The stores must have been made with one processor and, where that is asked for, with the same
settings; what differs is said otherwise.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlm_prep.core.errors import StoreError
from vlm_prep.core.fingerprint import changes, digest_json
from vlm_prep.core.processor_record import meaning
from vlm_prep.shards.cache import ShardCache
from vlm_prep.shards.manifest import Manifest
from vlm_prep.shards.mapped import MOST_OPEN, OpenShards
from vlm_prep.shards.object_store import RemotePath, StorePath, beside, store_path, written_from
from vlm_prep.shards.reader import ShardReader, Store

SOURCES = "sources"
"""Where the manifest of packs says of which stores they are, if they are of several."""
MIX_FILE = "mix_file"
"""Where it says which mix file names their rows, if one does."""
_SHAPES_NO_ROW = frozenset({"verify_fraction"})
"""Settings that may differ between stores that become one."""
_MOST_CHANGES = 8


class JoinedStore(Store):
    """The rows of several stores of one stage.

    Args:
        parts: the stores, in order.

    Raises:
        StoreError: they were made with different processors.
    """

    def __init__(self, parts: Sequence[Store]) -> None:
        must_share_a_processor(parts)
        self.parts = list(parts)
        self.folder = parts[0].folder
        self.manifest = joined_manifest([part.manifest for part in parts])
        self._verify = False
        self.open_shards = parts[0].open_shards
        self.shards = [shard for part in parts for shard in part.shards]
        self._starts = [0, *accumulate(len(shard) for shard in self.shards)]


class PickedStore(Store):
    """Some rows of several stores, in any order and as often as they are named; nothing is copied.

    Args:
        base: the stores.
        index: (rows,) numbers in `base`.
        manifest: what is said of these rows.
        file: the mix file that names them.
    """

    def __init__(self, base: JoinedStore, index: NDArray[np.int64], manifest: Manifest, *, file: Path) -> None:
        self.base, self.index, self.file = base, index, file
        self.folder, self.manifest = base.folder, manifest
        self._verify, self.open_shards, self.shards = False, base.open_shards, base.shards

    def __len__(self) -> int:
        return len(self.index)

    def locate(self, index: int) -> tuple[ShardReader, int]:
        """See `Store.locate`."""
        if not 0 <= index < len(self.index):
            raise IndexError(f"{self.file}: row {index} of {len(self)}")
        return self.base.locate(int(self.index[index]))

    def rows(self) -> Iterator[dict[str, Any]]:
        """See `Store.rows`."""
        return (self.row(index) for index in range(len(self)))

    def lengths(self, name: str = "input_ids") -> NDArray[np.int64]:
        """See `Store.lengths`."""
        return self.base.lengths(name)[self.index]


def of_rows(store: Store, measure: Callable[[Store], NDArray[Any]]) -> NDArray[Any]:
    """Return what is measured of each row of a store from its columns; of picked rows from those of their stores."""
    return measure(store.base)[store.index] if isinstance(store, PickedStore) else measure(store)


def parts_of(store: Store) -> list[Store]:
    """Return the stores that a store's rows are of."""
    whole = store.base if isinstance(store, PickedStore) else store
    return whole.parts if isinstance(whole, JoinedStore) else [whole]


def opened_by(stores: Iterable[Store]) -> list[OpenShards]:
    """Return what holds the mapped shards of stores; several may share one."""
    return list({id(part.open_shards): part.open_shards for store in stores for part in parts_of(store)}.values())


def folder_of(store: Store, row: int) -> StorePath:
    """Return where the store is that row `row` is of."""
    parts = parts_of(store)
    begins = [0, *accumulate(len(part) for part in parts)]
    return parts[bisect_right(begins, row) - 1].folder


def open_stores(folders: Sequence[str | StorePath], *, stage: str | None = None, verify: bool = False) -> list[Store]:
    """Open stores; those in folders share the number of shards that are mapped at a time."""
    shared = OpenShards(MOST_OPEN)
    places = [store_path(folder) for folder in folders]
    opened = [None if isinstance(place, RemotePath) or len(places) == 1 else shared for place in places]
    return [
        Store(place, stage=stage, verify=verify, open_shards=each) for place, each in zip(places, opened, strict=True)
    ]


def open_joined(folders: Sequence[str | StorePath], *, stage: str | None = None, verify: bool = False) -> Store:
    """Open one store as it is, and several as one.

    Raises:
        StoreError: one is unfinished, damaged or of another stage, or their processors differ.
    """
    stores = open_stores(folders, stage=stage, verify=verify)
    return stores[0] if len(stores) == 1 else JoinedStore(stores)


def source_folders(folder: StorePath, manifest: Manifest, cache: ShardCache | None = None) -> list[StorePath]:
    """Return where the stores are that packs were made of."""
    written = manifest.extra.get(SOURCES) or [manifest.extra["source"]]
    return [beside(folder, each, cache) for each in written]


def open_sources(folder: StorePath, manifest: Manifest, cache: ShardCache | None = None, *, verify: bool) -> Store:
    """Open the tokenized stores that packs were made of.

    Raises:
        StoreError: one is gone, or they are not those that the packs were made of.
    """
    folders = source_folders(folder, manifest, cache)
    store = open_joined(folders, stage="tokenize", verify=verify)
    if store.manifest.fingerprint != manifest.extra["source_fingerprint"]:
        raise StoreError(
            f"{folder} is a plan over another store than the one now at {', '.join(map(str, folders))}",
            "restore the tokenized store, or pack again",
        )
    return store


def written_sources(store: Store, base: Any) -> dict[str, Any]:
    """Return how packs in `base` write down what they are of."""
    written = [written_from(part.folder, base) for part in parts_of(store)]
    return {"source": written[0], **({SOURCES: written} if len(written) > 1 else {})}


def joined_manifest(manifests: Sequence[Manifest]) -> Manifest:
    """Return what a manifest of all rows would say; its shards are those of all, under one split."""
    first = manifests[0]
    return replace(
        first,
        fingerprint=digest_json({"joined": [each.fingerprint for each in manifests]}),
        splits={"train": [info for each in manifests for _, info in each.shards()]},
        totals=summed([each.totals for each in manifests]),
        proof=joined_proof([each.proof for each in manifests]),
        extra={**first.extra, "datasets": [entry for each in manifests for entry in each.extra.get("datasets", ())]},
    )


def summed(tables: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return tables of counts added up, tables in them likewise; what is no count is the first one's."""
    found: dict[str, Any] = {}
    for name in dict.fromkeys(name for table in tables for name in table):
        values = [table[name] for table in tables if name in table]
        if all(isinstance(value, Mapping) for value in values):
            found[name] = summed(values)
        elif all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
            found[name] = sum(values)
        elif all(isinstance(value, list) for value in values):
            found[name] = [each for value in values for each in value]
        else:
            found[name] = values[0]
    return found


def joined_proof(proofs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the comparisons of several stores as one: counts added up, the smallest share, the shapes of all."""
    added = ("rows", "of", "labels_found_twice", "unreadable", "different")
    found = {**proofs[0], **summed([{name: proof[name] for name in added if name in proof} for proof in proofs])}
    if "token_hook" in found:
        found["token_hook"] = summed([proof["token_hook"] for proof in proofs if "token_hook" in proof])
    fractions = [proof["fraction"] for proof in proofs if "fraction" in proof]
    shapes = sorted({shape for proof in proofs for shape in proof.get("shapes", ())})
    return found | ({"fraction": min(fractions)} if fractions else {}) | ({"shapes": shapes} if shapes else {})


def must_share_a_processor(stores: Sequence[Store]) -> None:
    """Make sure that the rows of stores mean the same to one model.

    Raises:
        StoreError: stages or processors differ; what is said.
    """
    first = stores[0]
    for other in stores[1:]:
        if other.manifest.stage != first.manifest.stage:
            raise StoreError(
                f"{other.folder} holds the output of `{other.manifest.stage}`, {first.folder} that of "
                f"`{first.manifest.stage}`",
                "give stores of one stage",
            )
        meant = changes(meaning(first.manifest.processor), meaning(other.manifest.processor))
        _refuse(first, other, meant, "with another processor")


def must_be_alike(stores: Sequence[Store]) -> None:
    """Make sure that stores could have been made by one run: the same processor, settings and columns.

    Raises:
        StoreError: something differs; what is said.
    """
    must_share_a_processor(stores)
    first = stores[0]
    for other in stores[1:]:
        _refuse(first, other, changes(_settings(first), _settings(other)), "with other settings")
        _refuse(first, other, changes(_columns(first), _columns(other)), "with other columns")


def _settings(store: Store) -> dict[str, Any]:
    said = {name: value for name, value in store.manifest.config.items() if name not in _SHAPES_NO_ROW}
    hook = store.manifest.proof.get("token_hook")
    return {**said, "source of token_hook": hook["source"]} if hook else said


def _columns(store: Store) -> dict[str, str]:
    return {field.name: str(field.type) for shard in store.shards[:1] for field in shard.schema}


def _refuse(first: Store, other: Store, lines: list[str], how: str) -> None:
    if lines:
        more = f"\n    and {len(lines) - _MOST_CHANGES} more" if len(lines) > _MOST_CHANGES else ""
        told = [line.replace(" then, ", " there, ").replace(" now", " here") for line in lines[:_MOST_CHANGES]]
        raise StoreError(
            f"{other.folder} (here) was made {how} than {first.folder} (there):\n    " + "\n    ".join(told) + more,
            "make one of them again with the settings of the other",
        )


def repeated_ids(store: Store) -> int:
    """Return how many sample_ids stand more than once among the rows of a store."""
    counts: Counter[str] = Counter()
    for shard in store.shards:
        counts.update(shard.column("sample_id").to_pylist())
    return sum(count > 1 for count in counts.values())
