"""What a row costs in training, in units of one token's way through the language model.

    cost = linear x tokens + attention x tokens^2 + vision x patches

A token takes 2 P operations forward (P: the language model's parameters); a row of s tokens 2 s^2 h L more for causal
attention (h: hidden size, L: layers with full attention), so attention = h L / P per token^2; a patch takes 2 V in an
encoder of V parameters, so vision = V / P. Backward passes scale all alike. They are counted from the model's config
where that is known (`processors.model_cost`); else the default is Qwen2.5-VL-7B's published configuration: h 3584, L
28, P 7.6e9, V 0.67e9.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlm_prep.core.errors import InputError
from vlm_prep.pack.demands import Demands
from vlm_prep.processors.model_cost import model_cost


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


PRESETS: dict[str, CostModel] = {
    "qwen2.5-vl-3b": CostModel(attention=2.389e-05, vision=0.2078),
    "qwen2.5-vl-7b": CostModel(attention=1.419e-05, vision=0.09096),
    "qwen2.5-vl-72b": CostModel(attention=9.171e-06, vision=0.009144),
    "qwen3-vl-4b": CostModel(attention=3.666e-05, vision=0.08233),
    "qwen3-vl-8b": CostModel(attention=1.948e-05, vision=0.0599),
    "qwen3-vl-30b-a3b": CostModel(attention=6.463e-05, vision=0.1459),
    "gemma-3-12b": CostModel(attention=2.785e-06, vision=0.5816),
    "internvl3-8b": CostModel(attention=1.42e-05, vision=0.1759),
}
"""By the names of published models, counted by `processors.model_cost` from their configs."""


def read_cost(text: str | None, model: Mapping[str, Any] | None = None) -> tuple[CostModel, str]:
    """Read coefficients, as `attention=1.3e-5,vision=0.09`, or `qwen3-vl-8b` of the presets, or both.

    Args:
        text: as it is written.
        model: the model's config.json, where it is known: what is not named is counted from it.

    Returns:
        the coefficients, and where they are from, in words.

    Raises:
        InputError: an unknown name, or no number of at least 0.
    """
    known, found = {field.name for field in fields(CostModel)}, dict[str, float]()
    base, source = None, "Qwen2.5-VL-7B, since the model is not known"
    for part in filter(None, (text or "").split(",")):
        name, _, value = (each.strip() for each in part.partition("="))
        if name.lower() in PRESETS and not value and base is None:
            base, source = PRESETS[name.lower()], name.lower()
            continue
        try:
            number = float(value)
        except ValueError:
            number = -1.0
        if name not in known or not 0 <= number < float("inf"):
            raise InputError(
                f"cost {part!r}: expected one of {', '.join(sorted(known))} and a number of at least 0, or the name of "
                f"a model: {', '.join(PRESETS)}",
                "for example: attention=1.3e-5,vision=0.09",
            )
        found[name] = number
    if base is None and model is not None and not {"attention", "vision"} <= found.keys():
        counted = model_cost(model)
        if counted is not None:
            base, source = CostModel(**counted), f"counted from the config of {model['model_type']}"
    if found:
        source = "given" if {"attention", "vision"} <= found.keys() else f"{source}; given: {', '.join(found)}"
    return replace(base or CostModel(), **found), source
