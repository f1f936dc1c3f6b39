"""From characters to tokens: which tokens overlap the trained spans of a text, and with which weight."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vlm_prep.tokenize.coordinates import ByteSpan, PlacedChar, TextByte
from vlm_prep.tokenize.text import Tokens


def in_bytes(text: str, positions: Sequence[PlacedChar]) -> list[TextByte]:
    """Return character positions as UTF-8 byte positions."""
    if text.isascii() or not positions:
        return [TextByte(position) for position in positions]
    found: dict[int, TextByte] = {}
    last = size = 0
    for position in sorted(set(positions)):
        size += len(text[last:position].encode())
        last, found[position] = position, TextByte(size)
    return [found[position] for position in positions]


def mask_tokens(tokens: Tokens, spans: Sequence[tuple[TextByte, TextByte]]) -> NDArray[np.bool_]:
    """Return which tokens overlap a span."""
    trained = np.zeros(len(tokens.ids), np.bool_)
    for start, end in spans:
        if end > start:
            trained[_overlapping(tokens, start, end)] = True
    return trained


def weigh_tokens(tokens: Tokens, spans: Sequence[ByteSpan]) -> NDArray[np.float32]:
    """Return the weight of each token: the largest of the spans it overlaps."""
    weights = np.zeros(len(tokens.ids), np.float32)
    for start, end, weight in spans:
        if end > start:
            place = _overlapping(tokens, start, end)
            weights[place] = np.maximum(weights[place], np.float32(weight))
    return weights


def _overlapping(tokens: Tokens, start: TextByte, end: TextByte) -> slice:
    first = int(np.searchsorted(tokens.ends, start, side="right"))
    return slice(first, int(np.searchsorted(tokens.starts, end, side="left")))
