"""The shape of a row: what of it could matter to how a processor treats it.

Ids are made from a row's headers and text; that this is right was seen on other rows. Rows are therefore grouped by
whatever has been known to matter: which kinds of media, how many, in which order, their sizes, frames and seconds,
whether those of a row are equal, and which roles, tools and kinds of content the conversation has. The first row of
each shape is compared with the real processor, before the task that holds it is committed (`claimed`), and over the
whole run before the store is finished (`refusals`).

Sizes are in classes (factors of 2 to a side), numbers above 3 too, so that a run has tens of shapes and not as many as
rows: a data set of photographs has 10 to 30. Small ones, which processors may refuse, are taken exactly. Where a row
has several media, what they are together (how many, the smallest, how far the largest lies above it) and what each of
them is are shapes of their own: as one they would be as many as there are pairs of sizes, and a comparison speaks for
all shapes of its row. One costs what the real processor costs and our own reading, about 60 ms; the workers of a run
share them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from math import log2

import orjson

from vlm_prep.core.records import Encoded
from vlm_prep.core.stored_media import StoredMedia

Shape = str
_SMALL, _SHORT = 32, 0.125
"""Pixels of the shorter side and seconds, below which sizes are taken exactly: patches have 14 to 32 pixels."""
_FAR = ("of a class", "next to each other", "far apart")
"""How far the largest of several media lies above the smallest."""


def shapes_of(encoded: Encoded) -> tuple[Shape, ...]:
    """Return the shapes of a document: that of its media together, that of its text, and those of media that are among
    others; a comparison speaks for all of them."""
    return _media_shape(encoded.media), _text_shape(encoded), *_shapes_among_others(encoded.media)


def blamed_shape(encoded: Encoded) -> Shape:
    """Return the shape of a document that is to blame where the real processor cannot take it."""
    media, text = shapes_of(encoded)[:2]
    return media if encoded.media else text


def _media_shape(media: Sequence[StoredMedia]) -> Shape:
    if not media:
        return "no media"
    order = " ".join(f"{kind}x{_count(len(list(group)))}" for kind, group in groupby(_kind(item) for item in media))
    sizes = {}
    for kind in dict.fromkeys(_kind(item) for item in media):
        alike = [item for item in media if _kind(item) == kind]
        if len(alike) == 1:
            sizes[kind] = _size(alike[0])
            continue
        sides = sorted(_side(item) for item in alike)
        sizes[kind] = min(_extent(item) for item in alike if _side(item) == sides[0])
        # processors stack what is equal, and may refuse what is not; the largest may decide how others are padded
        if len({_exact(item) for item in alike}) > 1:
            sizes[kind] += f" unequal, {_FAR[min(2, round(sides[-1]) - round(sides[0]))]}"
        if len({_frames(item) for item in alike}) > 1:
            sizes[kind] += " in frames"
    return f"{order}: " + ", ".join(f"{kind} {size}" for kind, size in sizes.items())


def _shapes_among_others(media: Sequence[StoredMedia]) -> list[Shape]:
    """Return the shapes of media of a kind of which a document has several, each once."""
    counts = Counter(_kind(item) for item in media)
    found = (f"{_kind(item)} {_size(item)} among others" for item in media if counts[_kind(item)] > 1)
    return sorted(set(found))


def _kind(item: StoredMedia) -> str:
    if item["kind"] != "video":
        return str(item["kind"])
    return "frames" if item["frame_list"] else "video with sound" if item["samples"] is not None else "video"


def _size(item: StoredMedia) -> str:
    """The class of a media's size, shape and, of a video, frames."""
    size = _extent(item)
    if item["kind"] == "audio":
        return size
    if min(item["width"], item["height"]) >= _SMALL:
        size += f"{round(log2(item['width'] / item['height'])):+d}"
    if item.get("scaled"):
        size += " scaled"
    if item["kind"] == "image":
        return size
    frames = _frames(item)
    return f"{size} {_count(frames)}f{'odd' if frames % 2 else ''}{'' if item['fps'] else ' no rate'}"


def _frames(item: StoredMedia) -> int:
    """How many frames of a video are taken; of a row that is read back they are an array, not a list."""
    indices = item["frame_indices"]
    return 0 if indices is None else len(indices)


def _extent(item: StoredMedia) -> str:
    """The class of a media's seconds or area; exact where it is small."""
    if item["kind"] == "audio":
        seconds = _seconds(item)
        return f"{round(_side(item)):+d}s" if seconds >= _SHORT else f"{round(seconds * 1000)}ms"
    small = min(item["width"], item["height"]) < _SMALL
    return f"{item['width']}x{item['height']}px" if small else f"{round(_side(item)):02d}px"


def _side(item: StoredMedia) -> float:
    """The logarithm of a media's seconds, or of the side of a square of its area."""
    size = _seconds(item) if item["kind"] == "audio" else (item["width"] * item["height"]) ** 0.5
    return log2(max(size, 1e-3))


def _seconds(item: StoredMedia) -> float:
    return (item["samples"] or 0) / (item["sampling_rate"] or 1)


def _exact(item: StoredMedia) -> tuple[int | None, ...]:
    if item["kind"] == "audio":
        return (item["samples"],)
    return item["width"], item["height"], _frames(item)


def _count(number: int) -> str:
    """A number up to 3 as it is, others in powers of two."""
    return str(number) if number < 4 else f"{1 << (number.bit_length() - 1)}+"


def _text_shape(encoded: Encoded) -> Shape:
    conversation = orjson.loads(encoded.conversation)
    messages = conversation["messages"]
    roles = [message["role"] for message in messages]
    follows = sorted({f"{before}>{after}" for before, after in zip(["", *roles], roles, strict=False)})
    parts = [message["content"] for message in messages]
    has = {
        "tools": bool(conversation.get("tools")),
        "calls": any(message.get("tool_calls") for message in messages),
        "reasoning": any(message.get("reasoning_content") for message in messages),
        "plain content": any(isinstance(part, str) for part in parts),
        "empty content": any(not part for part in parts),
        "several parts": any(isinstance(part, list) and len(part) > 1 for part in parts),
        "weights": encoded.loss_weights is not None,
        "later document": encoded.document > 1,
    }
    return " ".join([*follows, *(name for name, found in has.items() if found), *encoded.notes])
