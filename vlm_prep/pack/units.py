"""What is packed as one: a row by itself, or all rows with the same value in a column.

Rows that belong together (`keep_together`: the pieces of a long talk, several questions about a picture) are summed to
one unit before bins are filled and steps are dealt, and are written out as rows again afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vlm_prep.core.errors import InputError
from vlm_prep.shards.joined import PickedStore
from vlm_prep.shards.reader import Store

Rows = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Units:
    """Rows by unit; units are numbered by their first row."""

    of: Rows
    """(n,) the unit of each row."""
    rows: Rows
    """(n,) rows, unit after unit, in the store's order."""
    offsets: Rows
    """(units + 1,) where each unit begins in `rows`."""

    @property
    def single(self) -> bool:
        """Whether each unit is a row."""
        return len(self.offsets) == len(self.rows) + 1

    def summed(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return (units, ...) the sum over each unit's rows of what each row asks for."""
        return values if self.single else np.add.reduceat(values[self.rows], self.offsets[:-1], axis=0)

    def joined(self, kinds: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return (units,) the kinds of media of all of a unit's rows."""
        return kinds if self.single else np.bitwise_or.reduceat(kinds[self.rows], self.offsets[:-1])

    def rows_of(self, units: Rows) -> Rows:
        """Return the rows of some units, in the order of the units."""
        if self.single:
            return units
        parts = [self.rows[self.offsets[unit] : self.offsets[unit + 1]] for unit in units]
        return np.concatenate([*parts, np.empty(0, np.int64)]).astype(np.int64)


def single_rows(count: int) -> Units:
    """Return each row as a unit of its own."""
    rows = np.arange(count, dtype=np.int64)
    return Units(of=rows, rows=rows, offsets=np.arange(count + 1, dtype=np.int64))


def units_of(store: Store, column: str | None) -> Units:
    """Return the units of a store: rows with equal values in a column; a row without a value is one by itself.

    Raises:
        InputError: there is no such column, or its values are no texts or whole numbers.
    """
    if column is None:
        return single_rows(len(store))
    values: list[pa.Array] = []
    for shard in store.shards:
        field = shard.schema.field(column) if column in shard.schema.names else None
        if field is None or not _is_plain(field.type):
            raise InputError(
                f"`keep_together={column}`: {store.folder} has no column of texts or whole numbers of that name",
                f"it has {', '.join(_plain_columns(shard.schema))}",
            )
        values.extend(shard.column(column).chunks)
    whole = pa.chunked_array(values) if values else pa.chunked_array([pa.array([], pa.string())])
    return _by_value(whole.take(pa.array(store.index)) if isinstance(store, PickedStore) else whole)


def _by_value(column: pa.ChunkedArray) -> Units:
    codes = column.dictionary_encode().combine_chunks()
    numbers = codes.indices.cast(pa.int64()).fill_null(-1).to_numpy(zero_copy_only=False)
    alone = numbers < 0
    numbers = np.where(alone, numbers.max(initial=-1) + 1 + np.arange(len(numbers)), numbers)
    _, first, unit = np.unique(numbers, return_index=True, return_inverse=True)
    by_first = np.empty(len(first), np.int64)
    by_first[np.argsort(first, kind="stable")] = np.arange(len(first))
    of = by_first[unit]
    offsets = np.concatenate([[0], np.cumsum(np.bincount(of, minlength=len(first)))]).astype(np.int64)
    return Units(of=of, rows=np.argsort(of, kind="stable").astype(np.int64), offsets=offsets)


def in_order(demands: Rows, capacities: Sequence[int]) -> list[Rows]:
    """Fill packs one after the other in the order of the units, and open the next where a unit does not fit.

    Args:
        demands: (units, k), each within the capacities.
        capacities: (k,) of a pack.

    Returns:
        The units of each pack.
    """
    sums = np.concatenate([np.zeros((1, demands.shape[1]), np.int64), np.cumsum(demands, axis=0, dtype=np.int64)])
    packs, start = [], 0
    while start < len(demands):
        ends = [
            int(np.searchsorted(sums[:, column], sums[start, column] + capacity, side="right")) - 1
            for column, capacity in enumerate(capacities)
        ]
        packs.append(np.arange(start, min(ends), dtype=np.int64))
        start = min(ends)
    return packs


def _is_plain(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind))


def _plain_columns(schema: pa.Schema) -> list[str]:
    return [field.name for field in schema if _is_plain(field.type)]
