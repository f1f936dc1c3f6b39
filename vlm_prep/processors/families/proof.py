"""Whether a family's arithmetic holds for a processor: compared with the real part's answer before it is believed.

A processor of a known class may have settings that no published one had, and a release may change what a setting means.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlm_prep.processors.adapter import Adapter

_TRIED = ((64, 96), (333, 777))
"""(height, width) of pictures."""


def arithmetic_holds(family: Adapter) -> bool:
    """Return whether what pictures become by a family's formula is what its real part makes them become."""
    if family.levels.get("image") != "formula" or "image" not in family.placeholders.values():
        return True
    return all(_made(family, size, real=False) == _made(family, size, real=True) for size in _TRIED)


def _made(family: Adapter, size: tuple[int, int], *, real: bool) -> tuple[str, dict[str, Any]] | None:
    """The text of a picture and its stored tensors; None where it is not taken."""
    try:
        inputs: Mapping[str, Any] = Adapter.image_inputs(family, (size,)) if real else family.image_inputs((size,))
        text = family.replacement("image", inputs, 0)
        stored = [tensor for tensor in family.geometry if tensor.kind == "image"]
        return text, {tensor.name: family.rows_of(tensor, inputs, 0).tolist() for tensor in stored}
    except Exception:  # whatever a processor raises on a picture that it does not take
        return None
