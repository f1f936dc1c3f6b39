"""What a processor does to texts that no row of simple words shows.

A row is put together of its own text and of what its placeholders become. A processor that writes texts otherwise
(small letters, one blank for two) or pads a row by itself is none of that kind: it is said at the start, not of each
row, and not of the rows alone that happen to be compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from vlm_prep.core.records import MediaKind
from vlm_prep.processors.batch_probe import look_at_two_rows
from vlm_prep.processors.row_call import RowAnswer, RowCall, Written

TEXTS: Mapping[str, str] = {
    "blanks at the ends of a text": " ends ",
    "capitals": "Upper CASE",
    "two blanks": "two  blanks",
    "line breaks and tabs": "a\n\n\nb\tc",
    "marked-up text": "&amp; %20 {x} <b>",
    "signs beyond ASCII": "e\u0301 \ufb01 \uff11 \u201cq\u201d",
}
"""What texts hold, and one of each."""


def why_no_row(
    call: RowCall, written: Written, media: tuple[MediaKind, Any], options: Mapping[str, Any], answer: RowAnswer
) -> str | None:
    """Say why rows of a processor are not their text with its placeholders replaced; None where nothing shows it.

    Args:
        call: of the processor.
        written: what its template writes for a media.
        media: (kind, one that it takes).
        options: further arguments of the call.
        answer: what it made of that media between simple words.
    """
    if not np.asarray(answer.made.get("attention_mask", 1)).all():
        return "it pads each row by itself, to a length that rows here do not have"
    arguments = call.arguments([media], options)
    if call.keeps("".join(TEXTS.values()), written, answer, arguments):
        return look_at_two_rows(call.hf, media[0], {"text": [written.text], **arguments})[1]
    changed = [name for name, text in TEXTS.items() if not call.keeps(text, written, answer, arguments)]
    return f"it writes texts otherwise than they are: {', '.join(changed) or 'long ones'}"
