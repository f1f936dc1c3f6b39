"""The heads of an Arrow stream's messages: what of a shard a reader must be able to trust before it looks at a row.

    message    ff ff ff ff | length of the metadata, 4 bytes | metadata (flatbuffer) | body

The schema message says what the bytes of each batch mean, the metadata of a record batch where its buffers lie. One
changed byte in them makes Arrow read outside of the file, or end the process (measured: SIGSEGV, SIGABRT); no check of
Arrow's looks at it. So the manifest holds a digest of each head (a few KB), compared when the shard or the batch is
mapped; the bodies are validated by Arrow itself, decompressed first where they are compressed (see `unpacked`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import xxhash

from vlm_prep.shards.schema import must_be_readable
from vlm_prep.shards.shard_info import ShardInfo
from vlm_prep.shards.unpacked import BatchHead

_MARK = b"\xff\xff\xff\xff"
_PREFIX = 8
_END = b"\xff\xff\xff\xff\x00\x00\x00\x00"
"""The end of every Arrow stream."""
ReadAt = Callable[[int, int], bytes]
"""From (number of bytes, offset) to the bytes."""


def read_head(read_at: ReadAt, start: int, stop: int) -> bytes:
    """Return the head of the message at `start`.

    Args:
        read_at: reads the shard.
        start: where the message starts.
        stop: where the next one starts, or the shard's end mark.

    Raises:
        ValueError: there is no message.
    """
    prefix = read_at(_PREFIX, start)
    length = int.from_bytes(prefix[4:], "little", signed=True)
    if prefix[:4] != _MARK or not 0 < length <= stop - start - _PREFIX:
        raise ValueError(f"no Arrow message starts at byte {start}")
    return prefix + read_at(length, start + _PREFIX)


def head_digests(path: Path, offsets: Sequence[int]) -> tuple[str, ...]:
    """Return the digests of a shard's schema message and of the record batches at `offsets`."""
    with pa.memory_map(str(path)) as source:
        starts = [0, *offsets, source.size() - len(_END)]
        return tuple(_digest(read_head(source.read_at, start, stop)) for start, stop in pairwise(starts))


def checked_head(source: pa.MemoryMappedFile, info: ShardInfo, number: int) -> bytes:
    """Return the head of a message of a shard: 0 is the schema, then the record batches.

    Raises:
        ValueError: it is not the one that the manifest states.
    """
    offsets = [0, *(offset for offset, _ in info.batches), info.bytes - len(_END)]
    head = read_head(source.read_at, offsets[number], offsets[number + 1])
    if info.heads and _digest(head) != info.heads[number]:
        what = f"the header of record batch {number - 1}" if number else "the schema"
        raise ValueError(f"{what} is not the one that was written")
    return head


def count_rows(path: Path) -> int:
    """Return the rows in an Arrow stream by walking the heads of its messages; nothing is decompressed.

    Raises:
        ValueError: it is damaged, or a record batch becomes more than those of a store may.
        pa.ArrowException: it is damaged.
    """
    rows = 0
    with pa.memory_map(str(path)) as source:
        for message in pa.ipc.MessageReader.open_stream(source):
            if message.type == "record batch":
                head = BatchHead(memoryview(message.metadata))
                head.must_be_small(memoryview(message.body))
                rows += head.rows
    return rows


def read_schema(source: pa.MemoryMappedFile, info: ShardInfo) -> pa.Schema:
    """Return the schema of a shard that has the manifest's size, end and schema message.

    Raises:
        ValueError: it has not.
        pa.ArrowException: the schema cannot be read.
    """
    must_be_whole(source, info)
    if source.read_at(len(_END), max(0, source.size() - len(_END))) != _END:
        raise ValueError("it does not end as a shard does")
    schema = pa.ipc.read_schema(pa.py_buffer(checked_head(source, info, 0)))
    must_be_readable(schema)
    return schema


def read_batch(
    source: pa.MemoryMappedFile, info: ShardInfo, number: int, schema: pa.Schema, only: int | None = None
) -> pa.RecordBatch:
    """Return record batch `number` of a shard: a view of the map, or decompressed.

    Args:
        source: the shard, mapped.
        info: what the manifest says of it.
        number: of the batch.
        schema: of the shard.
        only: the place of the one column that is wanted, so that no other is decompressed.

    Raises:
        ValueError: it is not the batch that was written.
        pa.ArrowException: it is damaged.
    """
    must_be_whole(source, info)  # where it was cut since it was mapped a read ends the process
    written = checked_head(source, info, number + 1)
    head = BatchHead(written[_PREFIX:])
    start, rows = info.batches[number]
    if head.rows != rows or head.compressed > info.compressed:
        said = "compressed" if head.compressed else "not compressed"
        raise ValueError(f"it has {head.rows} rows and is {said}, unlike what the manifest says ({rows} rows)")
    if info.compressed:
        stop = info.batches[number + 1][0] if number + 1 < len(info.batches) else info.bytes - len(_END)
        message = source.read_at(stop - start, start)
        head.must_be_small(memoryview(message)[len(written) :])
        alone = schema.serialize().to_pybytes() + message
        # `read_record_batch` decompresses in threads of Arrow's, which a forked reader must not have
        options = pa.ipc.IpcReadOptions(use_threads=False, included_fields=None if only is None else [only])
        with pa.ipc.open_stream(alone, options=options) as stream:
            found = stream.read_next_batch()
    else:
        source.seek(start)
        found = pa.ipc.read_record_batch(pa.ipc.read_message(source), schema)
        found = found if only is None else found.select([only])
    must_be_valid(found)
    return found


def size_of(source: pa.MemoryMappedFile) -> int:
    """Return the bytes that a mapped file has now; the map itself knows those that it had."""
    return os.fstat(source.fileno()).st_size


def must_be_whole(source: pa.MemoryMappedFile, info: ShardInfo) -> None:
    """Make sure that a mapped shard has, and had when it was mapped, the manifest's size.

    Raises:
        ValueError: it has not.
    """
    for size in (source.size(), size_of(source)):
        if size != info.bytes:
            raise ValueError(f"{size} bytes, the manifest says {info.bytes}")


def must_be_valid(batch: pa.RecordBatch) -> None:
    """Make sure that all offsets of a record batch lie within its buffers.

    Texts are looked at as bytes: that they are UTF-8 is found when one is read, and takes 20 times as long here.

    Raises:
        pa.ArrowInvalid: some do not.
    """
    for column in batch.columns:
        if pa.types.is_string(column.type):
            column.validate()
            column = column.view(pa.binary())
        column.validate(full=True)


def _digest(head: bytes) -> str:
    return xxhash.xxh3_64(head).hexdigest()
