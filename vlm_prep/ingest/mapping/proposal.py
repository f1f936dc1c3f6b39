"""A mapping for a row of which nothing is known: a guess to begin with, which `vlm-prep init` writes down as one.

Columns are told by what they hold (bytes, names of media, conversations as JSON text), then by their names. What is
asked is a column of a question, else a constant; what is answered is the column of an answer, else the longest text.
"""

from __future__ import annotations

import re
from typing import Any, Final

from vlm_prep.core.errors import Reject
from vlm_prep.ingest.embedded import EmbeddedBytes, EmbeddedText
from vlm_prep.ingest.mapping.compiled import ROLES_OF_KINDS
from vlm_prep.ingest.mapping.pieces import Kind
from vlm_prep.ingest.mapping.scope import parsed

_ENDINGS: Final[dict[str, Kind]] = {
    **dict.fromkeys(("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "heic"), "image"),
    **dict.fromkeys(("mp4", "mkv", "webm", "mov", "avi"), "video"),
    **dict.fromkeys(("wav", "flac", "mp3", "ogg", "opus", "m4a"), "audio"),
}
_QUESTIONS: Final = ("question", "query", "prompt", "instruction", "problem", "user")
_ANSWERS: Final = (
    *("answer", "answers", "response", "completion", "solution", "output", "caption", "captions", "text", "transcript"),
    *("transcription", "sentence", "description", "label", "category", "assistant"),
)
_ASKED: Final[dict[Kind | None, str]] = {
    "image": "Describe this image.",
    "video": "Describe this video.",
    "audio": "Transcribe the audio.",
    None: "Continue.",
}


def proposed(row: dict[str, Any]) -> dict[str, Any] | None:
    """Return a mapping that may fit a row, None where nothing in it can be answered."""
    media: dict[Kind, list[str]] = {}
    for name, value in row.items():
        if (kind := _kind(name, value)) is not None:
            media.setdefault(kind, []).append(name)
    named = {ROLES_OF_KINDS[kind]: names[0] if len(names) == 1 else names for kind, names in media.items()}
    left = {name: value for name, value in row.items() if all(name not in names for names in media.values())}
    if chat := next((name for name, value in left.items() if _is_conversation(value)), None):
        return {**named, "shared": True, "turns": [{"conversation": chat}]}
    texts = {name: value for name, value in left.items() if isinstance(value, str)}
    answer = _named(left, _ANSWERS) or max(texts, key=lambda name: len(texts[name]), default=None)
    if answer is None:
        return None
    question = _named({name: value for name, value in texts.items() if name != answer}, _QUESTIONS)
    asked = f"{{{question}}}" if question else _ASKED[next(iter(media), None)]
    tags = [kind for kind, names in media.items() for _ in names]
    said: Any = f"{{{answer}}}"
    if isinstance(left[answer], list):
        said = {"pick": answer}
    elif isinstance(_value(left[answer]), dict):
        said = {"json2token": answer}
    return {**named, "turns": [{"user": [*tags, asked]}, {"assistant": said}]}


def _kind(name: str, value: Any) -> Kind | None:
    """Return the kind of media that a column holds."""
    value = value[0] if isinstance(value, list) and value else value
    path = value if isinstance(value, str) else value.get("path") if isinstance(value, dict) else None
    ending = str(path or "").rpartition(".")[2].lower()
    if isinstance(value, dict) and not {"bytes", "path"} & value.keys():
        return None
    if isinstance(value, str) and not isinstance(value, EmbeddedText):
        return _ENDINGS.get(ending) if re.fullmatch(r"\S.{0,1000}\.\w{2,5}", value) else None
    if not isinstance(value, EmbeddedBytes | EmbeddedText | dict):
        return None
    by_name: dict[str, Kind] = {"audio": "audio", "speech": "audio", "wav": "audio", "video": "video"}
    return _ENDINGS.get(ending) or next((kind for word, kind in by_name.items() if word in name.lower()), "image")


def _is_conversation(value: Any) -> bool:
    found = _value(value)
    if not isinstance(found, list) or not found or not isinstance(found[0], dict):
        return False
    return {"from", "value"} <= found[0].keys() or {"role", "content"} <= found[0].keys()


def _value(value: Any) -> Any:
    try:
        return parsed(value, "")
    except Reject:
        return value


def _named(columns: dict[str, Any], words: tuple[str, ...]) -> str | None:
    """Return the column whose name is, or else ends with, the first of some words."""
    for fits in (lambda name, word: name == word, lambda name, word: word in name.split("_")):
        for word in words:
            if found := next(
                (name for name in columns if columns[name] is not None and fits(name.lower(), word)), None
            ):
                return found
    return None
