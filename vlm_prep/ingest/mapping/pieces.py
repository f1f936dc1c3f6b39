"""Text with media in it, and how a value of a row is written in a text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

from vlm_prep.core.errors import Reject, RejectReason
from vlm_prep.core.visible import excerpt
from vlm_prep.ingest.mapping.scope import Absent

Kind = Literal["image", "video", "audio"]
KINDS: Final[tuple[Kind, ...]] = ("image", "video", "audio")


@dataclass(frozen=True, slots=True)
class Tag:
    """The place of the next media of a kind."""

    kind: Kind


class Pieces(list["str | Tag"]):
    """Text with media in it."""


def written_text(value: Any, what: str) -> str:
    """Return a value as it is written in a text.

    Raises:
        Reject: bad_type, it is no text and no whole number.
    """
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if value is None:
        raise Absent(RejectReason.BAD_TYPE, f"{what} is null, not a text")
    raise Reject(RejectReason.BAD_TYPE, f"{what} is {excerpt(value)}, not a text; {{json: NAME}} writes it as JSON")


def pieces_of(value: Any, what: str) -> Pieces:
    """Return a value as text with media in it, texts side by side as one.

    Raises:
        Reject: bad_type.
    """
    if not isinstance(value, Pieces):
        return Pieces([written_text(value, what)])
    found = Pieces()
    for piece in value:
        if isinstance(piece, str) and found and isinstance(found[-1], str):
            found[-1] += piece
        else:
            found.append(piece)
    return found


def says_something(value: Any) -> bool:
    """Return whether a value is more than nothing, blanks or an empty list."""
    if isinstance(value, Pieces):
        return any(not isinstance(piece, str) or piece.strip() for piece in value)
    if isinstance(value, str):
        return bool(value.strip())
    return value is not None and value != [] and value != {} and value == value


def json2token(value: Any) -> str:
    """Return an object as the tags that Donut is trained on.

    `{"b": 1, "a": [2, 3]}` is `<s_b>1</s_b><s_a>2<sep/>3</s_a>`: keys from z to a, elements of a list parted by
    `<sep/>`, `{"text_sequence": X}` alone is X. All else is written as Python writes it (True, None, 1.5), which models
    trained with NeMo Automodel and Donut have seen.

    Raises:
        Reject: bad_type, a value that no JSON holds, or a text_sequence that is no text.
    """
    if isinstance(value, dict):
        if len(value) == 1 and "text_sequence" in value:
            return written_text(value["text_sequence"], "text_sequence")
        return "".join(f"<s_{key}>{json2token(value[key])}</s_{key}>" for key in sorted(value, reverse=True))
    if isinstance(value, list):
        return "<sep/>".join(map(json2token, value))
    if value is None or isinstance(value, str | int | float):
        return str(value)
    raise Reject(RejectReason.BAD_TYPE, f"{excerpt(value)} cannot be written by json2token")
