"""What a row costs in training, in units of one token's way through the language model.

    cost = linear x tokens + attention x tokens^2 + vision x patches

A token takes 2 P operations forward (P: the language model's parameters); a row of s tokens 2 s^2 h L more for causal
attention (h: hidden size, L: layers with full attention), so attention = h L / P per token^2; a patch takes 2 V in an
encoder of V parameters, so vision = V / P. Backward passes scale all alike. The default is Qwen2.5-VL-7B's published
configuration: h 3584, L 28, P 7.6e9, V 0.67e9.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlm_prep.core.errors import InputError
from vlm_prep.pack.demands import Demands


@dataclass(frozen=True, kw_only=True)
class CostModel:
    """Coefficients of a row's cost."""

    linear: float = 1.0
    """Per token."""
    attention: float = 3584 * 28 / 7.6e9
    """Per token squared, of one document."""
    vision: float = 0.67 / 7.6
    """Per patch (where no grids are stored, per media token)."""

    def of(self, demands: Demands) -> NDArray[np.float64]:
        """Return (n,) the cost of each row."""
        tokens = demands.tokens.astype(np.float64)
        return self.linear * tokens + self.attention * tokens**2 + self.vision * demands.patches


def read_cost(text: str | None) -> CostModel:
    """Read coefficients written as `attention=1.3e-5,vision=0.09`; those that are not named keep their default.

    Raises:
        InputError: an unknown name, or no number of at least 0.
    """
    known = {field.name for field in fields(CostModel)}
    found: dict[str, Any] = {}
    for part in filter(None, (text or "").split(",")):
        name, _, value = part.partition("=")
        try:
            number = float(value)
        except ValueError:
            number = -1.0
        if name.strip() not in known or not 0 <= number < float("inf"):
            raise InputError(
                f"cost {part!r}: expected one of {', '.join(sorted(known))} and a number of at least 0",
                "for example: attention=1.3e-5,vision=0.09",
            )
        found[name.strip()] = number
    return CostModel(**found)
