"""A mapping for a row of which nothing is known: a guess to begin with, which `vlm-prep init` writes down as one.

Columns, and what is inside of objects, are told by what they hold (bytes, names of media, conversations, also as JSON
text), then by their names. What is asked is a column of a question, else a constant; what is answered is the column of
an answer, else the longest text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from vlm_prep.core.errors import Reject
from vlm_prep.ingest.embedded import EmbeddedBytes, EmbeddedText
from vlm_prep.ingest.mapping.compiled import ROLES_OF_KINDS
from vlm_prep.ingest.mapping.pieces import Kind
from vlm_prep.ingest.mapping.scope import parsed
from vlm_prep.ingest.spec import ROLE_NAMES

_ENDINGS: Final[dict[str, Kind]] = {
    **dict.fromkeys(("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "heic"), "image"),
    **dict.fromkeys(("mp4", "mkv", "webm", "mov", "avi"), "video"),
    **dict.fromkeys(("wav", "flac", "mp3", "ogg", "opus", "m4a"), "audio"),
}
_QUESTIONS: Final = ("question", "query", "prompt", "instruction", "problem", "user", "ask")
_ANSWERS: Final = (
    *("answer", "answers", "response", "completion", "solution", "output", "caption", "captions", "text", "transcript"),
    *("transcription", "txt", "sentence", "description", "label", "category", "assistant", "reply", "target"),
)
_CONTENTS: Final = ("content", "text", "value", "message")
_ROLES: Final = {"user_tag": "user", "assistant_tag": "assistant", "system_tag": "system"}
_DEEPEST: Final = 4
NOTHING_ASKED: Final = "Continue."
"""What stands for the question of a text without one and without media."""
_ASKED: Final[dict[Kind | None, str]] = {
    "image": "Describe this image.",
    "video": "Describe this video.",
    "audio": "Transcribe the audio.",
    None: NOTHING_ASKED,
}


def proposed(row: dict[str, Any]) -> dict[str, Any] | None:
    """Return a mapping that may fit a row, None where nothing in it can be answered."""
    media: dict[Kind, list[str]] = {}
    flat = dict(_flat(row))
    for name, value in flat.items():
        if (kind := _kind(name, value)) is not None:
            media.setdefault(kind, []).append(name)
    named = {ROLES_OF_KINDS[kind]: names[0] if len(names) == 1 else names for kind, names in media.items()}
    left = {
        name: value
        for name, value in flat.items()
        if all(name not in names for names in media.values()) and not _names_a_text_file(value)
    }
    for name, value in left.items():
        if _is_conversation(value):
            return {**named, "shared": True, "turns": [{"conversation": name}]}
        if keys := _speakers(value):
            return {**named, "shared": True, "turns": [{"conversation": name, **keys}]}
    texts = {name: value for name, value in left.items() if isinstance(value, str)}
    listed = {name: value[0] for name, value in left.items() if isinstance(value, list) and value}
    said_by = texts | {name: value for name, value in listed.items() if isinstance(value, str)}
    answer = _named(left, _ANSWERS) or max(said_by, key=lambda name: len(said_by[name]), default=None)
    if answer is None:
        return None
    question = _named({name: value for name, value in texts.items() if name != answer}, _QUESTIONS)
    asked = f"{{{question}}}" if question else _ASKED[next(iter(media), None)]
    tags = [kind for kind, names in media.items() for name in names for _ in range(_count(flat[name]))]
    said: Any = f"{{{answer}}}"
    if isinstance(left[answer], list):
        said = {"pick": answer}
    elif isinstance(_value(left[answer]), dict):
        said = {"json2token": answer}
    return {**named, "turns": [{"user": [*tags, asked]}, {"assistant": said}]}


def _flat(row: dict[str, Any], head: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the paths of a row and what they lead to: columns, and what is inside of objects and lists of them."""
    for key, value in row.items():
        name = f"{head}{key}"
        inner: Any = value[0] if isinstance(value, list) and value else value
        whole = not isinstance(inner, dict) or head.count(".") > _DEEPEST or "." in key
        if whole or _kind(name, value) is not None or _is_conversation(value) or _speakers(value):
            yield name, value
        elif isinstance(value, dict):
            yield from _flat(value, f"{name}.")
        else:
            of_first = dict(_flat(inner, f"{name}.*."))
            yield from ((path, [each] * len(value)) for path, each in of_first.items())


def _names_a_text_file(value: Any) -> bool:
    """Return whether a column names a file of text: its name is not what the file says."""
    return isinstance(value, str) and re.fullmatch(r"\S{1,1000}\.(?:txt|json|srt|vtt|lab|trn)", value) is not None


def _count(value: Any) -> int:
    """Return how many media a column holds."""
    return len(value) if isinstance(value, list) else 1


def _speakers(value: Any) -> dict[str, Any] | None:
    """Return what a mapping says of a conversation whose keys have names of their own."""
    turns = _value(value)
    if not isinstance(turns, list) or not turns or not all(isinstance(each, dict) for each in turns):
        return None
    names = {name: _ROLES[tag] for tag in _ROLES for name in ROLE_NAMES[tag]}
    for key in turns[0]:
        said = [each.get(key) for each in turns]
        others = [other for other in turns[0] if other != key and isinstance(turns[0][other], str)]
        if others and all(isinstance(each, str) and each.strip().lower() in names for each in said):
            roles = {each: names[each.strip().lower()] for each in dict.fromkeys(said)}
            longest = max(others, key=lambda name: len(turns[0][name]))
            return {"role": key, "content": next(filter(others.__contains__, _CONTENTS), longest), "roles": roles}
    return None


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
            own = ((name, name.lower().rpartition(".")[2]) for name in columns if columns[name] is not None)
            if found := next((name for name, last in own if fits(last, word)), None):
                return found
    return None
