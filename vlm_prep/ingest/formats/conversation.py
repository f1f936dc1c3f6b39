"""A row's messages, however they are spelt → Sample: the path that all formats share.

Each message becomes one message: nothing is merged, reordered or left out, so turn n of the Sample is turn n
of the row (a system column adds one in front). The last step writes everything as canonical JSON once: what
cannot be stored (half a surrogate pair, nesting past JSON's limit) is rejected here and not in the middle of
a shard.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vlm_prep.core.errors import Reject, RejectReason
from vlm_prep.core.fingerprint import canonical_json
from vlm_prep.core.records import Media, MediaKind, Message, Sample
from vlm_prep.ingest.formats.common import Row, column, reasoning, text, training_options, type_name
from vlm_prep.ingest.formats.content_parts import Content, read_parts
from vlm_prep.ingest.formats.entries import column_entries
from vlm_prep.ingest.formats.media_tags import MediaQueue, Part, has_tags, split_tags
from vlm_prep.ingest.formats.tool_calls import ToolCalls, message_calls, tool_schemas, written_calls
from vlm_prep.ingest.spec import TOOL_CALL, DatasetSpec


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """How a row spells its messages."""

    role_key: str
    content_key: str
    roles: dict[str, str]
    """Source role → system, developer, user, assistant, tool or `TOOL_CALL`."""
    tags_in_text: bool = True
    """Whether `<image>` in a plain string stands for a media."""


def build_sample(
    turns: Any, row: Row, spec: DatasetSpec, dialect: Dialect, *, sample_id: str, source: str, line: int
) -> Sample:
    """Turn a row's messages, media, tools and system prompt into a Sample.

    Raises:
        Reject: any fault of the row.
    """
    if not isinstance(turns, list):
        raise Reject(RejectReason.BAD_TYPE, f"the messages are {type_name(turns)}, not a list")
    queue = MediaQueue(_media_columns(row, spec), spec.media_dir)
    lead = _system_prompt(column(row, spec, "system"), queue)
    messages = [_message(turn, dialect, queue, f"message {n}") for n, turn in enumerate(turns, 1)]
    _require_conversation(messages)
    queue.require_balance()
    messages = _with_lead(lead, messages)
    tools = tool_schemas(column(row, spec, "tools"))
    require_storable(messages, tools, queue.placed)
    return Sample(
        sample_id=sample_id,
        dataset=spec.name,
        source=source,
        line=line,
        messages=messages,
        media=tuple(queue.placed),
        tools=tools,
    )


def _media_columns(row: Row, spec: DatasetSpec) -> dict[MediaKind, list[Media]]:
    return {
        "image": column_entries(column(row, spec, "images"), "image", spec.media_dir),
        "video": column_entries(column(row, spec, "videos"), "video", spec.media_dir),
        "audio": column_entries(column(row, spec, "audios"), "audio", spec.media_dir),
    }


def _system_prompt(value: Any, queue: MediaQueue) -> list[Message]:
    if value is None or value == "":
        return []
    return [{"role": "system", "content": _text_parts("system", text(value, "the system column"), queue)}]


def _with_lead(lead: list[Message], messages: list[Message]) -> list[Message]:
    if not lead or messages[0] == lead[0]:
        return messages
    if any(message["role"] == "system" for message in messages):
        raise Reject(RejectReason.BAD_ROW, "the system column and a system message differ; keep one of them")
    return lead + messages


# ---- one message ----


def _message(turn: Any, dialect: Dialect, queue: MediaQueue, where: str) -> Message:
    if not isinstance(turn, dict):
        raise Reject(RejectReason.BAD_TYPE, f"{where} is {type_name(turn)}, not an object")
    role = _role(turn, dialect, where)
    thought = reasoning(turn, role, where)
    calls = _own_calls(turn, role, where)
    value = turn.get(dialect.content_key)
    if role == TOOL_CALL:
        role, content = "assistant", Content(calls=written_calls(value, where))
    elif isinstance(value, list):
        content = read_parts(value, role, queue, where)
    elif value is None and calls:
        content = Content()
    else:
        content = Content(
            parts=_string_parts(role, text(value, f"{where}: {dialect.content_key}"), dialect, queue)
        )
    if (calls and content.calls) or (thought is not None and content.reasoning is not None):
        raise Reject(
            RejectReason.BAD_ROW, f"{where} has reasoning or tool calls both in its content and beside it"
        )
    message: Message = {"role": role, "content": content.parts}
    options = {
        "reasoning_content": content.reasoning if thought is None else thought,
        "tool_calls": content.calls or calls or None,
        "name": _own_text(turn, "name", role),
        "tool_call_id": _own_text(turn, "tool_call_id", role),
        **training_options(turn, where),
    }
    return message | {key: option for key, option in options.items() if option is not None}


def _role(turn: Row, dialect: Dialect, where: str) -> str:
    written = turn.get(dialect.role_key)
    if not isinstance(written, str):
        raise Reject(
            RejectReason.BAD_TYPE, f"{where}: {dialect.role_key} is {type_name(written)}, not a string"
        )
    role = dialect.roles.get(written)
    if role is None:
        known = ", ".join(repr(name) for name in dialect.roles)
        raise Reject(
            RejectReason.UNKNOWN_ROLE,
            f"{where} has the role {written!r}; known are {known}. Name others with tags.user_tag, "
            "tags.assistant_tag, tags.system_tag, tags.tool_tag or tags.tool_call_tag",
        )
    return role


def _string_parts(role: str, written: str, dialect: Dialect, queue: MediaQueue) -> list[Part]:
    return _text_parts(role, written, queue) if dialect.tags_in_text else [{"type": "text", "text": written}]


def _text_parts(role: str, written: str, queue: MediaQueue) -> list[Part]:
    if role == "assistant":
        queue.note_text(written)
    elif role == "user" or has_tags(written):
        return split_tags(written, queue)
    return [{"type": "text", "text": written}]


def _own_calls(turn: Row, role: str, where: str) -> ToolCalls:
    """Return the calls beside the content; `function_call` is OpenAI's older key for a single one."""
    value = turn.get("tool_calls") or ([turn["function_call"]] if turn.get("function_call") else None)
    if value is None:
        return []
    if role != "assistant":
        raise Reject(RejectReason.BAD_TOOL_CALL, f"{where}: tool calls outside an assistant message")
    return message_calls(value, where)


def _own_text(turn: Row, key: str, role: str) -> str | None:
    value = turn.get(key)
    return value if role == "tool" and isinstance(value, str) else None


# ---- the whole conversation ----


def _require_conversation(messages: list[Message]) -> None:
    if not any(_says_something(message) for message in messages):
        raise Reject(RejectReason.EMPTY_CONVERSATION, "no message says anything")
    if not any(message["role"] == "assistant" for message in messages):
        raise Reject(
            RejectReason.NO_ASSISTANT_TURN, "no message is the assistant's; there is nothing to train on"
        )


def _says_something(message: Message) -> bool:
    said = any(part["type"] != "text" or part["text"].strip() for part in message["content"])
    return said or "tool_calls" in message or bool(message.get("reasoning_content"))


def require_storable(messages: list[Message], tools: Any, media: list[Media]) -> None:
    """Check that a sample can be written as JSON.

    Raises:
        Reject: BAD_TYPE.
    """
    try:
        canonical_json([messages, tools, [each.uris for each in media]])
    except TypeError as error:  # orjson's encode error
        raise Reject(RejectReason.BAD_TYPE, f"the row cannot be written as JSON: {error}") from error
