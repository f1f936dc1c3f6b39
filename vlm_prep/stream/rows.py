"""Rows of a finished store by number: samples, packs by rank, or packs assembled from an index.

All three answer the same three questions, so the dataset does not care which store it reads.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from vlm_prep.core.errors import StoreError
from vlm_prep.pack.assemble import assemble_pack
from vlm_prep.pack.job import PLAN_SPLIT, rank_split
from vlm_prep.pack.positions import Mrope
from vlm_prep.shards.manifest import Manifest
from vlm_prep.shards.reader import Store


class Rows(Protocol):
    """Numbered rows."""

    manifest: Manifest
    group: int
    """Rows planned as one step, which stay together in any order."""

    def __len__(self) -> int: ...

    def row(self, index: int) -> dict[str, Any]:
        """Return a row, numbers as numpy views of the shard."""

    def where(self, index: int) -> str:
        """Name the shard and the row in it."""


class SampleRows:
    """The rows of a tokenized store."""

    group = 1

    def __init__(self, folder: Path, *, verify: bool) -> None:
        self._store = Store(folder, stage="tokenize", verify=verify)
        self.manifest = self._store.manifest

    def __len__(self) -> int:
        return len(self._store)

    def row(self, index: int) -> dict[str, Any]:
        """See `Rows.row`."""
        return self._store.row(index)

    def where(self, index: int) -> str:
        """See `Rows.where`."""
        return _place(self._store, index)


class RankPacks:
    """Packs of a store with a folder for each planned rank: pack p is row p // ranks of rank p % ranks."""

    def __init__(self, folder: Path, manifest: Manifest, *, verify: bool) -> None:
        self.manifest = manifest
        self.group = int(manifest.config["world_size"])
        self._ranks = [Store(folder, split=rank_split(rank), verify=verify) for rank in range(self.group)]
        self._length = sum(len(store) for store in self._ranks)

    def __len__(self) -> int:
        return self._length

    def row(self, index: int) -> dict[str, Any]:
        """See `Rows.row`."""
        return self._ranks[index % self.group].row(index // self.group)

    def where(self, index: int) -> str:
        """See `Rows.where`."""
        return _place(self._ranks[index % self.group], index // self.group)


class IndexPacks:
    """Packs of a plan, assembled from the tokenized store when they are read.

    Raises:
        StoreError: the tokenized store is gone or is not the one the plan was made for.
    """

    def __init__(self, folder: Path, manifest: Manifest, *, verify: bool) -> None:
        self.manifest = manifest
        self.group = int(manifest.config["world_size"])
        self._plan = Store(folder, split=PLAN_SPLIT, verify=verify)
        self._source = Store(folder / manifest.extra["source"], stage="tokenize", verify=verify)
        if self._source.manifest.fingerprint != manifest.extra["source_fingerprint"]:
            raise StoreError(
                f"{folder} is a plan over another store than the one now at {self._source.folder}",
                "restore the tokenized store, or pack again",
            )
        rule = manifest.processor.get("mrope")
        self._rule = Mrope(**rule) if rule is not None else None
        self._tensors = [tensor["name"] for tensor in manifest.processor["tensors"]]

    def __len__(self) -> int:
        return len(self._plan)

    def row(self, index: int) -> dict[str, Any]:
        """See `Rows.row`."""
        plan = self._plan.row(index)
        documents = [self._source.row(int(row)) for row in plan["rows"]]
        return assemble_pack(documents, int(plan["pack_id"]), self._rule, self._tensors)

    def where(self, index: int) -> str:
        """See `Rows.where`."""
        return _place(self._plan, index)


def _place(store: Store, index: int) -> str:
    shard, row = store.locate(index)
    return f"{shard.path}, row {row}"


def open_rows(folder: Path, *, verify: bool) -> Rows:
    """Open a tokenized or packed store.

    Raises:
        StoreError: unfinished, damaged, or not a store that can be streamed.
    """
    manifest = Store(folder, verify=False).manifest
    if manifest.stage == "tokenize":
        return SampleRows(folder, verify=verify)
    if manifest.stage == "pack":
        if manifest.extra["layout"] == "index":
            return IndexPacks(folder, manifest, verify=verify)
        return RankPacks(folder, manifest, verify=verify)
    raise StoreError(f"{folder} holds the output of `{manifest.stage}`", "tokenize it first")
