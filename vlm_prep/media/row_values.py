"""Rows of tables as Python values, in bounded time and memory: what they become is not what they take in the file.

A list of two thousand million nulls takes some bytes, a list view that shows the same ten values in each row shares
them, and a text that a list names a million times by its number in a dictionary is there once.
"""

from __future__ import annotations

from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from vlm_prep.core.bounds import TABLE_BYTES, at_most

MOST_VALUES: Final = 200_000_000
"""Of what is made at once, all lists counted: an hour of sound at 48 kHz as a list of numbers has 173 million."""


def values_of(rows: pa.RecordBatch) -> list[dict[str, Any]]:
    """Return rows as Python values.

    Raises:
        ValueError: a value that Python cannot hold, or too many of them.
        OverflowError: a number that Python's type for it cannot hold.
    """
    try:
        with at_most():
            if (count := sum(_count(column) for column in rows.columns)) > MOST_VALUES:
                raise ValueError(f"{count:,} values, more than {MOST_VALUES:,}")
            found: list[dict[str, Any]] = rows.to_pylist()
    except MemoryError as error:
        raise ValueError(f"its values take more than {TABLE_BYTES >> 30} GiB of memory") from error
    return found


def _count(array: pa.Array) -> int:
    """Return how many Python values an array becomes, as far as that can be told before it is far too many."""
    kind, count = array.type, len(array)
    if pa.types.is_struct(kind):
        return count + sum(map(_count, array.flatten()))
    if pa.types.is_fixed_size_list(kind):
        inside = count * kind.list_size
    elif pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind):
        inside = int(array.sizes.to_numpy().sum())
    elif pa.types.is_map(kind):
        start, stop = (array.offsets[place].as_py() for place in (0, count)) if count else (0, 0)
        return count + sum(_count(each.slice(start, stop - start)) for each in (array.keys, array.items))
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        inside = 0  # its values lie one after the other, each once
    elif isinstance(array, pa.ExtensionArray):
        return _count(array.storage)
    elif pa.types.is_dictionary(kind) and pa.types.is_nested(kind.value_type):
        return _count(array.dictionary_decode())
    elif pa.types.is_run_end_encoded(kind) and pa.types.is_nested(kind.value_type) and count <= MOST_VALUES:
        return _count(pc.run_end_decode(array))
    else:
        return count
    return count + inside if inside > MOST_VALUES else count + _count(array.flatten())
