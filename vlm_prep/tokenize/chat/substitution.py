"""Where a text of a conversation stands in the rendered one, by rendering once more with another text in its place.

What differs between the two renders is where it stands. It costs a render for each text, so it serves where marks get
in a template's way, and the proof, which must not use sentinels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vlm_prep.core.records import Message
from vlm_prep.tokenize.chat.sentinels import CallKey, Piece, TextPlace, stands_whole, without

_OTHER = "\ufdd0"
"""Stands in for a text: a code point that no text holds (a Unicode noncharacter)."""


def place_by_substitution(
    render: Callable[[Sequence[Message]], str],
    text: str,
    messages: Sequence[Message],
    piece: Piece,
    call_key: CallKey = "name",
) -> TextPlace | None:
    """Return where `piece` stands whole in `text`, or None where that cannot be told.

    Args:
        render: renders messages.
        text: what it makes of `messages`.
        messages: the conversation.
        piece: one of its texts.
        call_key: where the template takes functions' names from.

    Raises:
        Reject: as `render` does.
    """
    other = render(without(messages, piece, _OTHER, call_key))
    start = other.find(_OTHER)
    if start < 0 or (other.count(_OTHER) > 1 and piece.kind != "call"):
        return None
    if piece.kind == "call":  # templates repeat a function's name beside the call's result
        after = other[start + 1 : (other + _OTHER).index(_OTHER, start + 1)]
        end = start + len(piece.text)
        matches = text.startswith(piece.text + after, start)
    else:
        after = other[start + 1 :]
        end = len(text) - len(after)
        matches = start <= end and text.endswith(after) and stands_whole(text[start:end], piece.text)
    if not (matches and text.startswith(other[:start])):
        return None
    return TextPlace(piece.message, start, end, piece.kind, piece.part)
