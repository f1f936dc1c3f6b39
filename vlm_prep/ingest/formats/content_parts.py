"""A content list of typed parts → text and media parts, reasoning and tool calls.

    {"type": "text", "text" | "value": ..., "train": ..., "weight": ...}     text may be {"value": ...}
    {"type": "image" | "image_url" | "video" | "video_url" | "audio" | "audio_url" | "input_audio", ...}
                                                                   with a reference, or bare
    {"type": "reasoning" | "thinking", ...}                        must come first: templates print it first
    {"type": "tool_call" | "tool_calls", ...}                      must come last: templates print it last

A plain text among the parts is a text part, and a part without a type is of the kind of its only filled key; a null is
none. A part of another type, or in a place where a template would move it, rejects the row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

from vlm_prep.core.errors import Reject, RejectReason
from vlm_prep.core.records import MediaKind
from vlm_prep.core.visible import excerpt
from vlm_prep.ingest.formats.common import TRAINING_KEYS, Row, shown, text, training_options
from vlm_prep.ingest.formats.entries import (
    CONTENT_KEYS,
    READ_KEYS,
    REFERENCE_KEYS,
    entry_of_usual_case,
    flat,
    media_from,
    with_frames,
    with_path,
)
from vlm_prep.ingest.formats.entry_options import require_applied
from vlm_prep.ingest.formats.letter_case import KEY_CASE, of_usual_case
from vlm_prep.ingest.formats.media_tags import MediaQueue, Part, TextPlace, split_tags
from vlm_prep.ingest.formats.noticed import is_empty
from vlm_prep.ingest.formats.tool_calls import ToolCalls, written_calls

_BARE: Final = ("image", "video", "audio")
MEDIA_TYPES: dict[str, MediaKind] = {
    "image": "image",
    "image_url": "image",
    "image_path": "image",
    "img": "image",
    "picture": "image",
    "input_image": "image",
    "video": "video",
    "video_url": "video",
    "video_path": "video",
    "audio": "audio",
    "audio_url": "audio",
    "audio_path": "audio",
    "input_audio": "audio",
    "sound": "audio",
}
_TEXT_TYPES = ("text", "input_text", "output_text")
_REASONING_TYPES = ("reasoning", "thinking")
_CALL_TYPES = ("tool_call", "tool_calls")
PART_TYPES = frozenset((*_TEXT_TYPES, *MEDIA_TYPES, *_REASONING_TYPES, *_CALL_TYPES))
_KEYS: Final = PART_TYPES.union(READ_KEYS, TRAINING_KEYS, ("type", "content", "source", "frames", "index", "function"))
"""Keys of parts, which are known in any letter case."""


@dataclass(slots=True)
class Content:
    """What a message's content holds."""

    parts: list[Part] = field(default_factory=list)
    reasoning: str | None = None
    calls: ToolCalls = field(default_factory=list)
    hole: str | None = None
    """The name of a text part that holds nothing."""


def read_parts(
    parts: list[Any],
    role: str,
    queue: MediaQueue,
    where: str,
    as_text: Callable[[str], list[Part]] = lambda text: [{"type": "text", "text": text}],
) -> Content:
    """Return the content that a list of typed parts describes.

    Args:
        parts: objects, or texts.
        role: of the message.
        queue: the row's media.
        where: what messages of rejects begin with.
        as_text: how a plain text is read.

    Raises:
        Reject: BAD_ROW, an unknown part or one out of place; or the fault of its media or call.
    """
    content = Content()
    for place, part in enumerate(parts):
        name = f"{where}, part {place}"
        if part is None or (isinstance(part, dict) and all(value is None for value in part.values())):
            queue.noticed.note("read_untyped_content")  # a hole in a table's list
        elif isinstance(part, str):
            queue.noticed.note("read_untyped_content")
            content.parts += as_text(part)
        elif isinstance(part, dict):
            given = _given(part, queue)
            if given.get("type") in _TEXT_TYPES and len(given) == 1:  # what a table makes of a part of another row
                queue.noticed.note("read_untyped_content")
                content.hole = name
                continue
            _read_part(_with_media(_typed(given, queue, name), queue), role, content, queue, name)
        else:
            raise Reject(RejectReason.BAD_TYPE, f"{name} is {shown(part)}, not an object or a text")
    return content


def _given(part: Row, queue: MediaQueue) -> Row:
    """Return a part without nulls, its keys in their usual letter case."""
    cased = entry_of_usual_case(of_usual_case(part, _KEYS))
    if cased is not part:
        queue.noticed.note(KEY_CASE)
    return {key: value for key, value in cased.items() if value is not None}


def plain_parts(parts: list[Any], role: str, queue: MediaQueue) -> list[Part] | None:
    """Return what `read_parts` makes of texts and of media of the row's columns, all without options, in half of the
    time; None for any other parts, of which the queue is not told."""
    if (queue.tags_in == "parts" or queue.spelt) and role != "assistant":
        return None
    for part in parts:
        if type(part) is not dict:
            return None
        kind = part.get("type")
        if kind == "text":
            if len(part) != 2 or type(part.get("text")) is not str:
                return None
        elif len(part) != 1 or kind not in _BARE:
            return None
    told: TextPlace = "answers" if role == "assistant" else "parts"
    made: list[Part] = []
    for part in parts:
        if part["type"] == "text":
            queue.note_text(part["text"], told)
            made.append({"type": "text", "text": part["text"]})
        else:
            made.append(queue.place_next(part["type"]))
    return made


def _with_media(part: Row, queue: MediaQueue) -> Row:
    """Return a part of media with what Anthropic puts into `source` beside its type, and a list of one as that one."""
    kind = part.get("type")
    if kind in ("image", "image_url", "audio", "audio_url") and isinstance(part.get(kind), list):
        if len(part[kind]) != 1:
            return part
        queue.noticed.note("read_nested_media")
        return {**part, kind: part[kind][0]}
    if kind == "video":
        part = with_frames(part)
    source = part.get("source")
    if not isinstance(source, dict) or kind not in ("image", "video", "audio"):
        return part
    inner = {key: value for key, value in source.items() if key not in ("type", "media_type") and value is not None}
    return {key: value for key, value in part.items() if key != "source"} | inner


def _typed(part: Row, queue: MediaQueue, where: str) -> Row:
    """Return a part with its type, which the only key that holds something tells where none is given."""
    if "type" in part:
        kind = part["type"]
        if isinstance(kind, str) and kind not in PART_TYPES and kind.lower() in PART_TYPES:
            queue.noticed.note("read_untyped_content")
            return {**part, "type": kind.lower()}
        return part
    kinds = [key for key in ("text", *MEDIA_TYPES) if not is_empty(part.get(key))]
    if not kinds and set(part) == {"text"}:
        kinds = ["text"]
    if len(kinds) > 1:
        both = " and ".join(f"{key} ({excerpt(part[key])})" for key in kinds)
        raise _bad(f"{where} has no type, and {both}; give each a part of its own")
    if not kinds:
        return part
    queue.noticed.note("read_untyped_content")
    return {"type": kinds[0], **part}


def _read_part(part: Row, role: str, content: Content, queue: MediaQueue, where: str) -> None:
    kind = part.get("type")
    if kind in (*_REASONING_TYPES, *_CALL_TYPES):
        _require_no_options(part, where, queue)
    if kind in _REASONING_TYPES:
        _read_reasoning(part, role, content, where)
    elif kind in _CALL_TYPES:
        _read_calls(part, role, content, where)
    elif kind not in _TEXT_TYPES and not (isinstance(kind, str) and kind in MEDIA_TYPES):
        what = f"is of the unknown type {excerpt(kind)}"
        if kind is None:
            what = f"has no type: {excerpt(part)} (an object that is a text is written as one)"
        raise _bad(f"{where} {what}; known are text, {', '.join((*MEDIA_TYPES, *_REASONING_TYPES, *_CALL_TYPES))}")
    elif content.calls:
        raise _bad(f"{where} follows a tool call; chat templates put tool calls last")
    elif kind in _TEXT_TYPES:
        _refuse_other(part, MEDIA_TYPES, where)
        options = training_options(part, where, queue.noticed)
        if isinstance(inner := part.get("text"), dict) and "value" in inner:  # as threads of OpenAI's Assistants
            queue.noticed.note("read_untyped_content")
            queue.noticed.leave("text", inner, frozenset(("value",)))
            part = {**part, "text": inner["value"]}
        written = _part_text(part, where)
        if (queue.tags_in == "parts" or queue.spelt) and role != "assistant":
            content.parts += [{**each, **options} for each in split_tags(written, queue)]
        else:
            queue.note_text(written, "answers" if role == "assistant" else "parts")
            content.parts.append({"type": "text", "text": written, **options})
    else:
        if isinstance(part.get("content"), str) and not part.keys() & {*REFERENCE_KEYS, *CONTENT_KEYS}:
            queue.noticed.note("read_untyped_content")
            part = {("path" if key == "content" else key): value for key, value in part.items()}
        elif (read := with_path(part)) is not part:
            queue.noticed.note("read_untyped_content")
            part = read
        _refuse_other(part, ("text", "content"), where)
        content.parts.append(_media_part(part, MEDIA_TYPES[kind], queue, where))
    # a media may stand with its options one level below: {"image_url": {"url": ..., "detail": ...}}
    queue.noticed.leave("part", flat(part) if kind in MEDIA_TYPES else part, _part_keys(str(kind)))


def _refuse_other(part: Row, keys: Iterable[str], where: str) -> None:
    """Refuse a part that holds a text and a media: which comes first is not said."""
    if other := next((key for key in keys if not is_empty(part.get(key))), None):
        raise _bad(f"{where} is of type {part['type']} and has {other} ({excerpt(part[other])}) too; give each a part")


@cache
def _part_keys(kind: str) -> frozenset[str]:
    if kind in _TEXT_TYPES:
        return frozenset(("type", "text", "value", "content", kind, *TRAINING_KEYS))
    if kind in MEDIA_TYPES:
        return READ_KEYS | {"type", "index"}
    return frozenset(("type", "text", "value", "content", kind, "function", "tool_calls", *TRAINING_KEYS))


def _require_no_options(part: Row, where: str, queue: MediaQueue) -> None:
    """Reject options that would be lost: reasoning and calls are masked by settings of the run, not part by part."""
    options = training_options(part, where, queue.noticed)
    if options.get("train") is False or "weight" in options:
        raise _bad(
            f"{where}: train and weight of a {part['type']} part are not read; give them to the message, or use "
            "--no-train-reasoning or --no-train-tool-calls"
        )


def _part_text(part: Row, where: str) -> str:
    keys = [key for key in ("text", "value", "content", part["type"]) if key in part]
    return text(part[keys[0]] if keys else None, f"{where}: text")


def _read_reasoning(part: Row, role: str, content: Content, where: str) -> None:
    if role != "assistant" or content.parts or content.calls:
        raise _bad(f"{where} is reasoning; it may only come first in an assistant message")
    content.reasoning = (content.reasoning or "") + _part_text(part, where)


def _read_calls(part: Row, role: str, content: Content, where: str) -> None:
    keys = [key for key in ("value", "tool_calls", "tool_call", "function") if key in part]
    if role != "assistant" or not keys:
        raise _bad(f"{where} is not a tool call of an assistant message")
    content.calls += written_calls(part[keys[0]], where)


def _media_part(part: Row, kind: MediaKind, queue: MediaQueue, where: str) -> Part:
    if not part.keys() & {*REFERENCE_KEYS, *CONTENT_KEYS}:
        return _bare_part(part, kind, queue, where)
    given = flat(part)
    if all(is_empty(given.get(key)) for key in (*REFERENCE_KEYS, *CONTENT_KEYS)):  # "" is no media, as null
        if not queue.has_next(kind):
            name = next(key for key in part if key in REFERENCE_KEYS or key in CONTENT_KEYS)
            raise Reject(
                RejectReason.MISSING_MEDIA,
                f"{where} is of type {part['type']} and its {name} is {excerpt(part[name])}, nor has the row's column "
                f"({kind}s, `columns` names another) one for it; give it a path, or leave the part out",
            )
        queue.noticed.note("read_empty_media")
        return _bare_part(part, kind, queue, where)
    return queue.place(media_from(part, kind, queue.media_dir, where, queue.noticed.ignored))


def _bare_part(part: Row, kind: MediaKind, queue: MediaQueue, where: str) -> Part:
    require_applied(part, kind, where, queue.noticed.ignored)
    if "fps" in part or "frame_indices" in part:
        message = f"{where}: fps and frame_indices of a bare part belong in the column's entry"
        raise Reject(RejectReason.BAD_MEDIA_ENTRY, message)
    if "index" in part and part["index"] != queue.asked(kind):
        raise _bad(f"{where} asks for {kind} {part['index']!r}; parts must take the column's entries in order")
    return queue.place_next(kind)


def _bad(message: str) -> Reject:
    return Reject(RejectReason.BAD_ROW, message)
