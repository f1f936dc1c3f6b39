"""`cross_attention_mask`: which tokens see which pictures, in models whose text sees pictures by layers of their own.

It follows from the ids and from the tiles of each picture (Llama 3.2 Vision): a picture is seen from its own token up
to the next picture's, the last one up to the end, and pictures side by side are seen as long as the last of them.
Training makes it of both, so no store holds it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

SEEN = "cross_attention_mask"
TILES = "aspect_ratio_mask"
"""The tensor that says which tiles a picture has."""


def seen_pictures(ids: NDArray[Any], token: int, tiles: NDArray[Any]) -> NDArray[np.int64]:
    """Return what each token sees: int64 (rows, tokens, pictures, tiles), 1 for a tile that it sees.

    Args:
        ids: (rows, tokens), padded at the end.
        token: that stands for a picture.
        tiles: (rows, pictures, tiles), 1 for each tile that a picture has, those of a row first.
    """
    rows, length = ids.shape
    seen = np.zeros((rows, length, *tiles.shape[1:]), np.int64)
    for row in range(rows):
        starts = np.flatnonzero(ids[row] == token).tolist()
        end = following = length
        for number in range(len(starts) - 1, -1, -1):
            if number == len(starts) - 1 or starts[number] + 1 < following:
                end = following
            seen[row, starts[number] : end, number] = tiles[row, number]
            following = starts[number]
    return seen
