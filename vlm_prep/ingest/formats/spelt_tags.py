"""Placeholders as other models and benchmarks write them, numbered or as their own tokens.

    <image_1>  <image 1>  <image-1>  <image1>  <|image_1|>     the entry of that number, from 0 or 1 on
    [image_1]  {image_1}                                       likewise
    <|image|>  <|vision_start|><|image_pad|><|vision_end|>  <|AUDIO|>  <image_placeholder>  <ImageHere>     the next one
    <image/>  <image >  [image]  {image}  <start_of_image>  <img><IMG_CONTEXT></img>  <vila/video>  <speech>   likewise

Such a tag is text at first: it may be a name that the text speaks of. Where there are media of the kind and no other
placeholder asks for one, as many tags as media (of a number each, all of them) can only be their places.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from vlm_prep.core.records import MediaKind

_NUMBER_OF: Final = r"(?:image|img|video|audio)[ _-]?\d{1,4}"
_NUMBERED: Final = rf"<\|?{_NUMBER_OF}\|?>|\[{_NUMBER_OF}\]|\{{{_NUMBER_OF}\}}"
_OF_ANY: Final = (
    r"<\|{0}(?:_pad)?\|>|<{0}_placeholder>|<{0} ?/>|< {0} ?>|<{0} >|\[{0}\]|\{{{{?{0}\}}\}}?|<vila/{0}>"
    r"|<\|media_begin\|>{0}<\|media_content\|><\|media_pad\|><\|media_end\|>"
)
_TOKENS: Final[dict[MediaKind, str]] = {
    "image": r"<\|vision_start\|><\|image_pad\|><\|vision_end\|>|(?:<img>)?<(?:imagehere|img_context)>(?:</img>)?"
    r"|<img ?/?>(?:\s*</img>)?|\[img\]|<start_of_image>|<image_soft_token>|" + _OF_ANY.format("image"),
    "video": r"<\|vision_start\|><\|video_pad\|><\|vision_end\|>|" + _OF_ANY.format("video"),
    "audio": r"(?:<\|audio_bos\|>)?<\|audio(?:_pad)?\|>(?:<\|audio_eos\|>)?|<speech><speechhere></speech>|<speech>"
    r"|<vila/sound>|<sound>|" + _OF_ANY.format("audio"),
}
SPELT: Final = "|".join((_NUMBERED, *_TOKENS.values()))
"""A pattern of these tags, in any letter case, without groups."""
_SPELT: Final = re.compile(SPELT, re.IGNORECASE)
_NUMBER: Final = re.compile(r"[<\[{]\|?(image|img|video|audio)[ _-]?(\d+)", re.IGNORECASE)
_OPENING: Final = re.compile(r"[<\[{]")
_NAMES: Final = re.compile(r"(image|img)|(video)|(audio|sound|speech)", re.IGNORECASE)
_IN_ORDER: Final[tuple[MediaKind, ...]] = ("image", "video", "audio")
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
    name = _NAMES.search(written)
    return SpeltTag(written, "image" if name is None else _IN_ORDER[(name.lastindex or 1) - 1], None)


def may_hold(text: str) -> bool:
    """Whether a text holds a sign that a tag begins with."""
    return _OPENING.search(text) is not None


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
