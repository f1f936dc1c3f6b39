"""The value of a key in an LMDB, read page by page with every number checked.

liblmdb maps the file and follows whatever a page says: of 471 files with a few changed bytes 65 ended the process by a
signal. Here a page is read where it should be, must say its own number, and leads only to places within it; what is
damaged or cut is a ValueError. The file stays open without a lock or a map, so it may be used across forks.

On-disk format: lmdb 0.9, version 1, of 64-bit little-endian machines (mdb.c: MDB_meta, MDB_page, MDB_node).

    page      pgno u64 · pad u16 · flags u16 · lower u16 · upper u16 · (lower - 16) / 2 places of nodes, each u16
    node      lo u16 · hi u16 · flags u16 · length of the key u16 · key · value
              a branch's lo, hi, flags are a page's number; a leaf's lo, hi are its value's size
    meta      in pages 0 and 1: magic · version · address · size · two trees of 48 bytes · last page · transaction
"""

from __future__ import annotations

import os
from struct import Struct
from typing import Final

from vlm_prep.core.regular_files import open_descriptor

_PAGE: Final = Struct("<QHHHH")
_NODE: Final = Struct("<HHHH")
_META: Final = Struct("<IIQQ 48s IHHQQQQQ QQ")
_MAGIC, _VERSION = 0xBEEFC0DE, 1
_BRANCH, _LEAF, _OVERFLOW = 0x01, 0x02, 0x04
_ELSEWHERE, _IS_TREE = 0x01, 0x02
"""Flags of a node: its value lies on pages of its own; it is a database of its own."""
_OTHER_ORDER = 0x02 | 0x04 | 0x08
"""Flags of a tree whose keys are reversed, have several values, or are integers."""
_NO_PAGE: Final = 2**64 - 1
_DEEPEST: Final = 32
MOST_BYTES: Final = (1 << 31) - 4097
"""Of a value: Linux reads no more at once, and a cell of a shard holds no more."""


class LmdbFile:
    """An open LMDB.

    Args:
        path: its file.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: str) -> None:
        self._descriptor = open_descriptor(path)

    def __del__(self) -> None:
        if (descriptor := getattr(self, "_descriptor", None)) is not None:
            os.close(descriptor)

    def get(self, key: bytes) -> bytes | None:
        """Return the value of a key, None where there is none.

        Raises:
            ValueError: it is no LMDB, damaged, cut, or of a kind that holds no media.
            OSError: it cannot be read.
        """
        size, root, last = self._newest()
        number, depth = root, 0
        while number != _NO_PAGE:
            page = _Page(self._read(number * size, size, last * size + size), number)
            if page.flags & _LEAF:
                return self._value(page, key, size, last)
            number, depth = page.child(key), depth + 1
            if depth > _DEEPEST:
                raise ValueError("damaged: its tree has no end")
        return None

    def _newest(self) -> tuple[int, int, int]:
        """Return (bytes of a page, root page, last page) as the last finished transaction left them."""
        size, metas = 4096, []
        for number in (0, 1):
            data = os.pread(self._descriptor, _PAGE.size + _META.size, number * size)
            if len(data) < _PAGE.size + _META.size:
                continue
            magic, version, _, _, _, _, flags, _, _, _, _, _, root, last, done = _META.unpack_from(data, _PAGE.size)
            if magic == _MAGIC and version == _VERSION:
                metas.append((done, root, last, flags))
            if number == 0:
                # the size of a page stands in the tree of free pages, see mdb.c: mm_psize
                size = int.from_bytes(data[_PAGE.size + 24 : _PAGE.size + 28], "little")
                if magic != _MAGIC or size not in [1 << power for power in range(8, 17)]:
                    raise ValueError("no LMDB")
        if not metas:
            raise ValueError("no LMDB of a version that is read")
        _, root, last, flags = max(metas)
        if flags & _OTHER_ORDER:
            raise ValueError("its keys are not in the order of their bytes")
        return size, root, last

    def _read(self, start: int, length: int, end: int) -> bytes:
        """Return bytes that lie within the pages in use."""
        if start + length > end:
            raise ValueError("damaged: it leads to a page that it does not have")
        if start + length > (size := os.fstat(self._descriptor).st_size):
            raise ValueError(f"cut short: {size} of at least {start + length} bytes")
        found = os.pread(self._descriptor, length, start)
        if len(found) != length:
            raise ValueError(f"cut short while it was read: {len(found)} of {length} bytes")
        return found

    def _value(self, page: _Page, key: bytes, size: int, last: int) -> bytes | None:
        place = page.last_not_after(key)
        if place < 0 or page.key(place) != key:
            return None
        low, high, flags, start = page.node(place)
        length = low | high << 16
        if length > MOST_BYTES:
            raise ValueError(f"a value of {length:,} bytes, more than {MOST_BYTES:,}")
        if flags & _IS_TREE:
            raise ValueError("the key is that of a database inside")
        if not flags & _ELSEWHERE:
            return page.part(start + len(key), length)
        number = int.from_bytes(page.part(start + len(key), 8), "little")
        head = self._read(number * size, _PAGE.size, (last + 1) * size)
        found, _, kind, *_ = _PAGE.unpack(head)
        pages = int.from_bytes(head[12:16], "little")
        if found != number or not kind & _OVERFLOW or length > pages * size - _PAGE.size:
            raise ValueError("damaged: a value is not where it should be")
        return self._read(number * size + _PAGE.size, length, (last + 1) * size)


class _Page:
    """A page of a tree."""

    def __init__(self, data: bytes, number: int) -> None:
        self._data = data
        found, _, self.flags, lower, _ = _PAGE.unpack_from(data)
        self._count = (lower - _PAGE.size) >> 1
        if found != number or self.flags & ~0x10 not in (_BRANCH, _LEAF) or not _PAGE.size <= lower <= len(data):
            raise ValueError(f"damaged: page {number} is none of a tree")

    def part(self, start: int, length: int) -> bytes:
        """Return bytes of the page."""
        if start + length > len(self._data):
            raise ValueError("damaged: a node ends outside of its page")
        return self._data[start : start + length]

    def node(self, place: int) -> tuple[int, int, int, int]:
        """Return (lo, hi, flags, where the key starts) of a node."""
        at = int.from_bytes(self.part(_PAGE.size + 2 * place, 2), "little")
        low, high, flags, _ = _NODE.unpack(self.part(at, _NODE.size))
        return low, high, flags, at + _NODE.size

    def key(self, place: int) -> bytes:
        """Return the key of a node."""
        start = self.node(place)[3]
        return self.part(start, int.from_bytes(self.part(start - 2, 2), "little"))

    def last_not_after(self, key: bytes) -> int:
        """Return the last node whose key is not greater, -1 if all are; a branch's first one has no key."""
        low, high = 1 if self.flags & _BRANCH else 0, self._count
        while low < high:
            middle = (low + high) // 2
            if self.key(middle) <= key:
                low = middle + 1
            else:
                high = middle
        return low - 1

    def child(self, key: bytes) -> int:
        """Return the page below a branch that holds a key."""
        if not self._count:
            raise ValueError("damaged: a branch without nodes")
        low, high, top, _ = self.node(self.last_not_after(key))
        return low | high << 16 | top << 32
