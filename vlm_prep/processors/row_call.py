"""What the placeholders of one row become: one call of the whole processor with all media of the row.

Where media depend on each other (numbers of pictures in a row, crops only of a picture alone, one video at most), only
the processor itself knows. It is called with a text of nothing but placeholders and separators, and the replacement of
each placeholder is read off:

    captured   transformers' own `get_text_with_replacements` says what it put in place of each placeholder
    split      the ids of a call are cut at the separators, and each piece is written as text

Both are believed only if the text that they give tokenizes to the ids that the call returned.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

import numpy as np

from vlm_prep.core.errors import ProcessorError
from vlm_prep.core.records import MediaKind
from vlm_prep.processors import internals
from vlm_prep.processors.processor_parts import ARGUMENTS

SEPARATORS = ("\nvlmprep sentinel\n", "vlmprep", " vlmprep ")
"""Put around placeholders, in the order in which they are tried."""
_REPLACE = internals.text_with_replacements.attribute


@dataclass(frozen=True, slots=True)
class Written:
    """What a chat template writes for one media."""

    token: str
    """The placeholder, which is replaced."""
    before: str = ""
    after: str = ""
    """What stands around it, and may have to."""

    @property
    def text(self) -> str:
        """All of it."""
        return f"{self.before}{self.token}{self.after}"


@dataclass(frozen=True)
class RowAnswer:
    """What a call returned."""

    texts: tuple[str, ...]
    """What each placeholder becomes, in order of the text."""
    around: tuple[tuple[int, ...], tuple[int, ...]]
    """The ids that are put before and after the text."""
    made: Mapping[str, Any]
    """All that the processor returned."""


class RowCall:
    """Calls a processor with the media of a row.

    Args:
        hf: the processor.
        name: as the user gave it, for messages.
        rate: samples a second of its waveforms, None if it takes none.
    """

    def __init__(self, hf: Any, name: str, rate: int | None) -> None:
        self.hf, self._name, self._rate = hf, name, rate
        self._added: dict[int, str] | None = None

    def __call__(
        self,
        written: Sequence[Written],
        media: Sequence[tuple[MediaKind, Any]],
        options: Mapping[str, Any],
        separators: Sequence[str] = SEPARATORS,
    ) -> RowAnswer:
        """Return what placeholders become.

        Args:
            written: placeholders of the row, one for each media.
            media: (kind, decoded media), in order.
            options: further arguments of the call.
            separators: to try.

        Raises:
            ProcessorError: what they become cannot be told from the ids.
            Exception: whatever the processor raises on these media.
        """
        call, trims = self.arguments(media, options), False
        for separator in separators:
            text = separator + "".join(each.text + separator for each in written)
            captured: list[list[str]] = []
            with _capturing(self.hf, captured):
                made = dict(self.hf(text=[text], **call))
            if "input_ids" not in made:
                raise ProcessorError(f"{self._name}: it returns no input_ids, so its text is no part of a chat")
            ids = [int(token) for token in np.asarray(made["input_ids"][0])]
            found = captured[0] if len(captured) == 1 and len(captured[0]) == len(written) else None
            for texts in (found, self._split(ids, separator, written)):
                if texts is not None:
                    whole = "".join(f"{a.before}{b}{a.after}{separator}" for a, b in zip(written, texts, strict=True))
                    around = self._around(ids, self._tokenize(separator + whole))
                    if around is not None:
                        return RowAnswer(tuple(texts), around, made)
                    trims = trims or ids == self._tokenize((separator + whole).strip())
        fault = "what its placeholders become cannot be told from the ids that it returns"
        raise ProcessorError(f"{self._name}: {'it leaves out blanks at the ends of a text' if trims else fault}")

    def keeps(self, text: str, written: Written, answer: RowAnswer, arguments: Mapping[str, Any]) -> bool:
        """Whether a text on both sides of a placeholder becomes the ids of just that text.

        Args:
            text: of any words.
            written: the placeholder.
            answer: what it becomes.
            arguments: of the call, see `arguments`.
        """
        try:
            made = self.hf(text=[text + written.text + text], **arguments)
        except Exception:  # whatever the processor raises: it does not take such a text
            return False
        (replaced,), (first, last) = answer.texts, answer.around
        ids = self._tokenize(f"{text}{written.before}{replaced}{written.after}{text}")
        return [int(token) for token in np.asarray(made["input_ids"][0])] == [*first, *ids, *last]

    def replacements(
        self, text: str, media: Sequence[tuple[MediaKind, Any]], options: Mapping[str, Any]
    ) -> list[str] | None:
        """Return what the placeholders of a text become, in its order; None where the processor does not say so.

        Args:
            text: with one placeholder for each media.
            media: (kind, decoded media), in order.
            options: further arguments of the call.
        """
        captured: list[list[str]] = []
        with _capturing(self.hf, captured):
            self.hf(text=[text], **self.arguments(media, options))
        return captured[0] if len(captured) == 1 and len(captured[0]) == len(media) else None

    def arguments(self, media: Sequence[tuple[MediaKind, Any]], options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of a call beside the text."""
        call: dict[str, Any] = {"return_tensors": "pt"}
        for kind, argument in ARGUMENTS.items():
            of_kind = [each for found, each in media if found == kind]
            if of_kind:
                call[argument] = of_kind if kind == "audio" else [of_kind]
        if "audio" in call:
            call["sampling_rate"] = self._rate
        return {**call, **options}

    def _split(self, ids: list[int], separator: str, written: Sequence[Written]) -> list[str] | None:
        mark = self._tokenize(separator)
        starts = [start for start in range(len(ids) - len(mark) + 1) if ids[start : start + len(mark)] == mark]
        if not mark or len(starts) != len(written) + 1:
            return None
        pieces = [self._text_of(ids[left + len(mark) : right]) for left, right in pairwise(starts)]
        if any(not p.startswith(w.before) or not p.endswith(w.after) for p, w in zip(pieces, written, strict=True)):
            return None
        return [p[len(w.before) : len(p) - len(w.after)] for p, w in zip(pieces, written, strict=True)]

    def _text_of(self, ids: Sequence[int]) -> str:
        """Ids as the text that makes them."""
        tokenizer = self.hf.tokenizer
        if self._added is None:
            self._added = {int(index): str(token) for index, token in tokenizer.added_tokens_decoder.items()}
        added = self._added
        return "".join(
            "".join(added[i] for i in group) if special else tokenizer.decode(list(group))
            for special, group in groupby(ids, key=added.__contains__)
        )

    def _tokenize(self, text: str) -> list[int]:
        return [int(token) for token in self.hf.tokenizer(text, add_special_tokens=False)["input_ids"]]

    @staticmethod
    def _around(ids: list[int], bare: list[int]) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
        """What stands before and after `bare` in `ids`; None where it is not there."""
        extra = len(ids) - len(bare)
        start = next((start for start in range(extra + 1) if ids[start : start + len(bare)] == bare), None)
        return None if start is None else (tuple(ids[:start]), tuple(ids[start + len(bare) :]))


@contextmanager
def _capturing(hf: Any, captured: list[list[str]]) -> Iterator[None]:
    """Note the replacements of each text that the processor replaces placeholders in."""
    replace = getattr(hf, _REPLACE, None)
    if replace is None:
        yield
        return

    def noting(*arguments: Any, **keywords: Any) -> Any:
        texts, offsets = replace(*arguments, **keywords)
        captured.extend([str(each["replacement"]) for each in found] for found in offsets)
        return texts, offsets

    setattr(hf, _REPLACE, noting)
    try:
        yield
    finally:
        delattr(hf, _REPLACE)
