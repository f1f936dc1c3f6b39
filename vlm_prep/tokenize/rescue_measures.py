"""What the steps of a rescue do to a media or a talk, and how the least of it that suffices is found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import sqrt
from typing import Any

from vlm_prep.core.records import Media, Message
from vlm_prep.tokenize.beginnings import is_media_part


def largest(low: int, high: int, fits: Callable[[int], bool]) -> int | None:
    """Return the largest number in [low, high] that fits, where those below one that fits do too; None for none."""
    if not fits(low):
        return None
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def evenly(indices: Sequence[int], count: int) -> tuple[int, ...]:
    """Return `count` of the indices, evenly, the first and the last among them; the middle one for one."""
    last = len(indices) - 1
    if count == 1:
        return (indices[last // 2],)
    return tuple(indices[(2 * place * last + count - 1) // (2 * (count - 1))] for place in range(count))


def pixels_of(media: Media) -> int:
    """Return the pixels of a picture or of a frame of a video; 0 for audio."""
    return 0 if media.header is None or media.kind == "audio" else media.header.height * media.header.width


def scaled(media: Media, most: int, multiple: int) -> Media:
    """Return a picture or a video that is scaled to at most so many pixels, its sides multiples of a number."""
    header, pixels = media.header, pixels_of(media)
    if header is None or pixels <= most:
        return media
    scale = sqrt(most / pixels)
    height, width = (max(multiple, int(side * scale) // multiple * multiple) for side in (header.height, header.width))
    if height * width >= pixels:
        return media
    return replace(media, header=replace(header, height=height, width=width, own_size=(header.height, header.width)))


def media_parts(message: Message) -> list[dict[str, Any]]:
    """Return the parts of a message that stand for media."""
    content = message["content"]
    return [part for part in content if is_media_part(part)] if isinstance(content, list) else []


def system_turns(messages: Sequence[Message]) -> int:
    """Return how many system turns a talk begins with."""
    heads = (place for place, message in enumerate(messages) if message["role"] not in ("system", "developer"))
    return next(heads, len(messages))


def exchange_ends(messages: Sequence[Message], head: int) -> list[int]:
    """Return where a talk may be cut: before each question that follows an answer and is answered, and at its end."""
    roles = [message["role"] for message in messages]
    cuts = [
        place
        for place in range(head + 1, len(roles))
        if roles[place] == "user" and roles[place - 1] == "assistant" and "assistant" in roles[place:]
    ]
    return [*cuts, len(roles)]
