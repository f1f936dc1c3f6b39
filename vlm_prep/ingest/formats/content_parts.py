"""A content list of typed parts → text and media parts, reasoning and tool calls.

    {"type": "text", "text" | "value": ..., "train": ..., "weight": ...}
    {"type": "image" | "image_url" | "video" | "video_url" | "audio" | "audio_url" | "input_audio", ...}
                                                                   with a reference, or bare
    {"type": "reasoning" | "thinking", ...}                        must come first: templates print it first
    {"type": "tool_call" | "tool_calls", ...}                      must come last: templates print it last

A part of another type, or in a place where a template would move it, rejects the row.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from vlm_prep.core.errors import Reject, RejectReason
from vlm_prep.core.records import MediaKind
from vlm_prep.ingest.formats.common import Row, text, training_options, type_name
from vlm_prep.ingest.formats.entries import CONTENT_KEYS, REFERENCE_KEYS, media_from, require_applied
from vlm_prep.ingest.formats.media_tags import MediaQueue, Part
from vlm_prep.ingest.formats.tool_calls import ToolCalls, written_calls

_MEDIA_TYPES: dict[str, MediaKind] = {
    "image": "image",
    "image_url": "image",
    "video": "video",
    "video_url": "video",
    "audio": "audio",
    "audio_url": "audio",
    "input_audio": "audio",
}
_REASONING_TYPES = ("reasoning", "thinking")
_CALL_TYPES = ("tool_call", "tool_calls")


@dataclass(slots=True)
class Content:
    """What a message's content holds."""

    parts: list[Part] = field(default_factory=list)
    reasoning: str | None = None
    calls: ToolCalls = field(default_factory=list)


def read_parts(parts: list[Any], role: str, queue: MediaQueue, where: str) -> Content:
    """Return the content that a list of typed parts describes.

    Raises:
        Reject: BAD_ROW, an unknown part or one out of place; or the fault of its media or call.
    """
    content = Content()
    for place, part in enumerate(parts):
        if not isinstance(part, dict):
            raise Reject(RejectReason.BAD_TYPE, f"{where}, part {place} is {type_name(part)}, not an object")
        given = {key: value for key, value in part.items() if value is not None}
        _read_part(given, role, content, queue, f"{where}, part {place}")
    return content


def _read_part(part: Row, role: str, content: Content, queue: MediaQueue, where: str) -> None:
    kind = part.get("type")
    if kind in (*_REASONING_TYPES, *_CALL_TYPES):
        _require_no_options(part, where)
    if kind in _REASONING_TYPES:
        _read_reasoning(part, role, content, where)
    elif kind in _CALL_TYPES:
        _read_calls(part, role, content, where)
    elif kind != "text" and not (isinstance(kind, str) and kind in _MEDIA_TYPES):
        raise _bad(f"{where} is of the unknown type {kind!r}")
    elif content.calls:
        raise _bad(f"{where} follows a tool call; chat templates put tool calls last")
    elif kind == "text":
        content.parts.append({"type": "text", "text": _part_text(part, where), **training_options(part, where)})
    else:
        content.parts.append(_media_part(part, _MEDIA_TYPES[kind], queue, where))


def _require_no_options(part: Row, where: str) -> None:
    """Reject options that would be lost: reasoning and calls are masked by settings of the run, not part by part."""
    options = training_options(part, where)
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
    return queue.place(media_from(part, kind, queue.media_dir, where))


def _bare_part(part: Row, kind: MediaKind, queue: MediaQueue, where: str) -> Part:
    require_applied(part, kind, where)
    if "fps" in part or "frame_indices" in part:
        message = f"{where}: fps and frame_indices of a bare part belong in the column's entry"
        raise Reject(RejectReason.BAD_MEDIA_ENTRY, message)
    if "index" in part and part["index"] != queue.asked(kind):
        raise _bad(
            f"{where} asks for {kind} {part['index']!r}; parts must take the column's entries in order"
        )
    return queue.place_next(kind)


def _bad(message: str) -> Reject:
    return Reject(RejectReason.BAD_ROW, message)
