"""The setting of which structural tokens are trained, see `tokenize.labels.conventions`."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_doc import Doc

from vlm_prep.core.fields import Later

LabelConvention = Literal["ours", "trl", "llamafactory", "ms-swift", "automodel"]
Convention = Annotated[
    LabelConvention,
    Later(),
    Doc(
        "Of what the template writes around an answer (an empty think block, the line break behind its end), train "
        "nothing (ours) or what that trainer does."
    ),
]
