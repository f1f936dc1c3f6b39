"""What a raw row says, read a second way: rows of the usual forms, by some lines that know no setting.

The comparison with the real processor starts from the conversation and the media that are stored; that they are the
row's own is seen here. Judged are messages of texts, with media by tags or parts, with tools as objects, in JSON
as in tables; rows of any other form (other names, reasoning, options, media that were found otherwise) are not.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from vlm_prep.core.errors import ExactnessError, Reject
from vlm_prep.core.records import Encoded, Message
from vlm_prep.ingest.raw_samples import RawSamples
from vlm_prep.ingest.row_source import OUTSIDE, RowSource
from vlm_prep.ingest.source import Samples
from vlm_prep.ingest.table_files import TableIndex
from vlm_prep.media.probe import ALPHA, FIRST_FRAME, MIRRORED, SOUND_OFFSET, VARIABLE_RATE
from vlm_prep.media.table_rows import read_row
from vlm_prep.processors.left_out import CROPPED, FRAMES_CAPPED
from vlm_prep.tokenize.chat.template import ChatTemplate
from vlm_prep.tokenize.token_hook import CHANGED

_KEYS: Final = ({"role", "content"}, {"from", "value"}, {"role", "content", "tool_calls"})
_ROLES: Final = {name: name for name in ("user", "assistant", "system", "tool")} | {"human": "user", "gpt": "assistant"}
_COLUMNS: Final = {f"{kind}{end}": kind for kind in ("image", "video", "audio") for end in ("", "s")}
_TAG: Final = re.compile("(<image>|<video>|<audio>)")
_TAGGED: Final = re.compile("<(?:img|image|video|audio|think|tool)", re.IGNORECASE)
_NO_CHANGE: Final = frozenset(
    (OUTSIDE, FIRST_FRAME, SOUND_OFFSET, VARIABLE_RATE, FRAMES_CAPPED, CROPPED, CHANGED, ALPHA, MIRRORED)
)
"""Notes of rows whose messages and media are as the row has them."""


@dataclass
class PlainRow:
    """A row as it says itself."""

    messages: list[Message] = field(default_factory=list)
    """As `apply_chat_template` would be given them."""
    media: list[tuple[str, str | None]] = field(default_factory=list)
    """Kind and path as written, in order; None for bytes in the row."""
    tools: list[dict[str, Any]] | None = None


class _OtherFormError(Exception):
    """The row is not of a form that is judged."""


def plain_row(row: Any) -> PlainRow | None:
    """Return what a raw row says; None for other forms."""
    try:
        return _plain_row(row)
    except _OtherFormError:
        return None


def _plain_row(row: Any) -> PlainRow:
    _need(isinstance(row, dict))
    names = row.keys() - {"id", "tools"} - _COLUMNS.keys()
    _need(names in ({"messages"}, {"conversations"}))
    turns = row[names.pop()]
    _need(isinstance(turns, list) and all(isinstance(each, dict) and set(each) in _KEYS for each in turns))
    said = PlainRow(tools=row.get("tools"))
    _need(said.tools is None or (isinstance(said.tools, list) and bool(said.tools)))
    _need(all(isinstance(each, dict) and each.get("type") == "function" for each in said.tools or ()))
    columns: dict[str, list[str | None]] = {}
    for name, kind in _COLUMNS.items():
        if name in row:
            _need(kind not in columns)
            columns[kind] = _entries(row[name])
    for turn in turns:
        role, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
        _need(isinstance(role, str) and role in _ROLES)
        message: Message = {"role": _ROLES[role], "content": _content(content, _ROLES[role], columns, said)}
        if calls := turn.get("tool_calls"):
            message["tool_calls"] = _calls(calls)
        said.messages.append(message)
    _need(not any(columns.values()))
    return said


def _need(what: bool) -> None:
    if not what:
        raise _OtherFormError


def _entries(value: Any) -> list[str | None]:
    """Paths of a media column, None for bytes."""
    found: list[str | None] = []
    for each in value if isinstance(value, list) else [value]:
        if isinstance(each, dict) and isinstance(each.get("bytes"), bytes) and not each.keys() - {"bytes", "path"}:
            found.append(None)
            continue
        path = each["path"] if isinstance(each, dict) and each.keys() == {"path"} else each
        _need(isinstance(path, str) and bool(path) and not path.startswith("data:"))
        found.append(path)
    return found


def _content(content: Any, role: str, columns: dict[str, list[str | None]], said: PlainRow) -> Any:
    if isinstance(content, str):
        pieces = [piece for piece in _TAG.split(content) if piece] if columns else [content]
        _need(not any(_TAGGED.search(piece) for piece in pieces if not _TAG.fullmatch(piece)))
        if len(pieces) < 2 and not _TAG.search(content):
            return content
        _need(role == "user")
        parts: Any = [
            {"type": piece[1:-1]} if _TAG.fullmatch(piece) else {"type": "text", "text": piece} for piece in pieces
        ]
    else:
        parts = content
    _need(isinstance(parts, list) and all(isinstance(part, dict) for part in parts))
    return [_part(part, columns, said) for part in parts]


def _part(part: dict[str, Any], columns: dict[str, list[str | None]], said: PlainRow) -> dict[str, Any]:
    kind, others = str(part.get("type")), part.keys() - {"type"}
    if kind == "text":
        _need(others == {"text"} and isinstance(part["text"], str) and not _TAGGED.search(part["text"]))
        return part
    _need(_COLUMNS.get(kind) == kind and others in (set(), {kind}))
    if others:
        (path,) = _entries(part[kind]) if not isinstance(part[kind], list) else ("",)
        _need(path != "")
    else:
        _need(bool(columns.get(kind)))
        path = columns[kind].pop(0)
    said.media.append((kind, path))
    return {"type": kind}


def _calls(calls: Any) -> list[dict[str, Any]]:
    _need(isinstance(calls, list))
    for call in calls:
        _need(isinstance(call, dict) and call.get("type") == "function" and isinstance(call.get("function"), dict))
        _need(not call.keys() - {"type", "function", "id"} and call["function"].keys() == {"name", "arguments"})
        _need(isinstance(call["function"]["arguments"], dict))
    return list(calls)


def _filled(value: Any) -> Any:
    """A table's value without the keys of structs that the row does not fill."""
    if isinstance(value, dict):
        return {key: _filled(each) for key, each in value.items() if each is not None}
    return [_filled(each) for each in value] if isinstance(value, list) else value


def _raw(source: RowSource, place: int) -> Any:
    if isinstance(source.index, TableIndex):
        file, row = source.index.place(int(source.picks[place]))
        return _filled(read_row(source.index.files[file], row))
    try:
        return json.loads(source.raw(place))
    except ValueError:
        return None


def require_own_words(samples: Samples, number: int, encoded: Encoded, template: ChatTemplate) -> None:
    """Compare a document with its raw row, if that is of a usual form: what the template makes of both, and the media.

    Raises:
        ExactnessError: the stored conversation or media are not what the row says.
    """
    if not isinstance(samples, RawSamples) or not _NO_CHANGE.issuperset(encoded.notes):
        return
    source, place = samples.locate(number)
    spec = source.spec
    asked = (spec.mapping, spec.encoding, spec.lenient_json, spec.row_hook, spec.system_prompt, spec.user_prompt)
    if (
        spec.is_mock
        or spec.is_outside
        or spec.given_tags
        or spec.given_columns
        or (spec.repeated_tags, spec.tag_blanks) != ("reject", "keep")
        or any(each is not None for each in asked if each is not False)
    ):
        return
    said = plain_row(_raw(source, place))
    if said is None or not template.findings.strings:
        return
    stored = json.loads(encoded.conversation)
    beginning = said.messages[: len(stored["messages"])]
    media = said.media[: sum(_media_of(message) for message in beginning)]
    # transformers' processors hand an empty list to the template in place of an empty text
    given = [{**each, "content": each["content"] or []} for each in _with_animations(beginning, encoded)]
    text = _rendered(template, given, said.tools)
    if (text is None or _rendered(template, stored["messages"], stored.get("tools")) == text) and _are(
        media, encoded, spec
    ):
        return
    row = {"messages": beginning, "media": media}
    kept = {"messages": stored["messages"], "media": [_uri(each) for each in encoded.media]}
    raise ExactnessError(
        f"{encoded.sample_id}: the conversation that would be stored is not what its row says:\n  "
        f"stored {json.dumps(kept)[:400]}\n  row    {json.dumps(row)[:400]}",
        "nothing of this run should be trained on; please report it with the row",
    )


def _with_animations(messages: Sequence[Message], encoded: Encoded) -> list[Message]:
    """Return messages with pictures as videos where they are animations that were read as such (`multi_frame`)."""
    stored = iter(encoded.media)
    found = []
    for message in messages:
        content = message["content"]
        if not isinstance(content, str):
            content = [
                {**part, "type": "video"} if part["type"] != "text" and _is_animation(next(stored, None)) else part
                for part in content
            ]
        found.append({**message, "content": content})
    return found


def _is_animation(stored: Mapping[str, Any] | None) -> bool:
    return stored is not None and stored["kind"] == "video" and stored["decoder"] == "pillow"


def _media_of(message: Message) -> int:
    content = message["content"]
    return 0 if isinstance(content, str) else sum(part["type"] != "text" for part in content)


def _are(said: Sequence[tuple[str, str | None]], encoded: Encoded, spec: Any) -> bool:
    """Whether stored media are those that a row names; a path that is not there as written was found otherwise."""
    if len(said) != len(encoded.media):
        return False
    for (kind, path), stored in zip(said, encoded.media, strict=True):
        if stored["kind"] != kind and not _is_animation(stored):
            return False
        there = os.path.join(spec.media_dir, path) if path is not None else ""
        if os.path.isfile(there) and os.path.realpath(there) != os.path.realpath(_uri(stored)):
            return False
    return True


def _uri(stored: Mapping[str, Any]) -> str:
    return str(stored["files"][0]["uri"])


def _rendered(template: ChatTemplate, messages: Sequence[Message], tools: Any) -> str | None:
    try:
        return template.render(messages, tools)
    except Reject:
        return None
