"""Replacement texts with their runs taken out.

A processor replaces the placeholder of a media by a text in which one token is repeated thousands of times, perhaps
between timestamps, row breaks or crops. Tokenizing the repeats is wasted: each run is written once, tokenized together
with the text around it (so that what merges across its border merges), and repeated as ids. For a picture of 3 x 2
cells with row breaks, `[IMG][IMG][BREAK][IMG][IMG][BREAK][IMG][IMG][END]` becomes

    text  [IMG][BREAK][IMG][BREAK][IMG][END]
    runs  (2, 2, 2)
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from vlm_prep.core.errors import ProcessorError
from vlm_prep.processors.load import LoadedProcessor


@dataclass(frozen=True, slots=True)
class Run:
    """A replacement text with each run written once."""

    text: str
    runs: tuple[int, ...]
    """How often each media token of `text` stands there, in order."""


def ids_of(tokens: Iterable[str], loaded: LoadedProcessor) -> frozenset[int]:
    """Return the ids of tokens that a processor repeats.

    Raises:
        ProcessorError: its tokenizer has none for one of them.
    """
    ids = {token: loaded.hf.tokenizer.convert_tokens_to_ids(token) for token in tokens}
    if lacking := [token for token, number in ids.items() if number is None]:
        raise ProcessorError(
            f"{loaded.name}: {type(loaded.hf).__name__} puts {', '.join(lacking)} into texts, and its tokenizer has no "
            "such token",
            "the processor and the tokenizer beside it are of different models",
        )
    return frozenset(map(int, ids.values()))


class RunFinder:
    """Takes runs of media tokens out of texts.

    Args:
        tokens: the tokens that are repeated.
    """

    def __init__(self, tokens: Iterable[str]) -> None:
        self.tokens = tuple(sorted(set(tokens), key=len, reverse=True))
        self._pattern = re.compile("|".join(f"((?:{re.escape(token)})+)" for token in self.tokens) or r"(?!)")

    def find(self, text: str) -> Run:
        """Return `text` with each run written once."""
        pieces: list[str] = []
        runs: list[int] = []
        last = 0
        for match in self._pattern.finditer(text):
            token = self.tokens[(match.lastindex or 1) - 1]
            pieces += (text[last : match.start()], token)
            runs.append((match.end() - match.start()) // len(token))
            last = match.end()
        return Run("".join([*pieces, text[last:]]), tuple(runs))
