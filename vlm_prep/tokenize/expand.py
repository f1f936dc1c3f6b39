r"""Placeholders of a rendered conversation → what the processor writes in their place.

The text is put in first, each run of a media token written once, so that it is tokenized together with what stands
around it; the runs are repeated as ids afterwards. Worked example, `<img>` standing for a picture of four cells:

    rendered   user: <img> what?      placeholder replaced by   \n<boi><cell><eoi>\n   with runs (4,)
    text       user: \n<boi><cell><eoi>\n what?
    ids        12 9 7 100 8 9 55      the cell, 100, stands for four
    expanded   12 9 7 100 100 100 100 8 9 55

Labels of what was put in are -100, also inside an assistant's turn: a language model cannot predict a picture.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlm_prep.core.errors import Reject, RejectReason
from vlm_prep.core.types import Media, MediaKind
from vlm_prep.processors.expansion import Expansion
from vlm_prep.tokenize.encode import Tokens
from vlm_prep.tokenize.spans import Span

IGNORE = -100
_MARK = "\U000f0000"
"""transformers' mark before a control token that is text (`chat_template_utils._CONTROL_TOKEN_START`)."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A rendered text with its placeholders replaced."""

    text: str
    spans: list[Span]
    """Trained characters, shifted with the text."""
    inside: list[Span]
    """Characters that were put in."""
    runs: tuple[int, ...]
    """How often each media token of the text stands there, in its order."""


class Placer:
    """Replaces placeholders.

    Args:
        placeholders: {text: kind of media it stands for}.
        unplaced: kinds of media that no text stands for.
    """

    def __init__(self, placeholders: dict[str, MediaKind], unplaced: Sequence[MediaKind] = ()) -> None:
        self._kinds, self._unplaced = placeholders, unplaced
        tokens = sorted(placeholders, key=len, reverse=True)
        self._pattern = re.compile(f"(?<!{_MARK})(?:{'|'.join(map(re.escape, tokens)) or '(?!)'})")

    def place(
        self, text: str, spans: list[Span], media: Sequence[Media], expand: Callable[[], Sequence[Expansion]]
    ) -> tuple[Placed, tuple[Expansion, ...]]:
        """Replace the placeholders of `text`; return it with the expansions in the row's order.

        Args:
            text: the rendered conversation.
            spans: trained characters of it.
            media: of the row, in order.
            expand: makes what they become.

        Raises:
            Reject: media_count_mismatch, when text and row have other media; or as expanding does.
        """
        found = list(self._pattern.finditer(text))
        kinds = [self._kinds[match.group()] for match in found]
        # counted by kind: a template may print pictures before videos, whatever their order in the row
        if sorted(kinds) != sorted(item.kind for item in media if item.kind not in self._unplaced):
            raise Reject(
                RejectReason.MEDIA_COUNT_MISMATCH,
                f"the rendered text has placeholders for {_count(kinds)}, "
                f"the row has {_count([item.kind for item in media])}",
            )
        if not found:
            return Placed(text, spans, [], ()), tuple(expand()) if media else ()
        of_row = tuple(expand())
        by_kind: dict[str, list[Expansion]] = {}
        for item, expansion in zip(media, of_row, strict=True):
            by_kind.setdefault(item.kind, []).append(expansion)
        queues = {kind: iter(each) for kind, each in by_kind.items()}
        expansions = tuple(next(queues[kind]) for kind in kinds)
        runs = tuple(run for expansion in expansions for run in expansion.runs)
        pieces: list[str] = []
        inside: list[Span] = []
        last = grown = 0
        for match, expansion in zip(found, expansions, strict=True):
            start, end = match.span()
            pieces += (text[last:start], expansion.text)
            inside.append((start + grown, start + grown + len(expansion.text)))
            grown += len(expansion.text) - (end - start)
            last = end
        if grown or any(match.group() != each.text for match, each in zip(found, expansions, strict=True)):
            ends = np.asarray([match.end() for match in found])
            shifts = np.cumsum([len(e.text) - (m.end() - m.start()) for m, e in zip(found, expansions, strict=True)])
            spans = [(_shift(start, ends, shifts), _shift(end, ends, shifts)) for start, end in spans]
            text = "".join([*pieces, text[last:]])
        return Placed(text, spans, inside, runs), of_row


def _shift(position: int, ends: NDArray[np.int64], shifts: NDArray[np.int64]) -> int:
    before = int(np.searchsorted(ends, position, side="right"))
    return position + (int(shifts[before - 1]) if before else 0)


def mask_tokens(tokens: Tokens, spans: Sequence[Span]) -> tuple[NDArray[np.bool_], list[int]]:
    """Return which tokens overlap a span of bytes, and the token position after each span."""
    trained = np.zeros(len(tokens.ids), np.bool_)
    ends: list[int] = []
    for start, end in spans:
        first = int(np.searchsorted(tokens.ends, start, side="right"))
        last = int(np.searchsorted(tokens.starts, end, side="left"))
        if end > start:
            trained[first:last] = True
        ends.append(max(first, last))
    return trained, ends


def unmask_inside(tokens: Tokens, trained: NDArray[np.bool_], inside: Sequence[Span]) -> None:
    """Take from `trained`, in place, the tokens that lie wholly within a span of bytes."""
    for start, end in inside:
        first = int(np.searchsorted(tokens.starts, start, side="left"))
        last = int(np.searchsorted(tokens.ends, end, side="right"))
        trained[first:last] = False


def repeat_runs(
    ids: NDArray[np.int32], labels: NDArray[np.int32], run_ids: Iterable[int], runs: Sequence[int]
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Repeat each media token of `ids` as often as `runs` says; return ids and labels.

    Raises:
        Reject: media_count_mismatch, when the ids hold another number of media tokens.
    """
    positions = find_tokens(ids, run_ids)
    if len(positions) != len(runs):
        raise Reject(
            RejectReason.MEDIA_COUNT_MISMATCH,
            f"the tokenized text has {len(positions)} places for media, the row's media make {len(runs)}",
        )
    if not runs:
        return ids, labels
    repeats = np.ones(len(ids), np.int64)
    repeats[positions] = runs
    labels[positions] = IGNORE
    return np.repeat(ids, repeats), np.repeat(labels, repeats)


def find_tokens(ids: NDArray[np.int32], tokens: Iterable[int]) -> NDArray[np.int64]:
    """Return the positions of `tokens` (a comparison each is 4 times faster than isin)."""
    found = np.zeros(len(ids), np.bool_)
    for token in tokens:
        found |= ids == token
    return np.flatnonzero(found)


def _count(kinds: Sequence[str]) -> str:
    parts = [f"{kinds.count(kind)} {kind}(s)" for kind in sorted(set(kinds))]
    return ", ".join(parts) or "none"
