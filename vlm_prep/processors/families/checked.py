"""What was seen of each processor class of transformers that renders media in a chat, with the release named here.

Written by `tests/families/outcomes.py` and held true by `tests/families/test_zoo.py`: a small real processor of each
class is built, and rows of one and several pictures, videos and sounds are compared with it tensor by tensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

TRANSFORMERS = "5.23.0"


@dataclass(frozen=True, kw_only=True)
class Checked:
    """One class. Rows that are not rejects are equal to the processor's own."""

    family: str = ""
    levels: Mapping[str, str] = field(default_factory=dict)
    """{kind of media: how token counts are found}; kinds that are not here are `unsupported_media`."""
    positions: str = ""
    """How its models count positions, see `model_positions`."""
    rejects: Mapping[str, str] = field(default_factory=dict)
    """{row that the real processor cannot take: reason}."""
    why: str = ""
    """Why it serves no chats, or not here; nothing else is said of it then."""


CHECKED: Mapping[str, Checked] = {
}
