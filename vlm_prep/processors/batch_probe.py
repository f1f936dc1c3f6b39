"""Whether two rows in one call of a processor are its tensors of each, one after the other, as a batch here joins them.

No row shows it: a processor may count on from row to row (bounds that add up, numbers of pictures in the batch), and
each row by itself is then right, and a batch of them wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlm_prep.core.records import MediaKind
from vlm_prep.processors.payload.join import join
from vlm_prep.processors.payload.nested import Nested, kept, same_values
from vlm_prep.processors.payload.pointers import Pointers, find_pointers
from vlm_prep.processors.processor_parts import ARGUMENTS
from vlm_prep.processors.token_types import of_text


def look_at_two_rows(hf: Any, kind: MediaKind, call: Mapping[str, Any]) -> tuple[Pointers, str | None]:
    """Return which tensors point into others, and why a batch of rows is not what a processor makes of them together;
    None where nothing shows it.

    Args:
        hf: the processor.
        kind: of media.
        call: arguments of a call of `hf` with a row of one media of this kind.
    """
    if "text" not in call:
        return {}, None  # of a processor that is given media alone (Whisper, Donut)
    twice = {**call, "text": list(call["text"]) * 2, ARGUMENTS[kind]: list(call[ARGUMENTS[kind]]) * 2}
    if metadata := call.get("videos_kwargs", {}).get("video_metadata"):
        twice["videos_kwargs"] = {**call["videos_kwargs"], "video_metadata": list(metadata) * 2}
    try:
        made, both = dict(hf(**call)), dict(hf(**twice))
    except Exception:  # whatever the processor raises: it takes no two such rows in one call
        return {}, None
    if len(both["input_ids"]) != 2:
        return {}, None  # it makes one row of any call
    one, two = _media(made), _media(both)
    pointers = find_pointers(one, two)
    other = [name for name, value in two.items() if name not in pointers and not _is_twice(value, one.get(name))]
    return pointers, f"{', '.join(other)} of two rows is not that of each, one after the other" if other else None


def _media(made: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: kept(value) for name, value in made.items() if not of_text(name)}
    return {name: value for name, value in found.items() if value is not None}


def _is_twice(together: Any, alone: Any) -> bool:
    import torch

    if alone is None:
        return False
    if not isinstance(alone, Nested) and not alone.dim():
        return same_values(together, alone)
    if same_values(together, join([alone, alone])):
        return True
    # side by side, see `PartRecord.axes`
    return not isinstance(alone, Nested) and alone.dim() > 2 and same_values(together, torch.cat([alone, alone], -1))
