"""Rows that are too long, made shorter by steps in the order that the user set: `overlong=rescue`.

    pixels   larger pictures and frames are scaled down to one number of pixels, never below a floor
    frames   videos give fewer frames, evenly chosen among those that would be taken, never fewer than a floor
    split    a talk becomes several documents: each has the system turn, all media that stand before its own turns (so
             that "picture 2" stays the second), and as many whole turns as fit
    turns    whole turns are cut off the end

A step is taken as little as suffices. Where its floor does not suffice it stays there and the next one is tried; what
the last step leaves free is given back to those before it. Nothing is ever cut inside a turn or a media. A rescued row
is an ordinary one: its conversation is stored as it is trained, its media say to which size they are scaled and which
frames are taken, so that readers and the comparison with the real processor give it the very same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import isqrt

import orjson

from vlm_prep.core.errors import Reject, RejectReason
from vlm_prep.core.records import Media, Sample
from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.processors.adapter import Adapter
from vlm_prep.tokenize.drafts import Drafted
from vlm_prep.tokenize.rescue_measures import (
    evenly,
    exchange_ends,
    largest,
    media_parts,
    pixels_of,
    scaled,
    system_turns,
)

Range = tuple[int, int]
"""The first message of a document behind the system turn, and the one behind its last."""
NOTES = {name: f"rescued_{name}" for name in ("pixels", "frames", "documents", "turns")}
"""What is counted of rows, by the keys of their record."""
_CLOSE = 33, 32
"""Pixels are found to within this ratio."""


@dataclass(frozen=True)
class Measures:
    """What is done to a row."""

    pixels: int | None = None
    """Most of a picture or frame."""
    frames: int | None = None
    """Most of a video."""
    ranges: tuple[Range, ...] | None = None
    """The messages of each document; None for all in one."""

    def having(self, step: str, most: int | None) -> Measures:
        """Return them with other pixels or frames."""
        return replace(self, pixels=most) if step == "pixels" else replace(self, frames=most)


@dataclass(frozen=True)
class Piece:
    """What becomes of a row: a sample that fits, with the row's first media."""

    drafted: Drafted
    rescue: str = ""
    """See `Encoded.rescue`."""
    notes: tuple[str, ...] = ()
    """Of `NOTES`: the steps that were taken."""


class Rescue:
    """Makes rows shorter.

    Args:
        adapter: of the processor.
        config: the limit, the steps and their floors, and what of a talk is trained.
        draft: encodes a sample.
    """

    def __init__(self, adapter: Adapter, config: TokenizeConfig, draft: Callable[[Sample], Drafted]) -> None:
        self._adapter, self._config, self._draft = adapter, config, draft

    def pieces(self, sample: Sample, whole: Drafted) -> list[Piece]:
        """Return what becomes of a row that is too long, in order.

        Raises:
            Reject: overlong; no step or all of them together do not suffice.
        """
        return _Row(self, sample, whole).rescued()

    def fits(self, drafts: Sequence[Drafted] | None) -> bool:
        """Whether there are samples, and all are short enough."""
        return drafts is not None and all(draft.length <= self.limit for draft in drafts)

    @property
    def limit(self) -> int:
        """Most tokens of a document."""
        return self._config.max_length or 0

    @property
    def steps(self) -> tuple[str, ...]:
        """The steps in their order."""
        return self._config.rescue_steps

    def floor(self, step: str) -> int:
        """Return the least that a step leaves."""
        return self._config.rescue_min_pixels if step == "pixels" else self._config.rescue_min_frames

    def drafts(self, sample: Sample, measures: Measures) -> list[Drafted] | None:
        """Return what measures make of a row; None where it cannot be encoded so."""
        try:
            media = tuple(self.lessened(each, measures) for each in sample.media)
            sample = replace(sample, media=media)
            if measures.ranges is None:
                return [self._draft(sample)]
            return [self._draft(self._document(sample, each)) for each in measures.ranges]
        except Reject:
            return None

    def lessened(self, media: Media, measures: Measures) -> Media:
        """Return a media with fewer frames and pixels.

        Raises:
            Reject: the processor cannot sample a video.
        """
        if media.kind == "video" and measures.frames is not None:
            indices = self.frames_of(media)
            if len(indices) > measures.frames:
                media = replace(media, frame_indices=evenly(indices, measures.frames))
        return media if measures.pixels is None else scaled(media, measures.pixels, self._adapter.side_multiple)

    def most(self, sample: Sample, step: str) -> int:
        """Return the most pixels of a picture or frame, or frames of a video, of a row."""
        if step == "pixels":
            return max((pixels_of(each) for each in sample.media), default=0)
        return max((len(self.frames_of(each)) for each in sample.media if each.kind == "video"), default=0)

    def frames_of(self, media: Media) -> tuple[int, ...]:
        """Return the frames of a video that the processor will be given."""
        return self._adapter.frames_of(media)[0]

    def _document(self, sample: Sample, turns: Range) -> Sample:
        """Return a document of a talk: its system turn, all media before its own turns, and these."""
        messages, (begin, end) = sample.messages, turns
        head = system_turns(messages)
        before = [part for message in messages[head:begin] for part in media_parts(message)]
        system = messages[:head]
        if self._config.train_on == "all" and begin > head:  # it is trained with the first document
            system = [{**message, "train": False} for message in system]
        said = list(messages[begin:end])
        if before:
            said[0] = {**said[0], "content": [*before, *said[0]["content"]]}
        first = begin + bool(before)  # a message with media before its text is no plain string
        strings = [place for place in sample.strings if place < head]
        strings += [place - begin + head for place in sample.strings if first <= place < end]
        count = sum(len(media_parts(message)) for message in messages[:end])
        return replace(
            sample,
            messages=[*system, *said],
            strings=tuple(strings),
            media=sample.media if end == len(messages) else sample.media[:count],
        )

    def ranges(self, sample: Sample, measures: Measures, step: str) -> tuple[Range, ...] | None:
        """Return the documents that a talk is split into, or the one that is left of it; None where none fits."""
        head = system_turns(sample.messages)
        ends = exchange_ends(sample.messages, head)

        def drafts(turns: Range) -> list[Drafted] | None:
            return self.drafts(sample, replace(measures, ranges=(turns,)))

        if step == "turns":
            shorter = ((head, end) for end in reversed(ends[:-1]))
            return next(((turns,) for turns in shorter if self.fits(found := drafts(turns)) and trains(found)), None)
        made: list[Range] = []
        begin = head
        while begin < len(sample.messages):
            left = [end for end in ends if end > begin]
            taken = largest(1, len(left), lambda count: self.fits(drafts((begin, left[count - 1]))))  # noqa: B023
            if taken is None:
                return None
            made.append((begin, left[taken - 1]))
            begin = left[taken - 1]
        wanted = made[-1:] if self._config.train_on == "last" else made
        return tuple(turns for turns in wanted if trains(drafts(turns))) or None


@dataclass
class _Row:
    """The rescue of one row."""

    rescue: Rescue
    sample: Sample
    whole: Drafted
    _known: dict[Measures, list[Drafted] | None] = field(default_factory=dict)

    def rescued(self) -> list[Piece]:
        measures, least = Measures(), self.whole.length
        done: list[str] = []
        for step in self.rescue.steps:
            found = self._mildest(step, measures)
            if found is not None:
                for earlier in reversed(done):
                    found = self._mildest(earlier, found) or found
                return self._pieces(found)
            measures, length = self._at_floor(step, measures)
            done += [step] if length < least else []
            least = length = min(least, length)
        tried = ", ".join(self.rescue.steps)
        raise Reject(
            RejectReason.OVERLONG,
            f"{self.whole.length} tokens, --max-length is {self.rescue.limit}; rescue ({tried}) leaves {least}",
        )

    def _drafts(self, measures: Measures) -> list[Drafted] | None:
        if measures not in self._known:
            self._known[measures] = self.rescue.drafts(self.sample, measures)
        return self._known[measures]

    def _fits(self, measures: Measures) -> bool:
        return self.rescue.fits(self._drafts(measures))

    def _mildest(self, step: str, measures: Measures) -> Measures | None:
        """Return measures with a step taken as little as suffices; None where it does not."""
        if step in ("split", "turns"):
            ranges = self.rescue.ranges(self.sample, measures, step)
            return None if ranges is None else replace(measures, ranges=ranges)
        if self._fits(without := measures.having(step, None)):
            return without
        low, high = self.rescue.floor(step), self.rescue.most(self.sample, step)
        if high <= low or not self._fits(measures.having(step, low)):
            return None
        if step == "frames":
            found = largest(low, high, lambda most: self._fits(replace(measures, frames=most)))
            return replace(measures, frames=found)
        while high * _CLOSE[1] > low * _CLOSE[0]:
            middle = isqrt(low * high)
            low, high = (middle, high) if self._fits(replace(measures, pixels=middle)) else (low, middle)
        return replace(measures, pixels=low)

    def _at_floor(self, step: str, measures: Measures) -> tuple[Measures, int]:
        """Return measures with a step that does not suffice at its floor, where that makes the row shorter."""
        before = self._drafts(measures)
        length = before[0].length if before else self.whole.length
        if step in ("split", "turns") or self.rescue.most(self.sample, step) <= self.rescue.floor(step):
            return measures, length
        tried = measures.having(step, self.rescue.floor(step))
        made = self._drafts(tried)
        return (tried, made[0].length) if made and made[0].length < length else (measures, length)

    def _pieces(self, measures: Measures) -> list[Piece]:
        drafts = self._drafts(measures) or []
        said = self._said(measures, sum(draft.total for draft in drafts))
        notes = tuple(NOTES[name] for name in said if name in NOTES)
        return [Piece(draft, orjson.dumps(said).decode(), notes) for draft in drafts]

    def _said(self, measures: Measures, tokens: int) -> dict[str, list[int]]:
        """What was done and by how much: [was, is] of each."""
        said = {"tokens": [self.whole.length, tokens]}
        lessened = [self.rescue.lessened(each, measures) for each in self.sample.media]
        if measures.pixels is not None:
            said["pixels"] = [sum(map(pixels_of, media)) for media in (self.sample.media, lessened)]
        if measures.frames is not None:
            videos = [
                [len(self.rescue.frames_of(each)) for each in media if each.kind == "video"]
                for media in (self.sample.media, lessened)
            ]
            said["frames"] = [sum(each) for each in videos]
        if measures.ranges is not None:
            head = system_turns(self.sample.messages)
            kept = head + sum(end - begin for begin, end in measures.ranges)
            if kept < len(self.sample.messages):
                said["turns"] = [len(self.sample.messages), kept]
            if len(measures.ranges) > 1:
                said["documents"] = [1, len(measures.ranges)]
        return said


def trains(drafts: Sequence[Drafted] | None) -> bool:
    """Whether samples train something."""
    return any(draft.total for draft in drafts or ())
