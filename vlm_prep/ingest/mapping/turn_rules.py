"""The turns of a mapping → the messages of a row, as a list of typed parts.

    - user: [image, "Describe this image."]          a turn: media, templates and values, in their order
    - assistant: "{caption}"
    - {user: "{question2}", optional: true}           left out where it says nothing
    - {each: qa, turns: [{user: "{q}"}, ...]}         for each object of a list; of lists side by side: each: [q, a]
    - {conversation: chats, strip: true, ...}         a column that holds a conversation, as objects or as JSON text

Media are bare parts (`{"type": "image"}`), which take the entries of the media columns in order, or name their own
entry (`{image: cover}`). Nothing here looks at a media.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from vlm_prep.core.errors import Reject, RejectReason
from vlm_prep.core.visible import excerpt
from vlm_prep.ingest.mapping.pieces import KINDS, Kind, Pieces, Tag, pieces_of, says_something
from vlm_prep.ingest.mapping.scope import Absent, Scope
from vlm_prep.ingest.mapping.values import Reader, Value

Turn = dict[str, Any]
ROLES: Final = ("system", "user", "assistant", "developer", "tool")
SKIPPED_TURNS: Final = "read_skipped_turns"
"""Note of a row with turns that its mapping leaves out."""
_USUAL_ROLES: Final = {
    **{role: role for role in ROLES},
    "human": "user",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "observation": "tool",
}
_OWN: Final = ("optional", "train", "weight")
_EXACT: Final = re.compile(r"(<image>|<video>|<audio>)", re.IGNORECASE)
_SPACED: Final = re.compile(r"(<image\s*>|<video\s*>|<audio\s*>)", re.IGNORECASE)


@dataclass(slots=True)
class Made:
    """What the turns of a mapping make of a row."""

    turns: list[Turn] = field(default_factory=list)
    notes: set[str] = field(default_factory=set)


Rule = Callable[[Scope, Made], None]


@dataclass(frozen=True, slots=True)
class Style:
    """How texts are written down."""

    strip: bool = False
    """Without blanks at the ends of what stands between media; what is empty then is left out."""
    media_first: bool = False
    """All tags of a turn taken out, and one media of each kind that it names before its text."""


def read_turns(reader: Reader, written: Any, style: Style) -> list[Rule]:
    """Return the rules that a list of turns says.

    Raises:
        InputError: one says nothing that is known.
    """
    if not isinstance(written, list) or not written:
        hint = 'For example: turns: [{user: [image, "What is this?"]}, {assistant: "{caption}"}]'
        raise reader.bad(f"turns is {excerpt(written)}, not a list of turns", hint)
    return [_rule(reader, each, style) for each in written]


def _rule(reader: Reader, written: Any, style: Style) -> Rule:
    if not isinstance(written, Mapping):
        raise reader.bad(f"a turn is {excerpt(written)}, not an object such as {{user: ...}}")
    if "each" in written:
        return _each(reader, written, style)
    if "conversation" in written:
        return _conversation(reader, written, style)
    roles = [role for role in ROLES if role in written]
    if len(roles) != 1:
        raise reader.bad(f"a turn has no role, or several: {excerpt(written)}", f"Roles: {', '.join(ROLES)}.")
    role = roles[0]
    reader.keys(written, (role, *_OWN), f"the turn {role!r}")
    optional = written.get("optional", False)
    if not isinstance(optional, bool):
        raise reader.bad(f"optional is {excerpt(optional)}, not true or false")
    items = written[role] if isinstance(written[role], list) else [written[role]]
    contents = [_content(reader, item, required=not optional) for item in items]
    options = {name: written[name] for name in ("train", "weight") if name in written}

    def turn(scope: Scope, made: Made) -> None:
        found: list[Any] = []
        for content in contents:
            found += content(scope)
        texts = Pieces(piece for piece in found if not isinstance(piece, dict))
        if optional and not says_something(texts):
            return
        made.turns.append({"role": role, "content": _parts(found, style), **options})

    return turn


def _content(reader: Reader, written: Any, *, required: bool) -> Callable[[Scope], list[Any]]:
    """Return what gives one item of a turn: pieces of text, tags, and parts that name their own media."""
    if written in KINDS:
        tags = [Tag(written)]
        return lambda scope: list(tags)
    if isinstance(written, Mapping) and len(written) == 1:
        ((name, inner),) = written.items()
        if name in KINDS:
            return _own_media(name, reader.value({"column": inner} if isinstance(inner, str) else inner))
        if name == "tags":
            value = reader.value({"column": inner} if isinstance(inner, str) else inner, required=required)
            return lambda scope: _tagged(pieces_of(value(scope), "a text with tags"), _EXACT)
    value = reader.value(written, required=required)
    return lambda scope: list(_optional_pieces(value, scope, required))


def _optional_pieces(value: Value, scope: Scope, required: bool) -> Pieces:
    try:
        return pieces_of(value(scope), "a turn's text")
    except Absent:
        if required:
            raise
        return Pieces()


def _own_media(kind: Kind, value: Value) -> Callable[[Scope], list[Any]]:
    def parts(scope: Scope) -> list[Any]:
        entries = value(scope)
        entries = entries if isinstance(entries, list) and kind != "video" else [entries]
        for entry in entries:
            if entry is None or entry == "":
                raise Reject(RejectReason.MISSING_MEDIA, f"a column that a mapping names for {kind} is null or empty")
        return [{"type": kind, kind: entry} for entry in entries]

    return parts


def _tagged(pieces: Sequence[Any], tags: re.Pattern[str]) -> list[Any]:
    """Return texts with their tags as media."""
    found: list[Any] = []
    for piece in pieces:
        if not isinstance(piece, str):
            found.append(piece)
            continue
        found += (_piece(part, tags) for part in tags.split(piece) if part)
    return found


def _piece(part: str, tags: re.Pattern[str]) -> str | Tag:
    return Tag(part[1:-1].strip().lower()) if tags.fullmatch(part) else part  # type: ignore[arg-type]


def _parts(pieces: Sequence[Any], style: Style) -> list[Turn]:
    """Return a turn's content."""
    if style.media_first:
        kinds = dict.fromkeys(piece.kind for piece in pieces if isinstance(piece, Tag))
        text = "".join(piece for piece in pieces if isinstance(piece, str))
        text = text.strip() if kinds or style.strip else text
        pieces = [*map(Tag, kinds), *(piece for piece in pieces if isinstance(piece, dict)), *([text] if text else [])]
    parts: list[Turn] = []
    for piece in pieces:
        if isinstance(piece, Tag):
            parts.append({"type": piece.kind})
        elif isinstance(piece, dict):
            parts.append(piece)
        elif text := piece.strip() if style.strip else piece:
            parts.append({"type": "text", "text": text})
    return parts or [{"type": "text", "text": ""}]


# ---- lists ----


def _each(reader: Reader, written: Mapping[str, Any], style: Style) -> Rule:
    reader.keys(written, ("each", "turns"), "the turn 'each'")
    names = written["each"] if isinstance(written["each"], list) else [written["each"]]
    paths = [reader.path(name) for name in names]
    alone = not isinstance(written["each"], list)
    inner = Reader(reader.where)
    rules = read_turns(inner, written.get("turns"), style)
    for path in inner.columns:  # what is not of the element may be a column of the row
        reader.columns.setdefault(path, False)

    def each(scope: Scope, made: Made) -> None:
        lists = [scope.parsed(scope.get(path), ".".join(path)) for path in paths]
        for path, value in zip(paths, lists, strict=True):
            if not isinstance(value, list):
                raise Reject(
                    RejectReason.BAD_TYPE, f"{'.'.join(path)!r} is {excerpt(value)}, not a list (mapping: each)"
                )
        if len({len(value) for value in lists}) > 1:
            lengths = ", ".join(f"{'.'.join(path)}: {len(value)}" for path, value in zip(paths, lists, strict=True))
            raise Reject(RejectReason.BAD_ROW, f"lists that go side by side differ in length: {lengths}")
        for place, values in enumerate(zip(*lists, strict=True)):
            row = {path[-1]: value for path, value in zip(paths, values, strict=True)}
            if alone and isinstance(values[0], dict):
                row = values[0]
            deeper = scope.inner(row, place)
            for rule in rules:
                rule(deeper, made)

    return each


# ---- a column that holds a conversation ----

_CONVERSATION_KEYS: Final = (
    *("conversation", "role", "content", "roles", "other_roles", "tags", "tags_in", "empty"),
    *("min_turns", "max_turns", "strip", "media_first", "tags_as"),
)


@dataclass(frozen=True, slots=True)
class _Chat:
    """A conversation column, as a mapping says it is read."""

    role_keys: tuple[str, ...]
    content_keys: tuple[str, ...]
    roles: Mapping[str, str]
    skip_others: bool
    tags: re.Pattern[str]
    tags_in: tuple[str, ...]
    tags_as: Mapping[str, Kind]
    """Kind that a tag says → kind that it means (LLaVA-Video writes <image> for a video)."""
    empty: str
    style: Style

    def turn(self, turn: Any, where: str, made: Made) -> Iterator[Turn]:
        if not isinstance(turn, dict):
            raise Reject(RejectReason.BAD_TYPE, f"{where} is {excerpt(turn)}, not an object")
        written = next((turn[key] for key in self.role_keys if turn.get(key) is not None), None)
        role = self.roles.get(written) if isinstance(written, str) else None
        if role is None:
            if not self.skip_others:
                known = ", ".join(map(repr, self.roles))
                raise Reject(RejectReason.UNKNOWN_ROLE, f"{where} has the role {excerpt(written)}; known are {known}")
            made.notes.add(SKIPPED_TURNS)
            return
        text = next((turn[key] for key in self.content_keys if turn.get(key) is not None), None)
        if text is not None and not isinstance(text, str):
            raise Reject(RejectReason.BAD_TYPE, f"{where}: the text is {excerpt(text)}, not a text")
        if text is None and self.empty == "keep":
            raise Reject(RejectReason.BAD_TYPE, f"{where} has no text")
        if self.empty == "skip" and not (text or "").strip():
            made.notes.add(SKIPPED_TURNS)
            return
        pieces = _tagged([text or ""], self.tags) if role in self.tags_in else [text or ""]
        if self.empty == "media" and role == "user" and not says_something(Pieces(pieces)):
            pieces = [Tag("image")]
        pieces = [
            Tag(self.tags_as.get(each.kind, each.kind)) if self.tags_as and isinstance(each, Tag) else each
            for each in pieces
        ]
        yield {"role": role, "content": _parts(pieces, self.style)}


def _conversation(reader: Reader, written: Mapping[str, Any], style: Style) -> Rule:
    reader.keys(written, _CONVERSATION_KEYS, "the turn 'conversation'")
    path = reader.path(written["conversation"])
    roles = written.get("roles", _USUAL_ROLES)
    if not isinstance(roles, Mapping) or not all(role in ROLES for role in roles.values()):
        raise reader.bad(f"roles is {excerpt(roles)}", f"It names the role of each speaker, one of {', '.join(ROLES)}.")
    chat = _Chat(
        role_keys=(str(written["role"]),) if "role" in written else ("from", "role"),
        content_keys=(str(written["content"]),) if "content" in written else ("value", "content"),
        roles=dict(roles),
        skip_others=_word(reader, written, "other_roles", ("reject", "skip")) == "skip",
        tags={"exact": _EXACT, "spaced": _SPACED}[_word(reader, written, "tags", ("exact", "spaced"))],
        tags_in=_roles(reader, written.get("tags_in", ["user", "system", "tool"])),
        tags_as=_kinds(reader, written.get("tags_as", {})),
        empty=_word(reader, written, "empty", ("keep", "skip", "media")),
        style=Style(
            strip=_switch(reader, written, "strip", style.strip),
            media_first=_switch(reader, written, "media_first", style.media_first),
        ),
    )
    fewest, most = (_number(reader, written, name) for name in ("min_turns", "max_turns"))
    name = ".".join(path)

    def conversation(scope: Scope, made: Made) -> None:
        turns = scope.parsed(scope.get(path), name)
        if not isinstance(turns, list):
            raise Reject(RejectReason.BAD_TYPE, f"{name!r} is {excerpt(turns)}, not a list of turns")
        if most is not None and len(turns) > most:
            raise Reject(RejectReason.NOT_WANTED, f"{len(turns)} turns, and the mapping takes {most} (max_turns)")
        before = len(made.turns)
        for number, turn in enumerate(turns, 1):
            made.turns += chat.turn(turn, f"turn {number} of {name!r}", made)
        if fewest is not None and len(made.turns) - before < fewest:
            what = f"{len(made.turns) - before} turns that say something, and the mapping takes {fewest} or more"
            raise Reject(RejectReason.NOT_WANTED, f"{what} (min_turns)")

    return conversation


def _word(reader: Reader, written: Mapping[str, Any], name: str, words: tuple[str, ...]) -> str:
    value = written.get(name, words[0])
    if value not in words:
        raise reader.bad(f"{name} is {excerpt(value)}", f"It is one of {', '.join(words)}.")
    return str(value)


def _switch(reader: Reader, written: Mapping[str, Any], name: str, default: bool) -> bool:
    value = written.get(name, default)
    if not isinstance(value, bool):
        raise reader.bad(f"{name} is {excerpt(value)}, not true or false")
    return value


def _number(reader: Reader, written: Mapping[str, Any], name: str) -> int | None:
    value = written.get(name)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise reader.bad(f"{name} is {excerpt(value)}, not a whole number above 0")
    return value


def _roles(reader: Reader, written: Any) -> tuple[str, ...]:
    if not isinstance(written, list) or not all(role in ROLES for role in written):
        raise reader.bad(f"tags_in is {excerpt(written)}", f"It is a list of {', '.join(ROLES)}.")
    return tuple(written)


def _kinds(reader: Reader, written: Any) -> Mapping[str, Kind]:
    if not isinstance(written, Mapping) or not all(each in KINDS for each in (*written, *written.values())):
        raise reader.bad(f"tags_as is {excerpt(written)}", f"It names for {', '.join(KINDS)} what the tag means.")
    return dict(written)
