"""Filters of a mix: which rows of a store an expression takes.

    tokens < 4096 and images == 1            kind in ("image", "text")
    not dataset == "ads"                     score >= 0.5          (a kept column, see `--keep-column`)

Names are the columns below, or columns that travel with the rows. An expression is comparisons, `and`, `or`, `not`,
`in` and constants; it becomes an Arrow expression, and nothing of it is run as Python. A row without the kept
column that a comparison asks for does not fulfil it.
"""

from __future__ import annotations

import ast
import io
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj
from numpy.typing import NDArray

from vlm_prep.core.errors import InputError
from vlm_prep.core.fields import did_you_mean
from vlm_prep.shards.media_kinds import KINDS, kinds_of
from vlm_prep.shards.reader import Store
from vlm_prep.shards.schema import KEPT, MEDIA_COLUMN

Numbers = NDArray[np.int64]
_ROW: Final = "\x00row"
_COMPARE: Final[Mapping[type, Callable[[Any, Any], Any]]] = {
    ast.Lt: lambda a, b: a < b,
    ast.LtE: lambda a, b: a <= b,
    ast.Gt: lambda a, b: a > b,
    ast.GtE: lambda a, b: a >= b,
    ast.Eq: lambda a, b: a == b,
    ast.NotEq: lambda a, b: a != b,
}


def rows_where(store: Store, expression: str | None) -> Numbers:
    """Return the numbers of a tokenized store's rows that an expression takes, ascending; all where it is None.

    Raises:
        InputError: the expression is none, or asks for a column that the rows do not have.
    """
    if expression is None:
        return np.arange(len(store), dtype=np.int64)
    try:
        tree = ast.parse(expression, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise InputError(f"where: {expression!r} is no expression: {error}", _EXAMPLE) from error
    compiled = _compiled(tree, expression)
    names = sorted({node.id for node in ast.walk(tree) if isinstance(node, ast.Name)})
    columns = {name: _column(store, name, expression) for name in names}
    table = pa.table({_ROW: pa.array(np.arange(len(store), dtype=np.int64)), **columns})
    try:
        taken = table.filter(compiled).select([_ROW])
    except (pa.ArrowException, TypeError) as error:
        raise InputError(f"where: {expression!r}: {str(error).splitlines()[0]}", _EXAMPLE) from error
    return np.sort(np.asarray(taken.column(_ROW)).astype(np.int64))


_EXAMPLE: Final = 'for example: tokens < 4096 and kind == "image"'


def _compiled(node: ast.AST, text: str) -> pc.Expression:
    if isinstance(node, ast.BoolOp):
        parts = [_compiled(each, text) for each in node.values]
        found = parts[0]
        for part in parts[1:]:
            found = found & part if isinstance(node.op, ast.And) else found | part
        return found
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return ~_compiled(node.operand, text)
    if isinstance(node, ast.Name):
        return pc.field(node.id)
    if isinstance(node, ast.Compare):
        return _comparison(node, text)
    raise InputError(f"where: {text!r}: {ast.unparse(node)!r} is no comparison", _EXAMPLE)


def _comparison(node: ast.Compare, text: str) -> pc.Expression:
    left, found = node.left, None
    for op, right in zip(node.ops, node.comparators, strict=True):
        if isinstance(op, ast.In | ast.NotIn):
            part = _value(left, text).isin(_constants(right, text))
            part = ~part if isinstance(op, ast.NotIn) else part
        elif type(op) in _COMPARE:
            part = _COMPARE[type(op)](_value(left, text), _value(right, text))
        else:
            raise InputError(f"where: {text!r}: {ast.unparse(node)!r} is no comparison", _EXAMPLE)
        found = part if found is None else found & part
        left = right
    return found


def _value(node: ast.AST, text: str) -> pc.Expression:
    return pc.field(node.id) if isinstance(node, ast.Name) else pc.scalar(_constant(node, text))


def _constants(node: ast.AST, text: str) -> list[Any]:
    if not isinstance(node, ast.Tuple | ast.List | ast.Set):
        raise InputError(
            f"where: {text!r}: expected a list of values behind `in`", 'for example: kind in ("image", "text")'
        )
    return [_constant(each, text) for each in node.elts]


def _constant(node: ast.AST, text: str) -> Any:
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        value = None
    if not isinstance(value, bool | int | float | str):
        raise InputError(f"where: {text!r}: {ast.unparse(node)!r} is no value to compare with", _EXAMPLE)
    return value


# ---- columns ----


def _column(store: Store, name: str, expression: str) -> pa.ChunkedArray | pa.Array:
    if name in COLUMNS:
        return COLUMNS[name](store)
    kept = kept_table(store)
    if name in kept.column_names:
        return kept.column(name)
    known = [*COLUMNS, *kept.column_names]
    raise InputError(
        f"where: {expression!r}: {store.folder} has no column {name!r}",
        f"it has: {', '.join(known)}.{did_you_mean(name, known)}",
    )


def kept_table(store: Store) -> pa.Table:
    """Return the columns that travel with the rows as a table, a row each."""
    if not any(KEPT in shard.schema.names for shard in store.shards[:1]):
        return pa.table({})
    lines = [text or "{}" for shard in store.shards for text in shard.column(KEPT).to_pylist()]
    if not lines:
        return pa.table({})
    try:
        return pj.read_json(io.BytesIO("\n".join(lines).encode()), pj.ReadOptions(use_threads=False))
    except pa.ArrowInvalid as error:
        raise InputError(
            f"{store.folder}: its kept columns are of several types: {error}", "filter by other columns"
        ) from error


def _plain(name: str) -> Callable[[Store], pa.ChunkedArray]:
    return lambda store: pa.chunked_array(
        [chunk for shard in store.shards for chunk in shard.column(name).chunks], pa.string()
    )


def _counts(kind: str) -> Callable[[Store], pa.Array]:
    def count(store: Store) -> pa.Array:
        parts = [np.empty(0, np.int64)]
        for media in _media(store):
            of = np.repeat(np.arange(len(media)), media.value_lengths().to_numpy(zero_copy_only=False))
            has = pc.equal(media.flatten().field("kind"), kind).to_numpy(zero_copy_only=False).astype(bool)
            parts.append(np.bincount(of[has], minlength=len(media)))
        return pa.array(np.concatenate(parts).astype(np.int64))

    return count


def _media(store: Store) -> Any:
    return (chunk for shard in store.shards for chunk in shard.column(MEDIA_COLUMN).chunks)


def _pixels(store: Store) -> pa.Array:
    """Pixels of the row's largest picture or video frame; 0 without any."""
    parts = [np.empty(0, np.int64)]
    for media in _media(store):
        items = media.flatten()
        sides = [pc.fill_null(items.field(side), 0).to_numpy().astype(np.int64) for side in ("height", "width")]
        largest = np.zeros(len(media), np.int64)
        of = np.repeat(np.arange(len(media)), media.value_lengths().to_numpy(zero_copy_only=False))
        np.maximum.at(largest, of, sides[0] * sides[1])
        parts.append(largest)
    return pa.array(np.concatenate(parts))


def _trained(store: Store) -> pa.Array:
    parts = [np.empty(0, np.int64)]
    for shard in store.shards:
        for labels in shard.column("labels").chunks:
            ends = np.concatenate([[0], np.cumsum(labels.flatten().to_numpy(zero_copy_only=False) != -100)])
            offsets = labels.offsets.to_numpy() - labels.offsets[0].as_py()
            parts.append(np.diff(ends[offsets]))
    return pa.array(np.concatenate(parts).astype(np.int64))


def _kind(store: Store) -> pa.Array:
    names = [
        "+".join(name for bit, name in enumerate(KINDS) if code >> bit & 1) or "text" for code in range(1 << len(KINDS))
    ]
    return pa.DictionaryArray.from_arrays(pa.array(kinds_of(store).astype(np.int8)), pa.array(names)).cast(pa.string())


COLUMNS: Final[Mapping[str, Callable[[Store], Any]]] = {
    "sample_id": _plain("sample_id"),
    "dataset": _plain("dataset"),
    "tokens": lambda store: pa.array(store.lengths()),
    "trained": _trained,
    "kind": _kind,
    "images": _counts("image"),
    "videos": _counts("video"),
    "audios": _counts("audio"),
    "pixels": _pixels,
}
"""Columns that every tokenized store has for a filter."""
