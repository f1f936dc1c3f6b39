"""The rows of several stores, numbered through."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from vlm_prep.core.errors import StoreError
from vlm_prep.core.fingerprint import changes
from vlm_prep.core.processor_record import meaning
from vlm_prep.shards.manifest import Manifest
from vlm_prep.shards.media_kinds import Kinds
from vlm_prep.stream.order import Numbers, Places
from vlm_prep.stream.stored_rows import Make, Rows


class MixedRows:
    """The rows of several stores, numbered through.

    Raises:
        StoreError: the stores were not made with the same processor, or are not of the same kind.
    """

    def __init__(self, parts: Sequence[Rows]) -> None:
        self.parts = list(parts)
        self.manifest = parts[0].manifest
        for part in parts[1:]:
            _must_mix(self.manifest, part.manifest)
        self.places = Places(rows=sum(len(part) for part in parts))
        self._firsts = [0, *accumulate(len(part) for part in parts)]

    def __len__(self) -> int:
        return self._firsts[-1]

    def _find(self, index: int) -> tuple[Rows, int]:
        number = bisect_right(self._firsts, index) - 1
        return self.parts[number], index - self._firsts[number]

    def row(self, index: int) -> dict[str, Any]:
        """See `Rows.row`."""
        part, own = self._find(index)
        return part.row(own)

    def made(self, index: int, make: Make) -> Any:
        """See `Rows.made`."""
        part, own = self._find(index)
        return part.made(own, make)

    def drop_cut(self) -> None:
        """See `Rows.drop_cut`."""
        for part in self.parts:
            part.drop_cut()

    def columns(self) -> tuple[str, ...]:
        """See `Rows.columns`."""
        return self.parts[0].columns()

    def lengths(self) -> Numbers:
        """See `Rows.lengths`."""
        return np.concatenate([part.lengths() for part in self.parts])

    def kinds(self) -> Kinds:
        """See `Rows.kinds`."""
        return np.concatenate([part.kinds() for part in self.parts])

    def where(self, index: int) -> str:
        """See `Rows.where`."""
        part, own = self._find(index)
        return part.where(own)

    def fetched(self, rounds: int, world_size: int, *, shuffle: bool) -> int:
        """See `Rows.fetched`."""
        return sum(part.fetched(rounds, world_size, shuffle=shuffle) for part in self.parts)


def _must_mix(one: Manifest, other: Manifest) -> None:
    kinds = [(each.stage, each.config.get("pack_length"), each.config.get("world_size")) for each in (one, other)]
    if kinds[0] != kinds[1]:
        raise StoreError(
            f"stores of different kinds do not mix: (stage, pack length, world size) {kinds[0]} and {kinds[1]}",
            "mix tokenized stores, or packed ones of one `pack_length` and `world_size`",
        )
    if differ := changes(meaning(one.processor), meaning(other.processor)):
        raise StoreError(
            "the stores were made with different processors: " + "; ".join(differ),
            "tokenize them with the same one",
        )
