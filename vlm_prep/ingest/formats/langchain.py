"""LangChain's messages → messages of a role and a content.

message.model_dump()      {"type": "human", "content": ..., "additional_kwargs": {}, ...}
message_to_dict(message)  {"type": "human", "data": {"content": ..., ...}}
dumps(message)            {"lc": 1, "type": "constructor", "id": [..., "HumanMessage"], "kwargs": {"content": ...}}
tuples                    ["human", "..."]
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from vlm_prep.core.errors import Reject, RejectReason
from vlm_prep.core.visible import excerpt
from vlm_prep.ingest.formats.common import Row
from vlm_prep.ingest.formats.noticed import Noticed, is_empty
from vlm_prep.ingest.formats.tool_calls import message_calls

_EXTRA: Final = "additional_kwargs"
_HOISTED: Final = ("tool_calls", "function_call", "reasoning_content")
"""What a message keeps among its `additional_kwargs` as the model's API gave it."""


def of_langchain(
    turns: list[Any], role_of: Callable[[Any], str | None], keys: tuple[str, str], noticed: Noticed
) -> list[Any]:
    """Return messages with LangChain's as others write them; the list itself where none is one.

    Args:
        turns: the messages.
        role_of: which role a name is; None for none.
        keys: under which a message has its role and its content.
        noticed: takes what is noticed.

    Raises:
        Reject: BAD_TOOL_CALL, a message has two sets of calls.
    """
    if turns and all(_is_pair(turn) and role_of(turn[0]) is not None for turn in turns):
        noticed.note("read_langchain")
        return [dict(zip(keys, turn, strict=True)) for turn in turns]
    found = [_plain(turn, role_of, keys, number) for number, turn in enumerate(turns, 1)]
    if all(one is other for one, other in zip(found, turns, strict=True)):
        return turns
    noticed.note("read_langchain")
    return found


def is_langchain(turn: Any) -> bool:
    """Whether a message may be one of LangChain's."""
    return _is_pair(turn) or (isinstance(turn, dict) and "type" in turn)


def _is_pair(turn: Any) -> bool:
    return isinstance(turn, list) and len(turn) == 2 and isinstance(turn[0], str) and isinstance(turn[1], str | list)


def _plain(turn: Any, role_of: Callable[[Any], str | None], keys: tuple[str, str], number: int) -> Any:
    if not isinstance(turn, dict) or any(not is_empty(turn.get(key)) for key in ("role", "from", keys[0])):
        return turn
    kind, inner = turn.get("type"), turn
    if kind == "constructor" and isinstance(turn.get("kwargs"), dict):
        inner, names = turn["kwargs"], turn.get("id")
        named = names[-1] if isinstance(names, list) and names and isinstance(names[-1], str) else ""
        kind = inner.get("type") or named.removesuffix("Message")
    elif isinstance(turn.get("data"), dict) and "content" not in turn:
        inner = turn["data"]
    if role_of(kind) is None or "content" not in inner:
        return turn
    message = {key: value for key, value in inner.items() if key not in ("type", "example")}
    return {keys[0]: kind, **_hoisted(message, number)}


def _hoisted(message: Row, number: int) -> Row:
    extra = message.get(_EXTRA)
    if not isinstance(extra, dict):
        return message
    given = {key: extra[key] for key in _HOISTED if not is_empty(extra.get(key))}
    own = message.get("tool_calls")
    if "tool_calls" in given and not is_empty(own):
        one, other = (_functions(calls, number) for calls in (given.pop("tool_calls"), own))
        if one != other:
            both = f"{_EXTRA} ({excerpt(extra['tool_calls'])}) and tool_calls ({excerpt(own)})"
            raise Reject(RejectReason.BAD_TOOL_CALL, f"message {number}: {both} are different calls; keep one")
    rest = {key: value for key, value in extra.items() if key not in _HOISTED}
    return {**{key: value for key, value in message.items() if key != _EXTRA}, _EXTRA: rest, **given}


def _functions(calls: Any, number: int) -> list[Any]:
    return [call["function"] for call in message_calls(calls, f"message {number}")]
