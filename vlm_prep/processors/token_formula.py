"""A processor's own arithmetic for pictures, `_get_num_multimodal_tokens`, where it is proved to be what it does.

51 classes of transformers 5.23 have it; some count the tokens around a picture, some forget what others write. So it
is believed only if, for sizes as pictures have them, the real processor writes one text with one run, as long as the
arithmetic says; and only for sizes that lie between those that were tried. Others are asked of the processor itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vlm_prep.processors import internals
from vlm_prep.processors.runs import Run

_PROVED = ((64, 96), (224, 224), (333, 777), (480, 640), (700, 300), (1080, 1920), (1600, 1200))
"""(height, width)."""
_LEAST, _MOST, _ACROSS = 64, 1920, 2.4
"""Sides in pixels and the ratio of the longer to the shorter, of the sizes that were tried."""


@dataclass(frozen=True)
class TokenFormula:
    """How often the token of a picture stands in its text."""

    hf: Any
    text: str
    """What a picture becomes, its run written once."""
    more: int
    """What the arithmetic counts beside the run."""

    def holds(self, height: int, width: int) -> bool:
        """Whether a size is like those that were tried."""
        longer, shorter = max(height, width), min(height, width)
        return shorter >= _LEAST and longer <= _MOST and longer <= _ACROSS * shorter

    def run(self, height: int, width: int) -> Run:
        """Return what a picture of this size becomes."""
        return Run(self.text, (_count(self.hf, height, width) - self.more,))


def find_formula(hf: Any, ask: Callable[[int, int], Run]) -> TokenFormula | None:
    """Return a processor's arithmetic, None if it has none that holds.

    Args:
        hf: the processor.
        ask: what it makes of a blank picture of (height, width).
    """
    found: TokenFormula | None = None
    for height, width in _PROVED:
        try:
            count, real = _count(hf, height, width), ask(height, width)
        except Exception:  # whatever the processor raises, or that it has no such arithmetic
            return None
        if len(real.runs) != 1:
            return None
        made = TokenFormula(hf, real.text, count - real.runs[0])
        if found is not None and made != found:
            return None
        found = made
    return found


def _count(hf: Any, height: int, width: int) -> int:
    return int(internals.count_multimodal_tokens.of(hf)(image_sizes=[[height, width]])["num_image_tokens"][0])
