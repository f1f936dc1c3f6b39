"""Rows cut to a number of tokens, inside a turn where that is where it ends: `overlong=cut` and `exact_length`.

A cut row is the beginning of the whole one: its ids, labels and weights are the first N of what the processor makes of
the conversation, which is stored whole. Media tokens are never cut off: a row with a media that would lose some is a
reject. The comparison with the real processor is of the first N tokens; all that is of media is compared whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from vlm_prep.core.errors import Reject, RejectReason
from vlm_prep.core.settings import LengthConfig

CUT: Final = "cut_inside"
"""Note of a row that was cut."""


def require_cuttable(is_media: NDArray[np.bool_], limit: int) -> None:
    """Refuse to cut off media tokens.

    Args:
        is_media: (length,) which tokens are media's.
        limit: tokens that are kept.

    Raises:
        Reject: overlong.
    """
    if is_media[limit:].any():
        lost = int(is_media[limit:].sum())
        raise Reject(
            RejectReason.OVERLONG,
            f"{len(is_media)} tokens, of which {lost} of media lie beyond {limit}, and media are never cut",
        )


def require_length(length: int, config: LengthConfig) -> None:
    """Refuse a row that is shorter than `exact_length`.

    Raises:
        Reject: too_short.
    """
    if config.exact_length is not None and length < config.exact_length:
        raise Reject(RejectReason.TOO_SHORT, f"{length} tokens, --exact-length is {config.exact_length}")


def cut_as(row: Mapping[str, Any], real: Mapping[str, Any], config: LengthConfig) -> dict[str, Any]:
    """Return what the processor makes of a row, cut as the row was.

    Args:
        row: as stored.
        real: the processor's tensors, those of the text (1, length).
        config: of the store.
    """
    length, stored = real["input_ids"].shape[1], len(row["input_ids"])
    if not config.cuts or stored != config.most_tokens or length <= stored:
        return dict(real)
    return {
        name: value[:, :stored] if name in _OF_TEXT and tuple(value.shape) == (1, length) else value
        for name, value in real.items()
    }


_OF_TEXT: Final = frozenset(("input_ids", "attention_mask", "labels", "token_type_ids", "mm_token_type_ids"))
