"""Placeholders as other models and benchmarks write them, numbered or as their own tokens.

    <image_1>  <image 1>  <image-1>  <image1>  <|image_1|>     the entry of that number, from 0 or 1 on
    <|image|>  <|vision_start|><|image_pad|><|vision_end|>  <|AUDIO|>  <image_placeholder>  <ImageHere>     the next one

Such a tag is text at first: it may be a name that the text speaks of. Where there are media of the kind and no other
placeholder asks for one, as many tags as media (of a number each, all of them) can only be their places.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from vlm_prep.core.records import MediaKind

_NUMBERED: Final = r"<\|?(?:image|img|video|audio)[ _-]?\d{1,4}\|?>"
_TOKENS: Final[dict[MediaKind, str]] = {
    "image": r"(?:<\|vision_start\|>)?<\|image(?:_pad)?\|>(?:<\|vision_end\|>)?|<image_placeholder>"
    r"|(?:<img>)?<imagehere>(?:</img>)?",
    "video": r"(?:<\|vision_start\|>)?<\|video(?:_pad)?\|>(?:<\|vision_end\|>)?",
    "audio": r"(?:<\|audio_bos\|>)?<\|audio(?:_pad)?\|>(?:<\|audio_eos\|>)?",
}
SPELT: Final = "|".join((_NUMBERED, *_TOKENS.values()))
"""A pattern of these tags, in any letter case, without groups."""
_SPELT: Final = re.compile(SPELT, re.IGNORECASE)
_NUMBER: Final = re.compile(r"<\|?(image|img|video|audio)[ _-]?(\d+)", re.IGNORECASE)
_KINDS: Final[dict[str, MediaKind]] = {"image": "image", "img": "image", "video": "video", "audio": "audio"}


@dataclass(frozen=True)
class SpeltTag:
    """One such tag."""

    written: str
    kind: MediaKind
    number: int | None


def spelt_tags(text: str) -> Iterator[SpeltTag]:
    """Yield these tags of a text."""
    return map(_tag, _SPELT.findall(text))


def _tag(written: str) -> SpeltTag:
    if found := _NUMBER.match(written):
        return SpeltTag(written, _KINDS[found[1].lower()], int(found[2]))
    return SpeltTag(written, next(kind for kind in _TOKENS if kind in written.lower()), None)


def spelt_tag(piece: str) -> SpeltTag | None:
    """Return the tag that a piece of text is; None for another piece."""
    return _tag(piece) if _SPELT.fullmatch(piece) else None


def firsts(
    tags: Iterable[SpeltTag],
    columns: Mapping[MediaKind, Sequence[Any]],
    asked: Mapping[MediaKind, int],
    *,
    repeats: bool,
) -> dict[MediaKind, int] | None:
    """Return by kind the number of its first entry, where the tags fit the entries of every kind; else None.

    Args:
        tags: of the prompts, in order.
        columns: the entries by kind, None for a hole.
        asked: placeholders of the usual form by kind.
        repeats: a number may be there several times.
    """
    found: dict[MediaKind, int] = {}
    by_kind: dict[MediaKind, list[SpeltTag]] = {}
    for tag in tags:
        by_kind.setdefault(tag.kind, []).append(tag)
    for kind, entries in columns.items():
        mine = by_kind.get(kind, [])
        if not entries or asked[kind] or not (mine or any(entries)):  # names in a text, or none of these tags
            if asked[kind] != sum(entry is not None for entry in entries):
                return None
            continue
        first = _first(mine, entries, repeats=repeats)
        if first is None:
            return None
        found[kind] = first
    return found or None


def _first(tags: Sequence[SpeltTag], entries: Sequence[Any], *, repeats: bool) -> int | None:
    """The number of the first entry, where the tags fit the entries, or those before the holes at their end."""
    there = len(entries)
    while there and entries[there - 1] is None:
        there -= 1
    numbers = [tag.number for tag in tags if tag.number is not None]
    if not numbers:
        return 0 if len(tags) in (len(entries), there) else None
    wanted = sorted(set(numbers)) if repeats else sorted(numbers)
    fits = any(wanted == list(range(wanted[0], wanted[0] + count)) for count in (len(entries), there))
    return wanted[0] if fits and len(numbers) == len(tags) and wanted[0] in (0, 1) else None
