"""What a record batch becomes in memory, read off the shard before anything is decompressed.

Each compressed buffer begins with the bytes that it becomes, and Arrow asks for so much memory at once: four changed
bytes are 100 GiB, and a frame of a kilobyte can hold 64 MiB of zeros. Where the buffers are the head of the message
says, a flatbuffer of few tables (Message.fbs: Message, RecordBatch, Buffer), whose every place is checked here.

    buffer    bytes that it becomes, 8 bytes, -1 where it is stored as it is | a frame of lz4 or zstd
"""

from __future__ import annotations

import struct
from struct import Struct
from typing import Final

from vlm_prep.core.bounds import most_unpacked

_RECORD_BATCH: Final = 3
_HEADER_TYPE, _HEADER = 1, 2
"""Fields of a Message."""
_LENGTH, _BUFFERS, _COMPRESSION = 0, 2, 3
"""Fields of a RecordBatch."""
_U8, _U16, _I32, _U32, _I64 = (Struct(form) for form in ("<B", "<H", "<i", "<I", "<q"))
_BUFFER: Final = Struct("<qq")


class BatchHead:
    """What the head of a record batch says.

    Args:
        metadata: of the message: its flatbuffer.

    Raises:
        ValueError: it is not that of a record batch.
    """

    def __init__(self, metadata: bytes | memoryview) -> None:
        self._data = memoryview(metadata)
        try:
            message = self._number(_U32, 0)
            kind = self._field(message, _HEADER_TYPE)
            if kind is None or self._number(_U8, kind) != _RECORD_BATCH:
                raise ValueError("no record batch is where one should be")
            batch = self._table(message, _HEADER)
            length = None if batch is None else self._field(batch, _LENGTH)
            self.rows = 0 if length is None else self._number(_I64, length)
            self.compressed = batch is not None and self._field(batch, _COMPRESSION) is not None
            buffers = self._table(batch, _BUFFERS) if batch is not None and self.compressed else None
            self._places = [] if buffers is None else self._pairs(buffers)
        except struct.error as error:
            raise ValueError("the header of a record batch is cut") from error

    def must_be_small(self, body: memoryview) -> None:
        """Make sure that a compressed batch becomes no more than a store's may.

        Args:
            body: of the message.

        Raises:
            ValueError: it becomes more, or a buffer lies outside of it.
        """
        becomes = 0
        for start, length in self._places:
            if start < 0 or length < 0 or start + length > len(body):
                raise ValueError("a buffer ends outside of its record batch")
            if length >= _I64.size:
                (stated,) = _I64.unpack_from(body, start)
                becomes += max(stated, 0)
        if becomes > (most := most_unpacked(len(body))):
            raise ValueError(f"{len(body):,} bytes become {becomes:,}, more than {most:,}")

    def _pairs(self, vector: int) -> list[tuple[int, int]]:
        start = vector + _U32.size
        return list(_BUFFER.iter_unpack(self._data[start : start + _BUFFER.size * self._number(_U32, vector)]))

    def _number(self, form: Struct, place: int) -> int:
        if place < 0:
            raise ValueError("the header of a record batch leads back before it")
        (found,) = form.unpack_from(self._data, place)
        return int(found)

    def _field(self, table: int, number: int) -> int | None:
        """Return where a field of a table is; None if it has its default."""
        about = table - self._number(_I32, table)
        if 4 + 2 * number >= self._number(_U16, about):
            return None
        offset = self._number(_U16, about + 4 + 2 * number)
        return table + offset if offset else None

    def _table(self, table: int, number: int) -> int | None:
        """Return where the table or vector is that a field leads to."""
        place = self._field(table, number)
        return None if place is None else place + self._number(_U32, place)
