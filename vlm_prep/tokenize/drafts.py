"""A sample after encoding, before its length is judged."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlm_prep.core.records import Message, Sample
from vlm_prep.processors.expansion import Expansion
from vlm_prep.tokenize.chat.fit import Fitted
from vlm_prep.tokenize.placeholders import IGNORE


@dataclass(frozen=True, slots=True)
class Labelled:
    """Ids with what is trained of them."""

    ids: NDArray[np.int32]
    labels: NDArray[np.int32]
    weights: NDArray[np.float32]

    def equals(self, other: Labelled) -> bool:
        """Whether both are the same in all."""
        pairs = ((self.ids, other.ids), (self.labels, other.labels), (self.weights, other.weights))
        return all(np.array_equal(one, two) for one, two in pairs)


@dataclass(frozen=True, slots=True)
class Draft:
    """A document."""

    messages: list[Message]
    ids: NDArray[np.int32]
    labels: NDArray[np.int32]
    weights: NDArray[np.float32] | None
    turn_ends: dict[int, int]
    """Token position after each trained message's end, by message index, before placeholders are expanded; empty
    without a limit of the length."""
    expansions: tuple[Expansion, ...]
    notes: tuple[str, ...] = ()
    structural: int = 0

    @property
    def trains(self) -> bool:
        """Whether a token of it is trained."""
        return bool(np.any(self.labels != IGNORE))


@dataclass(frozen=True, slots=True)
class Drafted:
    """The documents of a sample before their length is judged."""

    sample: Sample
    fitted: Fitted
    drafts: list[Draft]
    boxes: str = ""
    """See `Encoded.boxes`."""

    @property
    def length(self) -> int:
        """Tokens of the longest."""
        return max(len(draft.ids) for draft in self.drafts)

    @property
    def total(self) -> int:
        """Tokens of those that train something."""
        return sum(len(draft.ids) for draft in self.drafts if draft.trains)
