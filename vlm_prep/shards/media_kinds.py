"""Which kinds of media each row of a store has, read from a column of words; no media is touched."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vlm_prep.shards.reader import Store
from vlm_prep.shards.schema import MEDIA_COLUMN

KINDS = ("image", "video", "audio")
"""Bit i of a row's kinds is the i-th of these."""
Kinds = NDArray[np.uint8]


def kinds_of(store: Store) -> Kinds:
    """Return (rows,) the kinds of media of each row of a tokenized or packed store."""
    found = [kinds_in(chunk) for shard in store.shards for chunk in shard.column(MEDIA_COLUMN).chunks]
    return np.concatenate([*found, np.empty(0, np.uint8)]).astype(np.uint8)


def kinds_in(media: pa.ListArray) -> Kinds:
    """Return (rows,) the kinds of media in each row of a chunk of the media column."""
    of = np.repeat(np.arange(len(media)), media.value_lengths().to_numpy(zero_copy_only=False))
    names = media.flatten().field("kind")
    kinds = np.zeros(len(media), np.uint8)
    for bit, name in enumerate(KINDS):
        has = pc.equal(names, name).to_numpy(zero_copy_only=False).astype(bool)
        kinds |= (np.bincount(of[has], minlength=len(media)) > 0).astype(np.uint8) << bit
    return kinds
