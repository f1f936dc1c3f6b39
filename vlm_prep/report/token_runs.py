"""A row's tokens in runs of one kind: text that is trained or not, with its weight, and media folded to one run each.

What terminals (`labels`, `show`, `explain`) and pages (`view`) show of a row is made of these.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

IGNORE = -100


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbouring tokens of one kind."""

    text: str
    trained: bool
    times: int = 0
    """Of a media, how many of its tokens stand here; 0 of text."""
    weight: float = 1.0
    name: str | None = None
    """Of a media, its file's name, where it is plain which media the run is of."""
    media: int | None = None
    """Which media of the row that is."""

    @property
    def written(self) -> str:
        """The run as a line of text holds it: a media by its name, or its token, and how many tokens it takes."""
        if not self.times:
            return self.text
        return f"[{self.name} x {self.times:,}]" if self.name else f"{self.text} x {self.times:,}"


def token_runs(
    ids: NDArray[Any],
    labels: NDArray[Any],
    tokenizer: Any,
    media_ids: Collection[int],
    *,
    weights: NDArray[Any] | None = None,
    media: Sequence[tuple[str, str]] = (),
) -> list[Run]:
    """Return the runs of a row.

    Args:
        ids: (n,) input_ids.
        labels: (n,) unshifted.
        tokenizer: writes ids as text.
        media_ids: ids of which a media's run is made.
        weights: (n,) of each token's loss, where the row has them.
        media: (kind, name) of the row's media, in order.
    """
    found = list(_runs(np.asarray(ids), np.asarray(labels) != IGNORE, tokenizer, media_ids, weights))
    places = _places([run.text for run in found if run.times], [kind for kind, _ in media])
    left = iter(places)
    return [_named(run, next(left), media) if run.times else run for run in found]


def _named(run: Run, number: int | None, media: Sequence[tuple[str, str]]) -> Run:
    return run if number is None else replace(run, name=media[number][1], media=number)


def _places(tokens: Sequence[str], kinds: Sequence[str]) -> list[int | None]:
    """Return which media each run of media tokens is of: the n-th of the n-th, else by the kind that its token names,
    where a row has as many media of it as runs, or one media (whose frames have a run each)."""
    if len(tokens) == len(kinds):
        return list(range(len(kinds)))
    found: list[int | None] = [None] * len(tokens)
    for kind in dict.fromkeys(kinds):
        runs = [place for place, token in enumerate(tokens) if kind in token.lower()]
        media = [place for place, each in enumerate(kinds) if each == kind]
        if len(media) == 1:
            media *= len(runs)
        if len(runs) == len(media):
            for run, number in zip(runs, media, strict=True):
                found[run] = number
    return found


def _runs(
    ids: NDArray[Any], trained: NDArray[np.bool_], tokenizer: Any, media_ids: Collection[int], weights: Any
) -> Iterator[Run]:
    weight = np.ones(len(ids)) if weights is None else np.asarray(weights)
    in_media = np.isin(ids, list(media_ids))
    same = (trained[1:] == trained[:-1]) & (weight[1:] == weight[:-1])
    same &= np.where(in_media[1:] | in_media[:-1], ids[1:] == ids[:-1], True)
    edges = [0, *(np.flatnonzero(~same) + 1).tolist(), len(ids)]
    for start, end in pairwise(edges):
        if start < end:
            times = end - start if in_media[start] else 0
            text = tokenizer.decode(ids[start : start + 1 if times else end].tolist())
            worth = float(weight[start]) if trained[start] else 1.0
            yield Run(text, bool(trained[start]), times, worth)


def media_name(struct: Mapping[str, Any]) -> str:
    """Return what an element of the `media` column is called: the last part of its first file's place."""
    files = struct["files"]
    return last_part(str(files[0]["uri"])) if files else str(struct["kind"])


def last_part(uri: str) -> str:
    """Return the last part of a file's place."""
    return uri.rstrip("/").rpartition("/")[2] or uri
