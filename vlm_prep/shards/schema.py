"""The Arrow columns of each kind of store.

Shards are Arrow IPC *streams*, because that is the one form `datasets.load_from_disk` and `Dataset.from_file` open.
Conversations are canonical JSON text, never Arrow structs: struct unification across rows adds null keys to tool
schemas and drops others. Token ids and labels are int32 (vocabularies are far below 2**31); no attention mask is
stored, it is all ones.

Columns are either scalars (string, int), lists of numbers, lists of vectors, or MEDIA (a list of structs).
`reader.py` relies on nothing else.

A media whose bytes stand earlier in the same shard has null `bytes` and `tensors`, and says in `same_as` where they
are: a picture that many rows ask about is stored once a shard.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

SCHEMA_VERSION = 3

FILE = pa.struct([("uri", pa.string()), ("digest", pa.string()), ("bytes", pa.binary())])
TENSOR = pa.struct(
    [
        ("name", pa.string()),
        ("dtype", pa.string()),
        ("shape", pa.list_(pa.int32())),
        ("coded", pa.bool_()),
        ("data", pa.binary()),
    ]
)
"""A tensor of payload `pixels`, in C order: the processor's own, or, `coded`, uint8 to make it of (`payload.uint8`).
A shape that ends in a number below zero is of a tensor stored without repeats at its end, see `payload.stored`."""
PLACE = pa.struct([("rows_before", pa.int32()), ("media", pa.int32())])
"""A media of an earlier row of the same shard: how many rows before, and which of that row's media. A distance, so that
it holds too where a library has joined shards."""
MEDIA = pa.list_(
    pa.struct(
        [
            ("kind", pa.string()),
            ("files", pa.list_(FILE)),
            ("height", pa.int32()),
            ("width", pa.int32()),
            ("frame_list", pa.bool_()),
            ("frame_indices", pa.list_(pa.int32())),
            ("fps", pa.float64()),
            ("total_frames", pa.int32()),
            ("samples", pa.int64()),
            ("sampling_rate", pa.int32()),
            ("tensors", pa.list_(TENSOR)),
            ("same_as", PLACE),
            ("segment", pa.list_(pa.int64())),
            ("times", pa.list_(pa.float64())),
            ("decoder", pa.string()),
            ("scaled", pa.bool_()),
        ]
    )
)
"""Of a media of which only a part is meant, `segment` is its first sample or frame in the file and the one behind its
last; `frame_indices` and the counts are of the part. `times` are the seconds at which frames are shown, where the
processor was given these and not a rate; `decoder` is what frames of a video file were read with (null: decord);
`scaled` says that pictures are scaled to height and width before the processor is given them (null: they have them).
The last four came after the first stores of this version, which lack them."""

MEDIA_COLUMN = "media"
"""The column of type MEDIA; an ingested store has one of that name with JSON text."""

_NUMBERS = frozenset(
    [
        *(pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()),
        *(pa.float16(), pa.float32(), pa.float64(), pa.bool_()),
    ]
)
_BYTES = frozenset((pa.string(), pa.large_string(), pa.binary(), pa.large_binary()))


def must_be_readable(schema: pa.Schema) -> None:
    """Make sure that a schema, whoever wrote it, has only columns of the forms that are named above.

    Raises:
        ValueError: a column has another one: a dictionary, a union, an extension, a view, ...
    """
    for field in schema:
        if not _is_readable(field.type):
            raise ValueError(f"column {field.name} is of type {field.type}, which no shard has")
    if len(set(schema.names)) != len(schema.names):
        raise ValueError("two columns have one name")


def _is_readable(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return kind.num_fields > 0 and all(_is_readable(field.type) for field in kind)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _is_readable(kind.value_type)
    return kind in _NUMBERS or kind in _BYTES


def has_media(schema: pa.Schema) -> bool:
    """Whether rows of a schema hold media."""
    if MEDIA_COLUMN not in schema.names:
        return False
    kind = schema.field(MEDIA_COLUMN).type
    # stores of this version that were written earlier lack the last fields
    return bool(pa.types.is_list(kind) and pa.types.is_struct(kind.value_type) and kind.value_type[0].name == "kind")


_ITEM_TYPES: Mapping[str, pa.DataType] = {"int64": pa.int32(), "float32": pa.float32(), "float64": pa.float64()}

_POSITIONS: Mapping[str, pa.DataType] = {
    "plain": pa.list_(pa.int32()),
    "mrope": pa.list_(pa.list_(pa.int32())),
    "mrope float": pa.list_(pa.list_(pa.float32())),
}


def tensor_type(dtype: str, shape: Sequence[int]) -> pa.DataType:
    """Return the column type of a stored tensor: a list with an element, of `shape`, for each of its rows.

    Sizes and counts are far below 2**31, so what a processor returns as int64 is stored as int32.

    Raises:
        ValueError: it has more than one dimension after the first.
    """
    item = _ITEM_TYPES[dtype]
    if not shape:
        return pa.list_(item)
    if len(shape) > 1:
        raise ValueError(f"a stored tensor has rows of shape {tuple(shape)}; numbers and vectors can be stored")
    return pa.list_(pa.list_(item, shape[0]))


def tensor_fields(tensors: Sequence[Mapping[str, Any]]) -> list[pa.Field]:
    """Return the columns of the tensors that a manifest's processor names: {name, dtype, shape}."""
    return [pa.field(tensor["name"], tensor_type(tensor["dtype"], tensor["shape"])) for tensor in tensors]


LOSS_WEIGHTS = "loss_weights"
"""Column of a weight for each token, in stores made with --loss-weights and in packs of them."""


KEPT = "kept"
"""Column of what travels with a row, as JSON text (`ingest.kept_columns`); in packs one for each document, in rejects
too. Only where a source has such columns."""


RESCUE = "rescue"
"""Column of what was done to a row that was too long, as JSON text (`tokenize.rescue`); only with that policy."""


BOXES = "boxes"
"""Column of a row's boxes and points as JSON text, for each its media, its coordinates from 0 to 1 and, where the text
says it, its name; only where a rule for them was declared."""

BESIDE = (KEPT, RESCUE, BOXES)
"""Columns for people, of text: none of them is read in training. In packs each is a list, a text for each document."""


def tokenized_schema(
    tensors: Sequence[Mapping[str, Any]],
    *,
    weights: bool = False,
    kept: bool = False,
    rescue: bool = False,
    boxes: bool = False,
) -> pa.Schema:
    """Return the schema of a tokenized store.

    Args:
        tensors: {name, dtype, shape} of the tensors that the family stores.
        weights: whether each token's weight is stored.
        kept: whether columns of the source travel with the rows.
        rescue: whether rows that are too long are rescued.
        boxes: whether boxes and points are read.
    """
    fields = [
        pa.field("sample_id", pa.string()),
        pa.field("dataset", pa.string()),
        pa.field("input_ids", pa.list_(pa.int32())),
        pa.field("labels", pa.list_(pa.int32())),
        *([pa.field(LOSS_WEIGHTS, pa.list_(pa.float32()))] if weights else []),
        *tensor_fields(tensors),
        pa.field("media", MEDIA),
        pa.field("conversation", pa.string()),
        *([pa.field(KEPT, pa.string())] if kept else []),
        *([pa.field(RESCUE, pa.string())] if rescue else []),
        *([pa.field(BOXES, pa.string())] if boxes else []),
    ]
    return pa.schema(fields)


def packed_schema(
    tensors: Sequence[Mapping[str, Any]], *, positions: str, weights: bool = False, beside: Sequence[str] = ()
) -> pa.Schema:
    """Return the schema of a packed store.

    Args:
        tensors: stored tensors, concatenated over the pack's documents.
        positions: "mrope" for (3, length) positions, "mrope float" for such in float32, "plain" for (length,).
        weights: whether each token's weight is stored.
        beside: of `BESIDE`, the columns of the documents that travel with them.
    """
    position_type = _POSITIONS[positions]
    fields = [
        pa.field("pack_id", pa.int64()),
        pa.field("sample_ids", pa.list_(pa.string())),
        pa.field("input_ids", pa.list_(pa.int32())),
        pa.field("labels", pa.list_(pa.int32())),
        *([pa.field(LOSS_WEIGHTS, pa.list_(pa.float32()))] if weights else []),
        pa.field("position_ids", position_type),
        pa.field("seq_lens", pa.list_(pa.int32())),
        *tensor_fields(tensors),
        pa.field("media", MEDIA),
        pa.field("media_counts", pa.list_(pa.int32())),
        *(pa.field(name, pa.list_(pa.string())) for name in beside),
    ]
    return pa.schema(fields)


def plan_schema() -> pa.Schema:
    """Return the schema of a plan: the document rows of each pack, by number in the tokenized store."""
    return pa.schema(
        [pa.field("pack_id", pa.int64()), pa.field("rank", pa.int32()), pa.field("rows", pa.list_(pa.int64()))]
    )


def sample_schema(*, kept: bool = False) -> pa.Schema:
    """Return the schema of an ingested store: conversations as JSON text and media references with their headers."""
    return pa.schema(
        [
            pa.field("sample_id", pa.string()),
            pa.field("dataset", pa.string()),
            pa.field("source", pa.string()),
            pa.field("line", pa.int64()),
            pa.field("conversation", pa.string()),
            pa.field("media", pa.string()),
            *([pa.field(KEPT, pa.string())] if kept else []),
        ]
    )


REJECTS = pa.schema(
    [
        pa.field("sample_id", pa.string()),
        pa.field("dataset", pa.string()),
        pa.field("source", pa.string()),
        pa.field("line", pa.int64()),
        pa.field("stage", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("message", pa.string()),
    ]
)
REJECTS_KEPT = REJECTS.append(pa.field(KEPT, pa.string()))
"""The same where a rejected row has columns that travel with it."""
