"""The coordinates of a row's text, one type for each, so that a type checker refuses one for another.

    RenderedChar   a character of what the chat template wrote        turns, `spans.weigh`
    PlacedChar     a character once placeholders are replaced         `Placed.move`
    TextByte       a byte of that text in UTF-8                       `masks.in_bytes`, tokens by their bytes

Tokens are numbered by arrays of their own: `text.Tokens` before runs are repeated, `encoder.Labelled` after.
"""

from __future__ import annotations

from typing import NewType

RenderedChar = NewType("RenderedChar", int)
PlacedChar = NewType("PlacedChar", int)
TextByte = NewType("TextByte", int)

RenderedSpan = tuple[RenderedChar, RenderedChar, float]
"""Start, end and weight."""
ByteSpan = tuple[TextByte, TextByte, float]
"""Start, end and weight."""
