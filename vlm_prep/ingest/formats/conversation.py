"""A row's messages, however they are spelt → Sample: the path that all formats share.

Each message becomes one message: nothing is merged, reordered or left out, so turn n of the Sample is turn n
of the row (a system column adds one in front; a tool's result inside of a message is one of its own). The last step
writes everything as canonical JSON once: what cannot be stored (half a surrogate pair, nesting past JSON's limit) is
rejected here and not in the middle of a shard.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from vlm_prep.core.errors import Reject, RejectReason
from vlm_prep.core.fingerprint import canonical_json
from vlm_prep.core.records import Media, Message, Sample
from vlm_prep.core.visible import excerpt
from vlm_prep.ingest.formats.common import REASONING_KEYS, Row, column, parsed_list, shown, text
from vlm_prep.ingest.formats.content_parts import read_parts
from vlm_prep.ingest.formats.entry_options import RATE_KEYS
from vlm_prep.ingest.formats.media_columns import media_columns
from vlm_prep.ingest.formats.media_tags import MediaQueue
from vlm_prep.ingest.formats.named_tags import by_name
from vlm_prep.ingest.formats.noticed import (
    ROW_KEYS_WITH_MEANING,
    Noticed,
    is_empty,
    looks_like_media,
    media_role,
    unread_key,
)
from vlm_prep.ingest.formats.row_parts import SEGMENT_KEYS, part_of_row, rate_of_row
from vlm_prep.ingest.formats.row_turns import Dialect, read_turn, text_parts
from vlm_prep.ingest.formats.tool_calls import tool_schemas
from vlm_prep.ingest.formats.usual_turns import system_parts, usual_turns
from vlm_prep.ingest.spec import DatasetSpec

_SEVERAL: Final = ("responses", "choices", "candidates", "answers")
_ANSWERS: Final = ("response", "completion", "output", "answer", "solution", *_SEVERAL)
"""Columns that may hold an answer which the messages lack."""


@dataclass(frozen=True, kw_only=True)
class RowPlace:
    """Which row it is."""

    sample_id: str
    source: str
    line: int


def build_sample(
    turns: Any, row: Row, spec: DatasetSpec, dialect: Dialect, place: RowPlace, noticed: Noticed, read: tuple[str, ...]
) -> Sample:
    """Turn a row's messages, media, tools and system prompt into a Sample.

    Args:
        turns: the messages.
        row: the whole row.
        spec: the data set.
        dialect: how messages are spelt.
        place: which row it is.
        noticed: takes what is noticed.
        read: the column roles that gave the messages.

    Raises:
        Reject: any fault of the row.
    """
    turns = parsed_list(turns, "the messages are", noticed, lenient=spec.lenient_json)
    if isinstance(turns, dict):
        turns = _of_lists(turns, dialect, noticed)
    if not isinstance(turns, list):
        raise Reject(RejectReason.BAD_TYPE, f"the messages are {shown(turns)}, not a list")
    turns, numbers = usual_turns(turns, dialect, noticed)
    noticed.refuse("the row", row, ROW_KEYS_WITH_MEANING)
    _refuse_reasoning(row, noticed)
    if not spec.media_keys.isdisjoint(row):
        turns, row = by_name(turns, row, spec, noticed)
    queue, lead, messages = _read_turns(turns, numbers, row, spec, dialect, noticed)
    try:
        media = queue.placed()
    except Reject as reject:
        raise _with_unread(reject, row, _read_keys(spec, read), noticed.unread) from reject
    cut = part_of_row(row, media, noticed)
    rated = rate_of_row(row, cut, noticed)
    noticed.refuse_grounding(row, messages)
    if (masked := row.get("mask_history")) is not None and "mask_history" not in noticed.ignored:
        _mask_history(masked, messages, noticed)
    strings = _strings([*(lead if _is_added(lead, messages) else []), *messages], turns, dialect)
    messages = _with_lead(lead, messages)
    tools = tool_schemas(column(row, spec, "tools", noticed), lenient=spec.lenient_json)
    require_storable(messages, tools, media)
    keys = _read_keys(spec, read)
    keys = keys if cut == media else keys | SEGMENT_KEYS
    noticed.leave("row", row, keys if rated == cut else keys.union(RATE_KEYS))
    return Sample(
        sample_id=place.sample_id,
        dataset=spec.name,
        source=place.source,
        line=place.line,
        messages=messages,
        strings=strings,
        media=tuple(rated),
        tools=tools,
        notes=tuple(sorted(noticed.notes)),
        unread=noticed.unread,
    )


def _refuse_reasoning(row: Row, noticed: Noticed) -> None:
    """Refuse a row whose reasoning stands beside its messages; one word ("on") says of what kind the row is.

    Raises:
        Reject: UNREAD_KEY.
    """
    for key in REASONING_KEYS:
        said = row.get(key)
        if isinstance(said, str) and len(said.split()) > 1 and key not in noticed.ignored:
            meaning = "may be the reasoning of an answer, which is read as reasoning_content of its message"
            raise unread_key("the row", key, said, meaning)


def _read_turns(
    turns: list[Any], numbers: Sequence[int], row: Row, spec: DatasetSpec, dialect: Dialect, noticed: Noticed
) -> tuple[MediaQueue, list[Message], list[Message]]:
    """Return a row's media as its turns ask for them, the message of its system column, if any, and its messages; read
    in the one other way in which each media has a placeholder, where there is one."""
    columns, system = media_columns(row, spec, noticed), system_parts(column(row, spec, "system", noticed), noticed)

    def read(**how: Any) -> tuple[MediaQueue, list[Message], list[Message]]:
        repeats, strips = spec.repeated_tags == "same", spec.tag_blanks == "strip"
        queue = MediaQueue(columns, spec.media_dir, noticed, repeats=repeats, strips=strips, **how)
        lead = _system_prompt(system, queue)
        named = zip(turns, numbers, strict=True)
        return queue, lead, [read_turn(turn, dialect, queue, f"message {number}") for turn, number in named]

    queue, lead, messages = read()
    require_conversation(messages, row)
    queue.drop_doubles()
    if other := queue.other_reading():
        queue, lead, messages = read(**other[1])
        noticed.note(other[0])
    if spec.missing_tags == "first":
        queue.place_first(messages)
    return queue, lead, messages


def _with_unread(reject: Reject, row: Row, read: frozenset[str], parts: Mapping[str, Any]) -> Reject:
    """Return the reject of media that do not fit their tags, with the columns of media and the keys of `parts` that
    nobody reads."""
    if reject.reason is not RejectReason.MEDIA_COUNT_MISMATCH:
        return reject
    unread = [key for key in row if key not in read and looks_like_media(row[key])]
    own = [f"{key} ({excerpt(value)})" for key, value in parts.items() if key.startswith("part.")]
    said = " and ".join(f"{excerpt(key)} ({excerpt(row[key])})" for key in unread[:3])
    more = (
        f"; nobody reads the row's {said}: `columns` says what it holds, e.g. {media_role(row[unread[0]])}={unread[0]}"
        if unread
        else ""
    )
    if own:
        more += f"; nobody reads {' and '.join(own[:3])}"
    return Reject(reject.reason, reject.message + more)


def _of_lists(turns: Row, dialect: Dialect, noticed: Noticed) -> Any:
    """Return a conversation that is lists side by side, as `datasets` keeps a Sequence; any other as it is."""
    lists = [value for value in turns.values() if isinstance(value, list)]
    is_whole = len(lists) == len(turns) and len(set(map(len, lists))) == 1
    if not is_whole or not all(any(key in turns for key in keys) for keys in (dialect.role_keys, dialect.content_keys)):
        return turns
    noticed.note("read_turns_by_key")
    return [dict(zip(turns, values, strict=True)) for values in zip(*lists, strict=True)]


def _read_keys(spec: DatasetSpec, read: tuple[str, ...]) -> frozenset[str]:
    """Return the columns that a row of conversation is read by."""
    found = spec.keys_read.get(read)
    if found is None:
        names = (spec.column_names(role) for role in (*read, "tools", "system", "id"))
        found = spec.keys_read[read] = spec.media_keys.union(("mask_history",), *names)
    return found


def _system_prompt(value: Any, queue: MediaQueue) -> list[Message]:
    if value is None or value == "":
        return []
    if isinstance(value, list | dict):  # Anthropic's blocks
        parts = value if isinstance(value, list) else [value]
        return [{"role": "system", "content": read_parts(parts, "system", queue, "the system column").parts}]
    return [{"role": "system", "content": text_parts("system", text(value, "the system column"), queue)}]


def _is_added(lead: list[Message], messages: list[Message]) -> bool:
    return bool(lead) and messages[0] != lead[0]


def _strings(messages: list[Message], turns: list[Row], dialect: Dialect) -> tuple[int, ...]:
    """Return which messages are plain strings in the source, see `Sample.strings`."""
    added = len(messages) - len(turns)  # a system column is a string
    found = []
    for number, message in enumerate(messages):
        if len(message["content"]) != 1 or not isinstance(text := message["content"][0].get("text"), str):
            continue
        turn = turns[number - added] if number >= added else None
        if turn is None or any(_is_written(turn.get(key), text) for key in dialect.content_keys):
            found.append(number)
    return tuple(found)


def _is_written(value: Any, text: str) -> bool:
    """Whether a plain string became a text, perhaps without the blanks at its ends (`tag_blanks`) or the reasoning
    before it that stands beside it, too."""
    if not isinstance(value, str):
        return False
    return value == text or value.strip() == text or ("<think>" in value and value.endswith(text))


def _with_lead(lead: list[Message], messages: list[Message]) -> list[Message]:
    if not _is_added(lead, messages):
        return messages
    if other := next((message for message in messages if message["role"] == "system"), None):
        both = " and ".join(
            excerpt("".join(part.get("text", "") for part in each["content"])) for each in (lead[0], other)
        )
        raise Reject(RejectReason.BAD_ROW, f"the system column and a system message differ: {both}; keep one of them")
    return lead + messages


def _mask_history(masked: Any, messages: list[Message], noticed: Noticed) -> None:
    """Apply LLaMA-Factory's and ms-swift's mask_history: only the last answer is trained."""
    if not isinstance(masked, bool):
        raise Reject(RejectReason.BAD_TYPE, f"mask_history is {shown(masked)}, not true or false")
    answers = [message for message in messages if message["role"] == "assistant"]
    for message in answers[:-1] if masked else ():
        if message.get("train"):
            raise Reject(
                RejectReason.BAD_TYPE, "mask_history and a message that says to train it contradict each other"
            )
        message["train"] = False
    noticed.note("read_training_keys")


# ---- the whole conversation ----


def require_conversation(messages: list[Message], row: Row) -> None:
    """Check that something is said, some of it by the assistant.

    Raises:
        Reject: EMPTY_CONVERSATION, NO_ASSISTANT_TURN.
    """
    if not any(_says_something(message) for message in messages):
        raise Reject(RejectReason.EMPTY_CONVERSATION, "no message says anything")
    if not any(message["role"] == "assistant" for message in messages):
        beside = next((key for key in _ANSWERS if not is_empty(row.get(key))), None)
        more = (
            f"; nobody reads the row's {beside} ({excerpt(row[beside])}): a message of the assistant says it"
            if beside
            else ""
        )
        message = f"no message is the assistant's; there is nothing to train on{more}"
        raise Reject(RejectReason.NO_ASSISTANT_TURN, message)


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
        what = next(filter(None, map(_unstorable, (messages, tools))), "it is nested too deeply")
        raise Reject(RejectReason.BAD_TYPE, f"the row cannot be written as JSON: {what}") from error


def _unstorable(value: Any) -> str | None:
    """Say which value in others is none of JSON's in 64 bits; None where there is none."""
    stack = [value]
    while stack:
        each = stack.pop()
        if isinstance(each, dict | list):
            stack += (*each.keys(), *each.values()) if isinstance(each, dict) else each
        elif isinstance(each, str) and each != (whole := each.encode(errors="ignore").decode()):
            return f"half a surrogate pair stands in {excerpt(each)}, without which it is {excerpt(whole)}"
        elif isinstance(each, float) and not math.isfinite(each):
            return f"{each} is no number of JSON; write null or a text"
        elif isinstance(each, int) and each.bit_length() > 63 and not 0 <= each < 1 << 64:
            return f"{excerpt(each)} is a whole number beyond 64 bits; write it as a text"
        elif not isinstance(each, str | int | float | None):
            return f"{excerpt(each)} is no value of JSON"
    return None
