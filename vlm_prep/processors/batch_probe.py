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
from vlm_prep.processors.row_call import RowCall, Written
from vlm_prep.processors.token_types import of_text


def why_no_batch(
    call: RowCall, written: Written, media: tuple[MediaKind, Any], options: Mapping[str, Any]
) -> str | None:
    """Say why a batch of rows is not what a processor makes of them together; None where nothing shows it.

    Args:
        call: of the processor.
        written: what its template writes for a media.
        media: (kind, one that it takes).
        options: further arguments of the call.
    """
    try:
        alone, together = (_media(call.equal_rows(count, written, media, options)) for count in (1, 2))
    except Exception:  # whatever the processor raises: it takes no two such rows in one call
        return None
    other = [name for name, value in together.items() if not _is_twice(value, alone.get(name))]
    return f"{', '.join(other)} of two rows is not that of each, one after the other" if other else None


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
