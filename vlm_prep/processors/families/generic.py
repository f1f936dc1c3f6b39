"""Any other processor: by watching what it does with media and their placeholders.

Nothing is assumed of its code but that it is called as processors are: `processor(text=, images=, videos=, audio=)`.
Placeholders are found by rendering a media part; what they become is told by a call (`row_call`). How much of a row the
answer depends on is tried out, for each kind of media:

    formula   as by size, and the processor's own arithmetic holds (`token_formula`): no call at all
    by size   the same for all media of one size, whatever they show and whatever stands beside them: once per size
    by row    it depends on the other media of the row (numbered pictures, one video at most): once per row, blank media
    full      it depends on what they show: once per row, the real media

Rows of several videos or of several kinds are always asked for as a row, so that what a processor does not take
together (videos of different frame counts) is found for each row that has it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, get_args

import numpy as np

from vlm_prep.core.errors import ProcessorError, Reject, RejectReason
from vlm_prep.core.records import Media, MediaHeader, MediaKind
from vlm_prep.processors.adapter import Adapter
from vlm_prep.processors.blank_media import LARGER, TINY, Place, Show, described, drawn, place_of, size_of
from vlm_prep.processors.expansion import Expansion, Level, as_reject
from vlm_prep.processors.fault_words import said
from vlm_prep.processors.frames import load_row, video_metadata
from vlm_prep.processors.load import LoadedProcessor
from vlm_prep.processors.model_positions import Positions, positions_of
from vlm_prep.processors.placeholder_texts import why_refused, written_for
from vlm_prep.processors.processor_parts import part_of
from vlm_prep.processors.row_call import SEPARATORS, RowAnswer, RowCall, Written
from vlm_prep.processors.runs import Run
from vlm_prep.processors.text_probe import why_no_row
from vlm_prep.processors.token_formula import TokenFormula, find_formula
from vlm_prep.processors.token_types import why_not_held

_TRIED = ((64, 96), (224, 224), (333, 777))
"""(height, width) of pictures that are tried out."""
_LARGE = (1600, 1200)
_CACHED = 65536


class Generic(Adapter):
    """A processor of no known family.

    Raises:
        ProcessorError: it cannot be understood, with what it lacks.
    """

    family = "generic"

    def __init__(self, loaded: LoadedProcessor) -> None:
        self.notes: list[str] = []
        self.written: dict[MediaKind, Written] = {}
        self._call = RowCall(loaded.hf, loaded.name, self._rate_of(loaded.hf))
        self._scales: dict[MediaKind, int] = {}
        self._asks_metadata = False
        self._around: tuple[tuple[int, ...], tuple[int, ...]] | None = None
        super().__init__(loaded)
        self._alone = lru_cache(maxsize=_CACHED)(self._ask_alone)
        self._formula: TokenFormula | None = None
        self.levels = {kind: self._level_of(kind) for kind in self.kinds}
        self._shared = self._shared_names()
        for kind in self.kinds:
            self._require_all_in_place(kind)

    # placeholders

    def find_placeholders(self) -> dict[str, MediaKind]:
        """See `Adapter.find_placeholders`: the texts that a template writes, where a call with them works."""
        found: dict[str, MediaKind] = {}
        for kind in get_args(MediaKind):
            if part_of(self.hf, kind) is None:
                continue
            reason: str | None = None
            for written in (each for each in self._candidates(kind) if each.token not in found):
                reason = self._why_not(kind, written)
                if reason is not None and kind == "video":
                    # its own frame times may need what only a caller can ask for
                    self._asks_metadata = True
                    told, reason = reason, self._why_not(kind, written)
                    self._asks_metadata, reason = reason is None, told if reason is not None else None
                if reason is not None:
                    # it may not take media as small as ours
                    self._scales[kind] = LARGER
                    reason = self._why_not(kind, written)
                if reason is None:
                    found[written.token] = kind
                    break
            if kind not in found.values():
                self.written.pop(kind, None)
                self.refusals.setdefault(kind, reason or "its chat template writes nothing for it")
        if not found:
            reasons = "; ".join(f"{kind}: {reason}" for kind, reason in self.refusals.items())
            raise ProcessorError(
                f"{self.loaded.name}: {type(self.hf).__name__} takes no media in a chat",
                reasons or "it has no image, video or audio processor",
            )
        self.notes += [f"{kind} media are not taken: {reason}" for kind, reason in self.refusals.items()]
        self.needs_media = not self._takes_text_alone()
        return found

    def _candidates(self, kind: MediaKind) -> list[Written]:
        try:
            return written_for(self.loaded, kind)
        except Exception as error:  # templates raise whatever their expressions raise
            self.refusals[kind] = why_refused(self.loaded, error)
            return []

    def _why_not(self, kind: MediaKind, written: Written) -> str | None:
        """Why a call with one media and this placeholder does not work; None if it does."""
        self.written[kind] = written
        place = place_of(kind, self._small(kind))
        try:
            answer, *others = (self._ask([place], ["noise"], separators=[each]) for each in SEPARATORS[:2])
        except ProcessorError as error:
            return error.message.partition(": ")[2] or error.message
        except Exception as error:  # whatever the processor raises: it does not take this kind the usual way
            return said(error)
        if any(other.texts != answer.texts for other in others):
            return "what its placeholder becomes depends on the text beside it"
        media, options = (kind, self._shown(place, "noise")), self.call_options(_metadata([place]))
        why = why_not_held([each.made for each in (answer, *others)])
        why = why or why_no_row(self._call, written, media, options, answer)
        if why is None:
            self._around = self._around or answer.around
        return why

    def _small(self, kind: MediaKind) -> MediaHeader:
        """A small media that the processor takes."""
        scale = self._scales.get(kind, 1)
        return replace(TINY, height=TINY.height * scale, width=TINY.width * scale)

    def call_options(self, metadata: Sequence[Any]) -> dict[str, Any]:
        """See `Adapter.call_options`."""
        options = super().call_options(metadata)
        if options and self._asks_metadata:
            options["videos_kwargs"]["return_metadata"] = True
        return options

    def _takes_text_alone(self) -> bool:
        try:
            around = self._call([], [], {}).around
        except Exception:  # whatever the processor raises: it takes no text without media
            return False
        if around != self._around:
            raise ProcessorError(
                f"{self.loaded.name}: {type(self.hf).__name__} writes something of its own behind a text with media",
                "it is made for another task than a chat",
            )
        return True

    def text_for(self, kind: MediaKind) -> str:
        """See `Adapter.text_for`: with what the template writes around the placeholder."""
        return self.written[kind].text

    def regions(self) -> dict[str, tuple[int, int]]:
        """See `Adapter.regions`."""
        number = self.hf.tokenizer.convert_tokens_to_ids
        added = re.compile("|".join(map(re.escape, sorted(self.hf.tokenizer.get_added_vocab(), key=len, reverse=True))))
        found = {kind: (added.findall(each.before), added.findall(each.after)) for kind, each in self.written.items()}
        return {
            kind: (int(number(before[-1])), int(number(after[0])))
            for kind, (before, after) in found.items()
            if before and after
        }

    def find_run_tokens(self) -> tuple[str, ...]:
        """See `Adapter.find_run_tokens`: the added tokens that stand there twice or more in a row."""
        tokens: dict[str, None] = dict.fromkeys(self.placeholders)
        added = [str(token) for token in self.hf.tokenizer.added_tokens_decoder.values()]
        for kind in self.kinds:
            answer = self._ask([place_of(kind, self._small(kind))], ["noise"])
            tokens |= dict.fromkeys(token for token in added if token * 2 in answer.texts[0])
        known = self.hf.tokenizer.get_vocab()
        return tuple(token for token in tokens if token in known)

    @property
    def added_around(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """See `Adapter.added_around`: as seen in the first call with a media, since not all take text alone."""
        return self._around or ((), ())

    # expansions

    def expand(self, media: Sequence[Media], stored: Sequence[Mapping[str, Any]] = ()) -> tuple[Expansion, ...]:
        """See `Adapter.expand`."""
        places = [self._place(item) for item in media]
        if self._shared and len({place[0] for place in places}) > 1:
            raise Reject(
                RejectReason.PROCESSOR_ERROR,
                f"{type(self.hf).__name__} returns {', '.join(self._shared)} of several kinds of media under one name: "
                "which are whose cannot be told, so no row here has both",
            )
        if self._is_each_alone(places):
            return tuple(self._alone(place) for place in places)
        real = [self.levels[place[0]] == "full" for place in places]
        loaded = load_row(media, places, stored, self.sampling_rate, real)
        with as_reject("the processor cannot take this row's media"):
            answer = self._ask(places, loaded)
        return tuple(self._made(text, place) for text, place in zip(answer.texts, places, strict=True))

    def expand_asking(
        self, text: str, media: Sequence[Media], stored: Sequence[Mapping[str, Any]] = ()
    ) -> tuple[Expansion, ...]:
        """Return what `expand` does, found by one call with the row's own text and media: for rows of which the
        answer to other calls is not the processor's.

        Args:
            text: the rendered conversation.
            media: see `expand`.
            stored: see `expand`.
        """
        if not media:
            return ()
        places = [self._place(item) for item in media]
        loaded = load_row(media, places, stored, self.sampling_rate)
        with as_reject("the processor cannot take this row"):
            texts = self._texts_in(text, places, loaded) or self._ask(places, loaded).texts
        return tuple(self._made(each, place) for each, place in zip(texts, places, strict=True))

    def _texts_in(self, text: str, places: Sequence[Place], loaded: Sequence[Any]) -> Sequence[str] | None:
        """What the processor puts into a row's own text, where it says so; of one kind, so that it is in order."""
        if len({place[0] for place in places}) > 1:
            return None
        return self._call.replacements(
            text,
            [(place[0], each) for place, each in zip(places, loaded, strict=True)],
            self.call_options(_metadata(places)),
        )

    def _is_each_alone(self, places: Sequence[Place]) -> bool:
        kinds = {place[0] for place in places}
        if any(self.levels[kind] not in ("formula", "by size") for kind in kinds):
            return False
        return len(places) == 1 or (kinds == {"image"} and not self.look_at_each_other)

    def _place(self, item: Media) -> Place:
        if item.header is None:
            raise ValueError("expand needs a probed media")
        indices, fps = self.frames_of(item) if item.kind == "video" else (None, None)
        return item.kind, size_of(item.kind, item.header), indices, fps

    def _ask_alone(self, place: Place) -> Expansion:
        kind, header, *_ = place
        if kind == "image" and self._formula is not None and self._formula.holds(header.height, header.width):
            run = self._formula.run(header.height, header.width)
            return Expansion(text=run.text, runs=run.runs)
        with as_reject(f"the processor cannot take {described(place)}"):
            return self._made(self._ask([place], ["blank"]).texts[0], place)

    def _made(self, text: str, place: Place) -> Expansion:
        run = self.finder.find(text)
        return Expansion(text=run.text, runs=run.runs, frame_indices=place[2], fps=place[3])

    def _ask(self, places: Sequence[Place], shown: Sequence[Any], separators: Sequence[str] = SEPARATORS) -> RowAnswer:
        """Call the processor with media of these sizes; `shown` says what they show, or is the media itself."""
        media = [
            (place[0], self._shown(place, show or "blank") if show is None or isinstance(show, str) else show)
            for place, show in zip(places, shown, strict=True)
        ]
        written = [self.written[place[0]] for place in places]
        return self._call(written, media, self.call_options(_metadata(places)), separators)

    def _shown(self, place: Place, show: Any) -> Any:
        return drawn(place, show, self.audio_samples(place[1]) if place[0] == "audio" else 0)

    def small_calls(self, kind: MediaKind, scale: int = 1) -> list[dict[str, Any]]:
        """See `Adapter.small_calls`: a large picture as well, which may be cut into tiles of their own name."""
        from PIL import Image

        calls = super().small_calls(kind, self._scales.get(kind, 1))
        return [*calls, {**calls[-1], "images": [[Image.new("RGB", _LARGE)]]}] if kind == "image" else calls

    # how much of a row an answer depends on

    def _level_of(self, kind: MediaKind) -> Level:
        if not self._size_is_enough(kind):
            return "full"
        self.look_at_each_other = self.look_at_each_other or (kind == "image" and self._sees_others())
        if kind == "image" and self.look_at_each_other:
            return "by row"
        self._formula = find_formula(self.hf, self._picture) if kind == "image" else self._formula
        return "formula" if kind == "image" and self._formula is not None else "by size"

    def _picture(self, height: int, width: int) -> Run:
        place = place_of("image", MediaHeader(height=height, width=width))
        return self.finder.find(self._ask([place], ["blank"]).texts[0])

    def _size_is_enough(self, kind: MediaKind) -> bool:
        """Whether media of one size become one text, whatever they show: a processor might cut off empty edges."""
        headers = [self._small(kind)]
        if kind == "image":
            headers = [MediaHeader(height=height, width=width) for height, width in _TRIED[::2]]
        for header in headers:
            place = place_of(kind, header)
            try:
                texts = {self._ask([place], [show]).texts for show in get_args(Show)}
            except Exception:  # whatever a processor raises on noise: then it does not depend on the size alone
                return False
            if len(texts) > 1:
                return False
        return True

    def _sees_others(self) -> bool:
        """Whether three pictures in one call become other texts than each alone, or are not taken together."""
        places = [place_of("image", MediaHeader(height=height, width=width)) for height, width in _TRIED]
        try:
            together = self._ask(places, ["blank"] * len(places)).texts
        except Exception:  # it does not take several, or not of several sizes: each row is asked for
            return True
        return together != tuple(self._ask([place], ["blank"]).texts[0] for place in places)

    def _require_all_in_place(self, kind: MediaKind) -> None:
        """Refuse a processor that puts tokens of media elsewhere than where their placeholder stands."""
        place = place_of(kind, self._small(kind))
        answer = self._ask([place], ["noise"])
        ids = np.asarray(answer.made["input_ids"][0])
        runs = sum(self.finder.find(answer.texts[0]).runs)
        if int(np.isin(ids, list(self.run_ids)).sum()) != runs:
            raise ProcessorError(
                f"{self.loaded.name}: {type(self.hf).__name__} puts tokens of {kind} media elsewhere than in place of "
                "their placeholder",
                "it is made for another task than a chat",
            )

    def _shared_names(self) -> tuple[str, ...]:
        """The tensors that the processor returns for several kinds under one name: in one row, one takes the other's
        place."""
        made = [{name for name, _ in self.part_record(kind).outputs.values()} for kind in self.kinds]
        return tuple(sorted(name for name in set().union(*made) if sum(name in names for names in made) > 1))

    @property
    def positions(self) -> Positions:
        """See `Adapter.positions`."""
        return positions_of(type(self.hf))

    @staticmethod
    def _rate_of(hf: Any) -> int | None:
        part = part_of(hf, "audio")
        return int(getattr(part[1], "sampling_rate", 16_000)) if part is not None else None


def _metadata(places: Sequence[Place]) -> list[Any]:
    return [video_metadata(place[1], place[3], place[2]) for place in places if place[0] == "video"]
