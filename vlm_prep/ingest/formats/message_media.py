"""Media beside the text of their message (`{"role": "user", "content": ..., "images": [...]}`), as typed parts.

They stand where the text has tags for them, one each, else before the text: so does Ollama, whose form it is. Typed
parts that name no media of their own are filled in order. In an answer, or of several kinds without tags, where they
stand is not said.
"""

from __future__ import annotations

import re
from typing import Any, Final

from vlm_prep.core.records import MediaKind
from vlm_prep.ingest.formats.common import Row
from vlm_prep.ingest.formats.noticed import Noticed, is_empty

_KEYS: Final[dict[str, MediaKind]] = {name: kind for kind in ("image", "video", "audio") for name in (kind, f"{kind}s")}
_TAG: Final = re.compile(r"(<(?:image|video|audio)>)", re.IGNORECASE)


def with_own_media(turn: Row, content_keys: tuple[str, ...], role: str, noticed: Noticed) -> Row:
    """Return a message with its media among the parts of its content; one as it is of which that cannot be told."""
    if _KEYS.keys().isdisjoint(turn) or role == "assistant":
        return turn
    given = {key: turn[key] for key in turn if key in _KEYS and key not in noticed.ignored and not is_empty(turn[key])}
    said = [key for key in content_keys if turn.get(key) is not None]
    if not given or len(said) > 1 or len({_KEYS[key] for key in given}) < len(given):
        return turn
    media = {_KEYS[key]: [each for each in _listed(value) if not is_empty(each)] for key, value in given.items()}
    key = said[0] if said else content_keys[0]
    parts = _parts(turn.get(key) or "", media)
    if parts is None:
        return turn
    noticed.note("read_message_media")
    return {name: value for name, value in turn.items() if name not in given} | {key: parts}


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _parts(content: Any, media: dict[MediaKind, list[Any]]) -> list[Any] | None:
    """Return the content with its media in it; None where it is not said where they stand."""
    if isinstance(content, list):
        pieces = content
    elif isinstance(content, str):
        pieces = [piece for piece in _TAG.split(content) if piece]
    else:
        return None
    asked = [_asks(piece) for piece in pieces]
    if not any(asked):
        (kind, entries), *others = media.items()
        return None if others else [*(_part(kind, entry) for entry in entries), *pieces]
    if any(asked.count(kind) != len(entries) for kind, entries in media.items()):
        return None
    left = {kind: iter(entries) for kind, entries in media.items()}
    return [_part(kind, next(left[kind])) if kind in left else piece for kind, piece in zip(asked, pieces, strict=True)]


def _asks(piece: Any) -> MediaKind | None:
    """Return which kind of media a piece of content asks for: a tag, or a part of nothing but its type."""
    if isinstance(piece, str) and _TAG.fullmatch(piece):
        return _KEYS[piece[1:-1].lower()]
    given = {key: value for key, value in piece.items() if not is_empty(value)} if isinstance(piece, dict) else {}
    return _KEYS.get(str(given["type"]).lower()) if given.keys() == {"type"} else None


def _part(kind: MediaKind, entry: Any) -> Row:
    return {"type": kind, kind: entry}
