"""How the models behind a processor of no known family count positions: what can be told without a model.

A pack needs the positions of each document, and a wrong kind would train without a word. A processor that transformers
has stands beside its models (`transformers/models/<name>/`), so their code is asked: what computes positions from
media is called `get_rope_index` or speaks of mRoPE there.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

Positions = Literal["mrope", "plain", "own", "unknown"]
"""mrope and plain: computed by `pack`; own: the model has a rule that `pack` does not know; unknown: there is no model
to ask."""
_SIGNS = ("get_rope_index", "mrope")


def positions_of(processor: type) -> Positions:
    """Return "own" or "plain" for a processor class of transformers or made from one, else "unknown"."""
    modules = (cls.__module__ for cls in processor.__mro__)
    module = next((name for name in modules if name.startswith("transformers.models.")), None)
    file = sys.modules[module].__file__ if module is not None else None
    models = sorted(Path(file).parent.glob("modeling_*.py")) if file else []
    if not models:
        return "unknown"
    texts = (path.read_text(encoding="utf-8") for path in models)
    return "own" if any(sign in text for text in texts for sign in _SIGNS) else "plain"
