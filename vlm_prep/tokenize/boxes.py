"""Boxes and points in the text of a row, read by a declared rule and written as the family's models give them.

    "bbox_2d": [12, 30, 260, 400]                       in JSON, also several and nested
    "point_2d": [12, 30]
    <box>(12,30),(260,400)</box>  <box>[[12, 30, 260, 400]]</box>  <|box_start|>...<|box_end|>  <point>(12,30)</point>
    <bbox> and <ref-object>                             of ms-swift, from `objects`, which `keep_columns` lets travel

Numbers are read once, against the picture's own upright size, and become marks in the text; the marks become numbers
whenever the row is encoded, since a rescue may scale the picture. Nothing is touched without the rule: numbers in a
text may be anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Final

import orjson

from vlm_prep.core.errors import Reject, RejectReason
from vlm_prep.core.records import Media, Message, Sample
from vlm_prep.core.settings import BoxConfig
from vlm_prep.processors.adapter import Adapter
from vlm_prep.processors.box_conventions import box_convention, seen_size
from vlm_prep.processors.expansion import Size
from vlm_prep.tokenize.beginnings import is_media_part
from vlm_prep.tokenize.box_names import CLOSE, MARK, OPEN, first_mark, name_of, with_names

REWRITTEN: Final = "boxes"
CLIPPED: Final = "boxes_clipped"
"""Notes of rows with boxes, and of those with some that lay outside of their picture."""
_SHAPE: Final = re.compile(
    r"""(["'](?:bbox_2d|point_2d)["']\s*:\s*|<box>|<\|box_start\|>|<point>|<\|point_start\|>)"""
    r"([\[(][\d\s.,()\[\]+-]*[\])])"
)
_OBJECT: Final = re.compile(r"<bbox>|<ref-object>")
_NUMBER: Final = re.compile(r"[+-]?\d+(?:\.\d*)?|[+-]?\.\d+")
_SCALE: Final[Mapping[str, float]] = {"unit": 1.0, "thousand": 1000.0}
_JUST: Final = 1e-9


def looks_like_boxes(text: str) -> bool:
    """Whether a text holds what would be read as boxes or points."""
    return _SHAPE.search(text) is not None


@dataclass(frozen=True)
class Boxes:
    """Reads and writes the boxes of rows.

    Args:
        adapter: of the processor.
        config: the rule.

    Raises:
        ProcessorError: how boxes are to be written is not known, see `box_convention`.
    """

    adapter: Adapter
    config: BoxConfig

    def __post_init__(self) -> None:
        if self.config.boxes is not None:
            box_convention(self.adapter, self.config)

    def read(self, sample: Sample) -> Sample:
        """Return a sample with marks in place of the numbers of its boxes and points.

        Raises:
            Reject: bad_box, box_outside.
        """
        if self.config.boxes is None:
            require_no_places(sample)
            return sample
        reading = _Reading(self, sample)
        messages = [reading.message(message) for message in sample.messages]
        reading.require_all_placed()
        notes = (*sample.notes, *((REWRITTEN,) if reading.found else ()), *((CLIPPED,) if reading.clipped else ()))
        return replace(sample, messages=messages, notes=notes) if reading.found else sample

    def written(self, sample: Sample) -> tuple[Sample, str]:
        """Return a sample with numbers in place of the marks, and JSON of its boxes and points: for each its media, its
        coordinates from 0 to 1 and, where it has one, its name; empty where there are none."""
        if self.config.boxes is None:
            return sample, ""
        numbers = box_convention(self.adapter, self.config).numbers
        shapes: list[list[Any]] = []
        sizes: dict[int, Size] = {}

        def number(mark: re.Match[str]) -> str:
            axis, place, value = mark[1], int(mark[2]), float(mark[3])
            if axis == "X":
                name = name_of(mark)
                shapes.append([place, [], *([name] if name else [])])
            shapes[-1][1].append(round(value, 4))
            if numbers == "unit":
                return f"{value:.4f}".rstrip("0").rstrip(".")
            if numbers == "thousand":
                return str(round(value * 1000))
            if place not in sizes:
                sizes[place] = self._size(sample.media[place], numbers)
            most = sizes[place][0 if axis == "y" else 1]
            return str(min(round(value * most), most - 1 if numbers == "resized" else most))

        messages = [_with_texts(message, lambda text: MARK.sub(number, text)) for message in sample.messages]
        return (replace(sample, messages=messages), orjson.dumps(shapes).decode()) if shapes else (sample, "")

    def _size(self, media: Media, numbers: str) -> Size:
        assert media.header is not None  # probed media are encoded
        return seen_size(self.adapter, media.header) if numbers == "resized" else own_size(media)


class _Reading:
    """The boxes of one row, read in the order of its text."""

    def __init__(self, boxes: Boxes, sample: Sample) -> None:
        self._config, self._convention = boxes.config, box_convention(boxes.adapter, boxes.config)
        self._media = sample.media
        self._objects = _Objects.of(sample, self._config)
        self._seen = 0
        self.found = self.clipped = False

    def message(self, message: Message) -> Message:
        """Return a message with marks."""
        content = message["content"]
        if not isinstance(content, list):
            return message
        return {**message, "content": [self._part(part) for part in content]}

    def require_all_placed(self) -> None:
        """Refuse `objects` with more boxes than the text has places."""
        if left := self._objects.left:
            raise Reject(
                RejectReason.BAD_BOX, f"`objects` has {left} boxes or names that no <bbox> or <ref-object> is for"
            )

    def _part(self, part: dict[str, Any]) -> dict[str, Any]:
        if is_media_part(part):
            self._seen += 1
            return part
        text = part.get("text")
        if not isinstance(text, str):
            return part
        text = _SHAPE.sub(self._shape, _without_marks(text))
        return {**part, "text": with_names(_OBJECT.sub(self._object, text) if self._objects.given else text)}

    def _shape(self, found: re.Match[str]) -> str:
        numbers = [float(each) for each in _NUMBER.findall(found[2])]
        size = 2 if "point" in found[1] else 4
        if not numbers or len(numbers) % size:
            raise Reject(RejectReason.BAD_BOX, f"{found[0][:80]!r} has {len(numbers)} numbers, expected {size} each")
        place = self._picture()
        marks = chain.from_iterable(
            self._marks(numbers[at : at + size], place, str(self._config.boxes)) for at in range(0, len(numbers), size)
        )
        return found[1] + _NUMBER.sub(lambda _: next(marks), found[2])

    def _object(self, found: re.Match[str]) -> str:
        if found[0] == "<ref-object>":
            before, after = self._convention.ref
            return before + self._objects.ref() + after
        numbers, image, rule = self._objects.box()
        pictures = self._pictures()
        if image is not None and not 0 <= image < len(pictures):
            raise Reject(RejectReason.BAD_BOX, f"`objects`: image_id {image} of {len(pictures)} pictures")
        place = self._picture() if image is None else pictures[image]
        return self._convention.written(list(self._marks(numbers, place, rule, self._objects.name)))

    def _pictures(self) -> list[int]:
        return [place for place, media in enumerate(self._media) if media.kind != "audio"]

    def _picture(self) -> int:
        """Return the media that a box of the text is about: the last one before it, if it makes no difference which."""
        pictures = self._pictures()
        before = [place for place in pictures if place < self._seen] or pictures
        if not before:
            raise Reject(RejectReason.BAD_BOX, "a box or point, and the row has no picture")
        depends = self._config.boxes == "absolute" or self._convention.numbers in ("resized", "absolute")
        if depends and len({own_size(self._media[place]) for place in before}) > 1:
            raise Reject(
                RejectReason.BAD_BOX,
                f"which of {len(before)} pictures of different sizes a box is about is not said (`objects` with "
                "image_id says it)",
            )
        return before[-1]

    def _marks(self, numbers: Sequence[float], place: int, rule: str, name: str = "") -> Iterator[str]:
        """Yield the marks of a box or point, each number as its share of the picture's height or width.

        Raises:
            Reject: bad_box, box_outside.
        """
        media = self._media[place]
        if self._convention.numbers == "resized" and media.kind != "image":
            raise Reject(RejectReason.BAD_BOX, f"{media.uris[0]}: boxes in pixels are of pictures, not of videos")
        height, width = own_size(media) if rule == "absolute" else (_SCALE[rule],) * 2
        shares = [value / (height if at % 2 else width) for at, value in enumerate(numbers)]
        if len(shares) == 4 and (shares[0] > shares[2] or shares[1] > shares[3]):
            raise Reject(RejectReason.BAD_BOX, f"the box {list(numbers)} ends before it begins")
        if any(not -_JUST <= share <= 1 + _JUST for share in shares):
            if self._config.boxes_outside == "reject":
                raise Reject(
                    RejectReason.BOX_OUTSIDE,
                    f"{media.uris[0]}: {list(numbers)} lies outside of {width:g}x{height:g} ({rule})",
                )
            self.clipped = True
        self.found = True
        first, *others = (min(max(share, 0.0), 1.0) for share in shares)
        yield first_mark(place, first, name)
        for at, share in enumerate(others, start=1):
            yield f"{OPEN}{'y' if at % 2 else 'x'}{place}:{share!r}{CLOSE}"


class _Objects:
    """ms-swift's column `objects`: boxes and names, in the order of their places in the text."""

    def __init__(self, found: Mapping[str, Any], config: BoxConfig) -> None:
        self.given, self.name = bool(found), ""
        self._boxes, self._refs = list(found.get("bbox") or ()), list(found.get("ref") or ())
        images = found.get("image_id")
        self._images = list(images) if images is not None else [None] * len(self._boxes)
        kind = found.get("bbox_type")
        self._rule = {"norm1": "unit", "real": "absolute"}.get(str(kind), str(config.boxes))
        if len(self._images) != len(self._boxes) or not all(_is_shape(box) for box in self._boxes):
            raise Reject(RejectReason.BAD_BOX, "`objects`: each of bbox is 2 or 4 numbers, with an image_id for each")

    @staticmethod
    def of(sample: Sample, config: BoxConfig) -> _Objects:
        """Return those of a row, from the columns that travel with it."""
        found = orjson.loads(sample.kept).get("objects") if sample.kept else None
        if isinstance(found, str):
            found = _parsed(found)
        return _Objects(found if isinstance(found, dict) else {}, config)

    @property
    def left(self) -> int:
        """How many boxes and names were not placed."""
        return len(self._boxes) + len(self._refs)

    def ref(self) -> str:
        """Return the next name."""
        if not self._refs:
            raise Reject(RejectReason.BAD_BOX, "more <ref-object> than `objects` has names")
        self.name = _without_marks(str(self._refs.pop(0)))
        return self.name

    def box(self) -> tuple[list[float], int | None, str]:
        """Return the next box or point, its picture among the row's if that is said, and the rule of its numbers."""
        if not self._boxes:
            raise Reject(RejectReason.BAD_BOX, "more <bbox> than `objects` has boxes")
        return [float(value) for value in self._boxes.pop(0)], self._images.pop(0), self._rule


def require_no_places(sample: Sample) -> None:
    """Refuse a row whose `objects` travel with it and are to stand in its text, where no rule says what they are."""
    if '"objects"' in sample.kept:
        parts = (part for message in sample.messages for part in message["content"])
        if any(_OBJECT.search(str(part.get("text", ""))) for part in parts):
            raise Reject(RejectReason.BAD_BOX, "its text has places for `objects`; `boxes` says what their numbers are")


def _without_marks(text: str) -> str:
    if OPEN in text or CLOSE in text:
        raise Reject(RejectReason.BAD_BOX, "its text holds characters (U+E0B0) that stand for boxes here")
    return text


def own_size(media: Media) -> Size:
    """Return height and width of a probed picture's upright file, whatever it is scaled to."""
    assert media.header is not None  # probed media are encoded
    return media.header.own_size or (media.header.height, media.header.width)


def _is_shape(box: Any) -> bool:
    numbers = isinstance(box, list) and all(isinstance(each, int | float) for each in box)
    return numbers and len(box) in (2, 4)


def _parsed(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise Reject(RejectReason.BAD_BOX, f"`objects` is no JSON: {error}") from error


def _with_texts(message: Message, change: Any) -> Message:
    content = message["content"]
    if not isinstance(content, list):
        return message
    return {
        **message,
        "content": [
            {**part, "text": change(part["text"])} if isinstance(part.get("text"), str) else part for part in content
        ],
    }
