"""Rows whose pictures are nearly those of an earlier row, by perceptual hash (imagehash, the extra `dedupe`).

Two pictures are alike if their 64-bit hashes differ in at most so many bits. A row goes if it has a picture that is
alike one of an earlier row that stays. Hashes are looked up by 16-bit pieces: of two that differ in fewer bits than
there are pieces one piece is equal, so that not all pairs are compared.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlm_prep.core.errors import InputError, Reject
from vlm_prep.media.decode import load_media
from vlm_prep.shards.reader import Store

Numbers = NDArray[np.int64]
_BITS = 64


def unlike_rows(store: Store, rows: Numbers, bits: int) -> Numbers:
    """Return the rows that have no picture alike one of an earlier row.

    Args:
        store: of any payload whose pictures can be decoded.
        rows: numbers in it, in order.
        bits: in which hashes may differ that count as alike.

    Raises:
        InputError: imagehash is not installed, or the store holds tensors and no pictures.
    """
    seen = _Hashes(bits)
    kept = []
    for number in rows.tolist():
        hashes = list(_hashes(store.row(number, ("conversation", "kept"))["media"]))
        if not any(seen.near(each) for each in hashes):
            kept.append(number)
            for each in hashes:
                seen.add(each)
    return np.array(kept, np.int64)


def _hashes(media: list[Mapping[str, Any]]) -> Iterator[int]:
    try:
        import imagehash
    except ImportError as error:
        raise InputError("similar_pictures needs imagehash", "pip install 'vlm-prep[dedupe]'") from error

    for struct in media:
        if struct["kind"] != "image":
            continue
        if struct["tensors"]:
            raise InputError(
                "similar_pictures: the store holds the processor's tensors, and no pictures",
                "tokenize with `media=encoded` or `media=reference`",
            )
        try:
            picture = load_media(struct)
        except Reject as reject:
            raise InputError(f"similar_pictures: {reject.message}", "verify the store") from reject
        assert isinstance(picture, Image.Image)
        found = imagehash.phash(picture).hash.reshape(-1)
        yield int.from_bytes(np.packbits(found).tobytes(), "big")


class _Hashes:
    """Hashes that were seen."""

    def __init__(self, bits: int) -> None:
        self._bits = bits
        edges = np.linspace(0, _BITS, bits + 2).astype(int).tolist()
        self._pieces = [(start, (1 << (end - start)) - 1) for start, end in pairwise(edges)]
        self._by_piece: dict[tuple[int, int], list[int]] = defaultdict(list)

    def near(self, value: int) -> bool:
        """Whether a hash differs from one that was seen in few enough bits."""
        return any(
            (value ^ other).bit_count() <= self._bits
            for key in self._keys(value)
            for other in self._by_piece.get(key, ())
        )

    def add(self, value: int) -> None:
        """Note a hash."""
        for key in self._keys(value):
            self._by_piece[key].append(value)

    def _keys(self, value: int) -> Iterator[tuple[int, int]]:
        for number, (start, mask) in enumerate(self._pieces):
            yield number, value >> start & mask
