"""One message of a row, in any of its spellings → a message in Hugging Face's form.

Each message is read by its own keys: `role` or `from`, `content` or `value`, roles in any letter case. Where it has
both keys of a pair they must say the same. What the user named (`tags`) is read under that name alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Final

from vlm_prep.core.errors import Reject, RejectReason
from vlm_prep.core.records import Message
from vlm_prep.core.visible import excerpt
from vlm_prep.ingest.formats.common import (
    REASONING_DETAILS,
    REASONING_KEYS,
    TRAINING_KEYS,
    Row,
    reasoning,
    shown,
    text,
    training_options,
)
from vlm_prep.ingest.formats.content_parts import MEDIA_TYPES, Content, plain_parts, read_parts
from vlm_prep.ingest.formats.media_tags import MediaQueue, Part, has_paths, has_tags, split_tags
from vlm_prep.ingest.formats.message_media import with_own_media
from vlm_prep.ingest.formats.noticed import MESSAGE_KEYS_WITH_MEANING, Noticed, is_empty
from vlm_prep.ingest.formats.spelt_tags import may_hold
from vlm_prep.ingest.formats.tool_calls import ToolCalls, message_calls, written_calls
from vlm_prep.ingest.spec import TOOL_CALL, DatasetSpec

_THOUGHT: Final = re.compile(r"\s*<think>(.*?)</think>\n*", re.DOTALL)
_NO_CALLS: Final = ("null", "[]", "{}")
"""No calls as JSON text, as a column of texts has them."""
_PART_KEYS: Final = frozenset(("offset", "duration"))
"""What NeMo's message of a sound says of its part of the file."""


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """How a row spells its messages."""

    role_keys: tuple[str, ...]
    """Where a message may say its role; the first is the usual one."""
    content_keys: tuple[str, ...]
    roles: dict[str, str]
    """Source role → system, developer, user, assistant, tool or `TOOL_CALL`; see `DatasetSpec.roles`."""
    usual: frozenset[str] = frozenset()
    """The role names of the data set's first row; others are counted."""
    tags_in_text: bool = True
    """Whether `<image>` in a plain string stands for a media."""

    @cached_property
    def plain_roles(self) -> dict[str, str]:
        """The roles of messages that need no second look: a usual name, under the first key, of no tool call."""
        names = self.usual or self.roles.keys()
        return {name: role for name, role in self.roles.items() if name in names and role != TOOL_CALL}

    def role_of(self, written: Any) -> str | None:
        """Return which role a name is, in any letter case; None for what is none."""
        if not isinstance(written, str):
            return None
        return self.roles.get(written) or self.roles.get(written.strip().lower())


def dialect_of(spec: DatasetSpec, *, tags_in_text: bool = True) -> Dialect:
    """Return how the rows of a data set spell their messages."""
    found = spec.dialects.get(tags_in_text)
    if found is None:
        found = spec.dialects[tags_in_text] = Dialect(
            role_keys=spec.role_keys,
            content_keys=spec.content_keys,
            roles=spec.roles,
            usual=spec.usual_roles,
            tags_in_text=tags_in_text,
        )
    return found


def read_turn(turn: Any, dialect: Dialect, queue: MediaQueue, where: str) -> Message:
    """Return a message of a row.

    Raises:
        Reject: any fault of it; `where` begins the message.
    """
    if (plain := _plain_message(turn, dialect, queue)) is not None:
        return plain
    if not isinstance(turn, dict):
        what = f"{where} is {shown(turn)}, not an object"
        nested = isinstance(turn, list) and any(isinstance(each, dict) for each in turn)
        raise Reject(RejectReason.BAD_TYPE, what + ("; the messages stand in a list of their own" if nested else ""))
    noticed = queue.noticed
    role = _role(turn, dialect, where, noticed)
    turn = with_own_media(turn, dialect.content_keys, role, noticed)
    thought = reasoning(turn, role, where, noticed)
    calls = _own_calls(turn, role, where)
    value = _content(turn, dialect, where, noticed)
    kind = turn["type"].lower() if isinstance(turn.get("type"), str) else None
    if isinstance(value, str) and kind in MEDIA_TYPES:  # NeMo: a message that is a media
        value = [{"type": kind, kind: value, **{key: turn[key] for key in _PART_KEYS & turn.keys()}}]
    if role == TOOL_CALL:
        role, content = "assistant", Content(calls=written_calls(value, where))
    elif isinstance(value, list | dict):
        if isinstance(value, dict):
            noticed.note("read_untyped_content")
        parts = value if isinstance(value, list) else [value]
        _require_one_answer(parts, role, where)
        content = read_parts(parts, role, queue, where, lambda written: _string_parts(role, written, dialect, queue))
        if content.hole and not (content.parts or content.calls or calls):
            raise Reject(RejectReason.BAD_TYPE, f"{content.hole}: text is null, not a string")
    elif value is None and calls:
        content = Content()
    elif value is None:
        raise _without_content(turn, dialect, where)
    else:
        key = next((key for key in dialect.content_keys if turn.get(key) is not None), dialect.content_keys[0])
        content = Content(parts=_string_parts(role, text(value, f"{where}: {key}"), dialect, queue))
    _require_one("reasoning", content.reasoning, thought, where, noticed)
    _require_one("tool calls", _functions(content.calls), _functions(calls), where, noticed)
    if role == "assistant" and (said := content.reasoning or thought) and content.parts:
        _without_double(content.parts, said, where, noticed)
    message: Message = {"role": role, "content": content.parts}
    options = {
        "reasoning_content": content.reasoning if not thought and content.reasoning is not None else thought,
        "tool_calls": content.calls or calls or None,
        "name": _own_text(turn, "name", role),
        "tool_call_id": _own_text(turn, "tool_call_id", role),
        **training_options(turn, where, noticed),
    }
    if role != "assistant" and options.get("train"):  # train_on says of which turns it may be said
        key = next(key for key in TRAINING_KEYS if not is_empty(turn.get(key)))
        noticed.unread.setdefault(f"message.{key} of {role} turns", turn[key])
    noticed.refuse(where, turn, MESSAGE_KEYS_WITH_MEANING)
    read = _keys_read(dialect.role_keys, dialect.content_keys, role)
    if all(turn.get(key) is None for key in dialect.content_keys):
        read |= {"text"}
    typed = kind == "text" or (kind in MEDIA_TYPES and isinstance(value, list))
    noticed.leave("message", turn, read | {"type", *_PART_KEYS} if typed else read)
    return message | {key: option for key, option in options.items() if option is not None}


def _plain_message(turn: Any, dialect: Dialect, queue: MediaQueue) -> Message | None:
    """Return a message of a role and a text, or plain parts, under the usual keys, in a third of the time; None for
    any other."""
    if type(turn) is not dict or len(turn) != 2:
        return None
    role, written = turn.get(dialect.role_keys[0]), turn.get(dialect.content_keys[0])
    if type(role) is not str or (known := dialect.plain_roles.get(role)) is None:
        return None
    if type(written) is list:
        made = plain_parts(written, known, queue)
        return None if made is None else {"role": known, "content": made}
    if type(written) is not str:
        return None
    plain = not (queue.strips or may_hold(written))
    parts = [{"type": "text", "text": written}] if plain else _string_parts(known, written, dialect, queue)
    return {"role": known, "content": parts}


def _role(turn: Row, dialect: Dialect, where: str, noticed: Noticed) -> str:
    """Return the role of a message, by whichever of its keys holds one that is known."""
    written = {key: turn[key] for key in dialect.role_keys if not is_empty(turn.get(key))}
    if not written:
        wanted, has = " or ".join(map(repr, dialect.role_keys)), excerpt(turn)
        raise Reject(RejectReason.BAD_TYPE, f"{where} has no role in {wanted}: {has}; name the key with tags.role_tag")
    roles = {key: dialect.role_of(value) for key, value in written.items()}
    known = {role for role in roles.values() if role is not None}
    if not known:
        key, value = next(iter(written.items()))
        if not isinstance(value, str):
            raise Reject(RejectReason.BAD_TYPE, f"{where}: {key} is {shown(value)}, not a string")
        names = ", ".join(repr(name) for name in dialect.roles)
        raise Reject(
            RejectReason.UNKNOWN_ROLE,
            f"{where} has the role {excerpt(value)}; known are {names}. Name others with tags.user_tag, "
            "tags.assistant_tag, tags.system_tag, tags.tool_tag or tags.tool_call_tag",
        )
    if len(known) > 1:
        both = " and ".join(f"{key} {excerpt(value)}" for key, value in written.items())
        raise Reject(RejectReason.BAD_ROW, f"{where}: {both} are different roles; name the key with tags.role_tag")
    for key, role in roles.items():
        if role is None:
            noticed.unread.setdefault(f"message.{key}", written[key])
    first = written.get(dialect.role_keys[0])
    if len(written) > 1 or first is None or (dialect.usual and first not in dialect.usual):
        noticed.note("read_other_tags")
    return known.pop()


@lru_cache(maxsize=64)
def _keys_read(role_keys: tuple[str, ...], content_keys: tuple[str, ...], role: str) -> frozenset[str]:
    own = {
        "tool": ("name", "tool_call_id"),
        "assistant": ("tool_calls", "function_call", *REASONING_KEYS, REASONING_DETAILS),
    }
    return frozenset((*role_keys, *content_keys, *TRAINING_KEYS, *own.get(role, ())))


def _content(turn: Row, dialect: Dialect, where: str, noticed: Noticed) -> Any:
    """Return what a message says, under whichever of its keys.

    Raises:
        Reject: BAD_ROW, two keys hold different things.
    """
    filled = {key: turn[key] for key in dialect.content_keys if turn.get(key) is not None}
    if not filled and len(dialect.content_keys) > 1 and isinstance(turn.get("text"), str):  # Open Assistant's name
        filled = {"text": turn["text"]}
    if not filled:
        return None
    (first, value), *others = filled.items()
    for key, other in others:
        if other != value:
            both = f"{first} ({excerpt(value)}) and {key} ({excerpt(other)})"
            raise Reject(RejectReason.BAD_ROW, f"{where}: {both} differ; name one with tags.content_tag")
    if others or first != dialect.content_keys[0]:
        noticed.note("read_other_tags")
    return value


def _without_content(turn: Row, dialect: Dialect, where: str) -> Reject:
    """Return the reject of a message that says nothing, with what else it has."""
    key = next((key for key in dialect.content_keys if key in turn), None)
    if key is None:
        wanted, has = " or ".join(map(repr, dialect.content_keys)), ", ".join(map(excerpt, turn))
        return Reject(RejectReason.BAD_TYPE, f"{where} has no {wanted}, but {has}; name the key with tags.content_tag")
    known = (*dialect.role_keys, *dialect.content_keys)
    others = [f"{name} ({excerpt(turn[name])})" for name in turn if name not in known and not is_empty(turn[name])]
    more = f"; nobody reads its {' and '.join(others[:3])} in place of it" if others else ""
    return Reject(RejectReason.BAD_TYPE, f"{where}: {key} is null, not a string{more}")


def _string_parts(role: str, written: str, dialect: Dialect, queue: MediaQueue) -> list[Part]:
    if dialect.tags_in_text or ("<" in written and has_paths(written)):
        return text_parts(role, written, queue)
    return [{"type": "text", "text": written}]


def text_parts(role: str, written: str, queue: MediaQueue) -> list[Part]:
    """Return a text as parts: the tags in it are media, except in an answer."""
    if role == "assistant" and queue.tags_in != "answers":
        queue.note_text(written, "answers")
    elif role == "user" or queue.spelt or has_tags(written):
        return split_tags(written, queue)
    elif may_hold(written):
        queue.note_names(written)
    return [{"type": "text", "text": written}]


def _require_one_answer(parts: list[Any], role: str, where: str) -> None:
    """Refuse an answer of several texts and nothing else: the pieces of one, or answers that are all right (VQA).

    Raises:
        Reject: BAD_ROW.
    """
    if role == "assistant" and len(parts) > 1 and all(isinstance(part, str) for part in parts):
        what = (
            f"{where} is a list of {len(parts)} texts ({excerpt(parts)}), the pieces of one answer or several answers"
        )
        raise Reject(RejectReason.BAD_ROW, f"{what}; write one text, or the pieces as parts of type text")


def _require_one(what: str, inside: Any, beside: Any, where: str, noticed: Noticed) -> None:
    """Refuse a message that says other things in its content than beside it; equal ones are one.

    Raises:
        Reject: BAD_ROW.
    """
    if not inside or not beside:
        return
    if inside != beside:
        both = f"{what} in its content ({excerpt(inside)}) and beside it ({excerpt(beside)})"
        raise Reject(RejectReason.BAD_ROW, f"{where}: {both} differ; keep one")
    noticed.note("read_doubles")


def _functions(calls: ToolCalls) -> list[Any]:
    return [call["function"] for call in calls]


def _without_double(parts: list[Part], thought: str, where: str, noticed: Noticed) -> None:
    """Leave reasoning out of a text that begins with it, where its own field says the same.

    Raises:
        Reject: BAD_ROW, they differ.
    """
    found = _THOUGHT.match(parts[0].get("text", ""))
    if found is None:
        return
    if found[1].strip() != thought.strip():
        both = f"<think> in the text ({excerpt(found[1])}) and the reasoning beside it ({excerpt(thought)})"
        raise Reject(RejectReason.BAD_ROW, f"{where}: {both} differ; keep one")
    parts[0] = {**parts[0], "text": parts[0]["text"][found.end() :]}
    noticed.note("read_doubles")


def _own_calls(turn: Row, role: str, where: str) -> ToolCalls:
    """Return the calls beside the content; `function_call` is OpenAI's older key for a single one."""
    given = {key: turn[key] for key in ("tool_calls", "function_call") if turn.get(key) and not is_empty(turn[key])}
    given = {key: value for key, value in given.items() if value not in _NO_CALLS}
    if not given:
        return []
    if role != "assistant":
        raise Reject(RejectReason.BAD_TOOL_CALL, f"{where}: tool calls outside an assistant message")
    read = {key: message_calls(value, f"{where}: {key}" if len(given) > 1 else where) for key, value in given.items()}
    calls, *others = read.values()
    if any(_functions(each) != _functions(calls) for each in others):
        both = " and ".join(f"{key} ({excerpt(value)})" for key, value in given.items())
        raise Reject(RejectReason.BAD_TOOL_CALL, f"{where}: {both} are different calls; keep one")
    return calls


def _own_text(turn: Row, key: str, role: str) -> str | None:
    value = turn.get(key)
    return value if role == "tool" and isinstance(value, str) else None
