"""Messages as other makers' APIs and tables write them → messages of roles and typed parts, as the other modules read.

    Anthropic   content blocks tool_use (a call) and tool_result (a tool's turn, inside of the user's)
    Gemini      {"contents": [{"role": "model", "parts": [...]}], "systemInstruction": {"parts": [...]}}
    LangChain   see `langchain`
    pairs       {"human": ..., "assistant": ...} (ms-swift; any role names), {"system", "input", "output"} (XTuner)
    tables      content that is typed parts, or one, as JSON text, since a column has one type

One message may become several: a tool's result is a turn of its own, where it stands. Content as JSON text is read
where every question and answer of the row that says something has it, or one that is no answer has a media among its
parts; else a text that looks like it may be about JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from vlm_prep.core.errors import Reject, RejectReason
from vlm_prep.core.row_json import RepeatedKeyError, RowJsonError, parse_row
from vlm_prep.core.visible import excerpt
from vlm_prep.ingest.formats.common import TRAINING_KEYS, Row
from vlm_prep.ingest.formats.content_parts import MEDIA_TYPES, PART_TYPES
from vlm_prep.ingest.formats.langchain import is_langchain, of_langchain
from vlm_prep.ingest.formats.letter_case import KEY_CASE, message_of_usual_case
from vlm_prep.ingest.formats.noticed import Noticed, is_empty
from vlm_prep.ingest.formats.row_turns import Dialect
from vlm_prep.ingest.spec import ROLE_NAMES, TOOL_CALL

_USE, _RESULT = "tool_use", "tool_result"
_RESULT_KEYS: Final = frozenset(("type", "tool_use_id", "content"))
_SYSTEM: Final = ("systemInstruction", "system_instruction")
_SNAKE: Final = {
    "inlineData": "inline_data",
    "fileData": "file_data",
    "functionCall": "function_call",
    "functionResponse": "function_response",
    "videoMetadata": "video_metadata",
}
_ASKS: Final = frozenset(("input", *ROLE_NAMES["user_tag"]))
_ANSWERS: Final = frozenset(("output", *ROLE_NAMES["assistant_tag"]))
_OFFSETS: Final = {"startOffset": "start", "start_offset": "start", "endOffset": "end", "end_offset": "end"}
_STARTS: Final = ("[", "{", " ", "\n", "\r", "\t")
"""What JSON as text may begin with."""
_PART_KINDS: Final = ("text", "inline_data", "file_data", "function_call", "function_response")


def of_gemini(row: Row) -> Row:
    """Return a row of Gemini's `contents` with the usual names of its columns; any other row as it is."""
    if "contents" not in row or not is_empty(row.get("messages")) or not _has_parts(row["contents"]):
        return row
    row = {key: value for key, value in row.items() if key != "messages"}
    found = {("messages" if key == "contents" else "system" if key in _SYSTEM else key): row[key] for key in row}
    return found if len(found) == len(row) else row  # named twice: the row's own fault


def _has_parts(turns: Any) -> bool:
    return isinstance(turns, list) and any(isinstance(each, dict) and "parts" in each for each in turns)


def usual_turns(turns: list[Any], dialect: Dialect, noticed: Noticed) -> tuple[list[Any], Sequence[int]]:
    """Return the messages in their usual form, and of each the number of the one it was, from 1.

    Raises:
        Reject: BAD_ROW, a part that is not known.
    """
    key = dialect.content_keys[0]
    for turn in turns:
        if type(turn) is dict and type(said := turn.get(key)) is str and said[:1] not in _STARTS and len(turn) == 2:
            continue  # as most are
        if is_langchain(turn) or (isinstance(turn, dict) and _is_other(turn, dialect)):
            break
    else:
        return turns, range(1, len(turns) + 1)
    turns = of_langchain(turns, dialect.role_of, (dialect.role_keys[0], dialect.content_keys[0]), noticed)
    own = (*dialect.role_keys, *dialect.content_keys)
    cased = [message_of_usual_case(turn, own) if isinstance(turn, dict) else turn for turn in turns]
    if any(one is not other for one, other in zip(cased, turns, strict=True)):
        noticed.note(KEY_CASE)
    turns = _from_text(cased, dialect, noticed)
    found: list[Any] = []
    numbers: list[int] = []
    called: dict[str, str] = {}
    for number, turn in _with_joined_calls(turns, dialect, noticed):
        made = list(_made(turn, dialect, noticed, called, f"message {number}")) if isinstance(turn, dict) else [turn]
        found += made
        numbers += [number] * len(made)
    return found, numbers


def system_parts(value: Any, noticed: Noticed) -> Any:
    """Return a system prompt of Gemini's `parts` as typed parts; any other as it is."""
    if not isinstance(value, dict) or not isinstance(given := value.get("parts"), list | dict | str):
        return value
    noticed.note("read_gemini")
    listed = given if isinstance(given, list) else [given]
    return [_gemini_part(part, f"the system column, part {n}") for n, part in enumerate(listed)]


def _is_other(turn: Row, dialect: Dialect) -> bool:
    if "parts" in turn or _pair_of(turn) is not None or message_of_usual_case(turn, ()) is not turn:
        return True
    for key in dialect.content_keys:
        value = turn.get(key)
        if isinstance(value, list):
            return any(isinstance(part, dict) and part.get("type") in (_USE, _RESULT) for part in value)
        if isinstance(value, dict) or (isinstance(value, str) and value.lstrip().startswith(("[{", "{"))):
            return True
    return False


def _pair_of(turn: Row) -> tuple[str | None, str, str] | None:
    """Return the keys of a system prompt, a question and its answer, where a message is an object of them."""
    if not 2 <= len(turn) <= 3:
        return None
    asks, answers = turn.keys() & _ASKS, turn.keys() & _ANSWERS
    if len(asks) != 1 or len(answers) != 1 or not turn.keys() - asks - answers <= {"system"}:
        return None
    return "system" if len(turn) == 3 else None, next(iter(asks)), next(iter(answers))


def _of_pair(turn: Row, keys: tuple[str | None, str, str], dialect: Dialect) -> Iterator[Row]:
    for key, role in zip(keys, ("system", "user", "assistant"), strict=True):
        if key is not None and (role != "system" or turn.get(key)):
            name = next(name for name, meant in dialect.roles.items() if meant == role)
            yield {dialect.role_keys[0]: name, dialect.content_keys[0]: turn[key]}


def _from_text(turns: list[Any], dialect: Dialect, noticed: Noticed) -> list[Any]:
    """Return the messages with content as JSON text parsed, see this module."""
    parsed: list[Row | None] = []
    decides, plain = False, False
    for turn in turns:
        made = None
        for key in dialect.content_keys if isinstance(turn, dict) else ():
            roles = {dialect.role_of(turn.get(each)) for each in dialect.role_keys}
            answers = "assistant" in roles
            if (parts := _typed_parts(turn.get(key), answers=answers)) is not None:
                made = {**(made or turn), key: parts}
                is_list = turn[key].startswith("[")  # an object alone may be what a question is about
                decides |= is_list and not answers and any(part["type"] in MEDIA_TYPES for part in parts)
            else:
                plain |= isinstance(turn.get(key), str) and turn[key] != "" and bool(roles & {"user", "assistant"})
        parsed.append(made)
    if not any(parsed) or (plain and not decides):
        return turns
    noticed.note("read_json_text")
    return [turn if made is None else made for turn, made in zip(turns, parsed, strict=True)]


def _with_joined_calls(turns: list[Any], dialect: Dialect, noticed: Noticed) -> list[tuple[int, Any]]:
    """Return the messages with their numbers; calls in turns of their own belong to the answer or the calls before
    them, since no result stands between: one turn, as ms-swift trains them, and as a model writes it."""
    found: list[tuple[int, Any]] = []
    calls: list[Any] | None = None
    for number, turn in enumerate(turns, 1):
        before, calls = calls, _lone_call(turn, dialect)
        at, one = found[-1] if found else (0, {})
        if calls is None or not (before or _is_plain_answer(one, dialect)):
            found.append((number, turn))
            continue
        noticed.note("read_joined_calls")
        key = "tool_calls" if "tool_calls" in one or not before else _content_key(one, dialect)
        calls = [*(before or ()), *calls]
        found[-1] = at, {**one, key: calls}
    return found


def _lone_call(turn: Any, dialect: Dialect) -> list[Any] | None:
    """Return the calls of a turn of a role and calls alone, mostly as JSON text; None for others."""
    filled = {key: value for key, value in turn.items() if not is_empty(value)} if isinstance(turn, dict) else {}
    if len(filled) != 2 or TOOL_CALL not in map(dialect.role_of, filled.values()):
        return None
    said = next((filled[key] for key in dialect.content_keys if key in filled), None)
    if isinstance(said, str) and said.lstrip().startswith("["):
        try:
            said, _ = parse_row(said.encode())
        except (RowJsonError, UnicodeEncodeError):
            return None  # said where the turn is read
    one = isinstance(said, dict) or (isinstance(said, str) and said.lstrip().startswith("{"))
    return [said] if one else said if isinstance(said, list) and said else None


def _is_plain_answer(turn: Any, dialect: Dialect) -> bool:
    """Whether a message is the assistant's, a text without calls or options of its own."""
    if not isinstance(turn, dict) or "assistant" not in (dialect.role_of(turn.get(key)) for key in dialect.role_keys):
        return False
    options = ("tool_calls", "function_call", *TRAINING_KEYS)
    return isinstance(turn.get(_content_key(turn, dialect)), str) and all(is_empty(turn.get(key)) for key in options)


def _content_key(turn: Row, dialect: Dialect) -> str:
    return next((key for key in dialect.content_keys if turn.get(key) is not None), dialect.content_keys[0])


def _typed_parts(value: Any, *, answers: bool) -> list[Row] | None:
    if not isinstance(value, str) or not value.startswith(("[{", "{")):
        return None
    try:
        parts, _ = parse_row(value.encode())
    except (RowJsonError, UnicodeEncodeError) as error:
        if isinstance(error, RepeatedKeyError) and '"type"' in value and not answers:
            raise Reject(RejectReason.DUPLICATE_KEY, f"the content as JSON text: {error}") from error
        return None
    parts = [parts] if isinstance(parts, dict) else parts
    is_typed = all(isinstance(part, dict) and str(part.get("type")) in PART_TYPES for part in parts)
    return list(parts) if is_typed else None


def _made(turn: Row, dialect: Dialect, noticed: Noticed, called: dict[str, str], where: str) -> Iterator[Row]:
    """Yield what a message becomes: itself, two of a pair, or its parts and a tool's turn for each result."""
    if keys := _pair_of(turn):
        noticed.note("read_pairs")
        yield from _of_pair(turn, keys, dialect)
        return
    given = turn.get("parts")
    has_role = any(turn.get(key) for key in dialect.role_keys)  # without one it is a reject, in the row's own words
    if has_role and isinstance(given, list | dict | str) and not any(turn.get(key) for key in dialect.content_keys):
        noticed.note("read_gemini")
        listed = given if isinstance(given, list) else [given]
        parts: Any = [_gemini_part(part, f"{where}, part {n}") for n, part in enumerate(listed)]
        turn = {key: value for key, value in turn.items() if key != "parts"} | {dialect.content_keys[0]: parts}
    else:
        parts = next((turn[key] for key in dialect.content_keys if isinstance(turn.get(key), list)), ())
    blocks = [part for part in parts if isinstance(part, dict) and part.get("type") in (_USE, _RESULT)]
    if not blocks:
        yield turn
        return
    noticed.note("read_tool_blocks")
    others = {key: value for key, value in turn.items() if key not in (*dialect.content_keys, *dialect.role_keys)}
    own = {key: turn[key] for key in dialect.role_keys if key in turn}
    kept: list[Any] = []
    for place, part in enumerate(parts):
        if not isinstance(part, dict) or part.get("type") != _RESULT:
            kept.append(_call(part, called) if isinstance(part, dict) and part.get("type") == _USE else part)
            continue
        if kept:
            yield {**own, dialect.content_keys[0]: kept, **others}
            kept, others = [], {}
        yield _result(part, dialect, noticed, called, f"{where}, part {place}") | others
        others = {}
    if kept:
        yield {**own, dialect.content_keys[0]: kept, **others}


def _call(block: Row, called: dict[str, str]) -> Row:
    if isinstance(block.get("id"), str) and isinstance(block.get("name"), str):
        called[block["id"]] = block["name"]
    call = {key: block[key] for key in ("id", "name", "input") if block.get(key) is not None}
    return {key: value for key, value in block.items() if key not in call} | {"type": "tool_call", "tool_call": call}


def _result(block: Row, dialect: Dialect, noticed: Noticed, called: Mapping[str, str], where: str) -> Row:
    """A tool's turn; that the call failed is no word of it, and said as unread."""
    noticed.leave("part", {key: value for key, value in block.items() if value is not False}, _RESULT_KEYS | {"name"})
    asked, content = block.get("tool_use_id"), block.get("content")
    role = next(name for name, role in dialect.roles.items() if role == "tool")
    name = block.get("name") or called.get(str(asked))
    if isinstance(content, dict):
        raise Reject(RejectReason.BAD_ROW, f"{where}: the content of a tool_result is an object ({excerpt(content)})")
    said = {"tool_call_id": asked, "name": name}
    return {
        dialect.role_keys[0]: role,
        dialect.content_keys[0]: "" if content is None else content,
        **{key: value for key, value in said.items() if value is not None},
    }


def _gemini_part(part: Any, where: str) -> Any:
    """Return one of Gemini's parts as a typed part."""
    if not isinstance(part, dict):
        return part
    given: Row = {_SNAKE.get(str(key), str(key)): value for key, value in part.items() if value is not None}
    kinds = [kind for kind in _PART_KINDS if kind in given]
    if len(kinds) != 1:
        what = " and ".join(kinds) if kinds else f"none of {', '.join(_PART_KINDS)}"
        raise Reject(RejectReason.BAD_ROW, f"{where} has {what}: {excerpt(part)}")
    (kind,) = kinds
    value = given.pop(kind)
    if kind == "text":
        thought = given.pop("thought", False) is True
        return {"type": "reasoning" if thought else "text", "text": value, **given}
    if not isinstance(value, dict):
        raise Reject(RejectReason.BAD_TYPE, f"{where}: {kind} is {excerpt(value)}, not an object")
    if kind == "function_call":
        call = {"arguments" if key == "args" else key: each for key, each in value.items() if each is not None}
        return {"type": "tool_call", "tool_call": {"arguments": {}, **call}, **given}
    if kind == "function_response":
        names = {"tool_use_id": value.get("id"), "name": value.get("name")}
        return {"type": _RESULT, "content": _written(value.get("response"), where), **names, **given}
    return _gemini_media(kind, value, given, where)


def _written(response: Any, where: str) -> str:
    """What a function gave, as chat templates write an object."""
    if response is None or isinstance(response, str):
        return response or ""
    try:
        return json.dumps(response, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise Reject(RejectReason.BAD_TYPE, f"{where}: the response is no JSON: {excerpt(response)}") from error


def _gemini_media(kind: str, value: Row, given: Row, where: str) -> Row:
    mime, uri = value.get("mime_type", value.get("mimeType")), value.get("file_uri", value.get("fileUri"))
    found = str(mime).partition("/")[0]
    if found not in ("image", "video", "audio"):
        message = f"{where}: {kind} has the mime_type {excerpt(mime)}, which is no picture, video or sound"
        raise Reject(RejectReason.UNSUPPORTED_MEDIA, message)
    part: Row = {"type": found, **({"data": value.get("data")} if kind == "inline_data" else {"path": uri})}
    options = given.pop("video_metadata", None)
    for key, seconds in options.items() if isinstance(options, dict) else ():
        name = _OFFSETS.get(str(key), str(key))
        part[name] = _seconds(seconds, f"{where}: {key}") if name in ("start", "end") else seconds
    return part | given


def _seconds(written: Any, what: str) -> float:
    """`"12.5s"`, as protocol buffers write a duration."""
    try:
        return float(str(written).removesuffix("s"))
    except ValueError as error:
        raise Reject(RejectReason.BAD_MEDIA_ENTRY, f"{what} is {excerpt(written)}, not seconds as '12.5s'") from error
