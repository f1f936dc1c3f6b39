"""The text of a mapping → what makes messages and media of a row.

    images: product_image          the column, or columns, of pictures; videos and audios likewise. A kind that is not
                                   named goes by its usual columns (image, images, image_path, ...); [] is none
    turns: [...]                   see `turn_rules`
    require: [caption]             columns that must say something, or the row is not wanted (not_wanted)
    only: {type: photo}            what columns must be, or the row is not wanted
    strip: false                   blanks around tags and at the ends of texts: taken away, or verbatim
    media_first: false             one media of each kind before the text of a turn that has tags, the tags taken out
    shared: false                  one picture stands for all the tags of its row
    tools: functions               the column of tool schemas

An entry of `images` may say more than a column: `{path: file, start: from, end: to}` makes an object of columns,
`{first: [audio, path]}` takes the first column that says something.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Final

from vlm_prep.core.errors import InputError, Reject, RejectReason
from vlm_prep.core.fingerprint import canonical_json
from vlm_prep.core.visible import excerpt
from vlm_prep.core.yaml_text import YamlFault, read_yaml
from vlm_prep.ingest.mapping.pieces import Kind, says_something
from vlm_prep.ingest.mapping.scope import Path, Scope
from vlm_prep.ingest.mapping.turn_rules import Made, Rule, Style, Turn, read_turns
from vlm_prep.ingest.mapping.values import Reader, Value

ROLES_OF_KINDS: Final[dict[Kind, str]] = {"image": "images", "video": "videos", "audio": "audios"}
_KEYS: Final = ("images", "videos", "audios", "turns", "require", "only", "strip", "media_first", "shared", "tools")


@dataclass(frozen=True, slots=True)
class MappedRow:
    """What a mapping makes of a row: the columns that every conversation has."""

    turns: list[Turn]
    media: dict[str, list[Any]]
    """Column role → entries, of the kinds that the mapping names columns for."""
    tools: Any
    notes: set[str]


@dataclass(frozen=True)
class TableMapping:
    """How rows become messages."""

    rules: tuple[Rule, ...]
    media: Mapping[str, tuple[Value, ...]]
    require: tuple[Path, ...]
    only: tuple[tuple[Path, Any], ...]
    tools: Path | None
    shared: bool
    columns: Mapping[Path, bool]
    """Paths that are read → whether every row must have them."""

    @cached_property
    def names(self) -> frozenset[str]:
        """The columns that it reads, whole paths among them."""
        return frozenset(name for path in self.columns for name in (path[0], ".".join(path)))

    def apply(self, row: dict[str, Any], draws: str, *, lenient: bool = False) -> MappedRow:
        """Return what the mapping makes of a row.

        Args:
            row: its columns, media marked.
            draws: what is drawn from: the sample's id.
            lenient: whether texts in it are read as JSON leniently.

        Raises:
            Reject: the row has not what the mapping says.
        """
        scope, made = Scope(row, draws, lenient=lenient), Made()
        for path in self.require:
            if not says_something(scope.get(path)):
                raise Reject(RejectReason.NOT_WANTED, f"the column {'.'.join(path)!r} says nothing (mapping: require)")
        for path, wanted in self.only:
            if scope.find(path) != wanted:
                found = f"{'.'.join(path)!r} is {excerpt(scope.find(path))}, not {excerpt(wanted)}"
                raise Reject(RejectReason.NOT_WANTED, f"{found} (mapping: only)")
        for rule in self.rules:
            rule(scope, made)
        media = {
            role: [entry for value in values for entry in _entries(scope.parsed(value(scope), role))]
            for role, values in self.media.items()
        }
        tools = None if self.tools is None else scope.parsed(scope.find(self.tools), ".".join(self.tools))
        return MappedRow(made.turns, media, tools, made.notes)


def _entries(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


@lru_cache(maxsize=64)
def compiled(text: str, where: str = "mapping") -> TableMapping:
    """Return the mapping of a text in YAML or JSON.

    Args:
        text: of the mapping.
        where: what messages begin with.

    Raises:
        InputError: it is none, and what to write.
    """
    written = read_mapping(text, where)
    reader = Reader(where)
    reader.keys(written, _KEYS, "it")
    switches = {name: written.get(name, False) for name in ("strip", "media_first", "shared")}
    for name, value in switches.items():
        if not isinstance(value, bool):
            raise reader.bad(f"{name} is {excerpt(value)}, not true or false")
    style = Style(strip=switches["strip"], media_first=switches["media_first"])
    rules = read_turns(reader, written.get("turns"), style)
    media = {
        role: tuple(_media(reader, each) for each in _listed(written[role]))
        for role in ROLES_OF_KINDS.values()
        if role in written
    }
    require = tuple(reader.path(name) for name in _listed(written.get("require")))
    conditions = written.get("only", {})
    if not isinstance(conditions, Mapping):
        raise reader.bad(f"only is {excerpt(conditions)}", "It names columns and what they must be: {type: photo}.")
    only = tuple((reader.path(name, required=False), value) for name, value in conditions.items())
    tools = None if written.get("tools") is None else reader.path(written["tools"], required=False)
    return TableMapping(tuple(rules), media, require, only, tools, switches["shared"], dict(reader.columns))


def _listed(written: Any) -> list[Any]:
    if written is None:
        return []
    return written if isinstance(written, list) else [written]


def _media(reader: Reader, written: Any) -> Value:
    if isinstance(written, str):
        path = reader.path(written)
        return lambda scope: scope.get(path)
    if not isinstance(written, Mapping) or not written:
        raise reader.bad(f"{excerpt(written)} is neither a column nor an object of columns")
    if written.keys() == {"first"}:
        return reader.value({"first": [{"column": name} for name in _listed(written["first"])]})
    paths = {str(key): reader.path(name) for key, name in written.items()}
    return _object_of(paths)


def _object_of(paths: Mapping[str, Path]) -> Callable[[Scope], Any]:
    return lambda scope: {key: scope.get(path) for key, path in paths.items()}


def read_mapping(text: str, where: str = "mapping") -> dict[str, Any]:
    """Return the object that a mapping's text is.

    Raises:
        InputError: it is no YAML of keys and values.
    """
    try:
        written = read_yaml(text)
    except YamlFault as fault:
        line = "" if fault.line is None else f", line {fault.line}"
        raise InputError(f"{where}{line}: no YAML: {fault.problem}", _EXAMPLE) from fault
    if isinstance(written, dict) and set(written) == {"mapping"}:
        written = written["mapping"]
    if not isinstance(written, dict):
        raise InputError(f"{where}: is {excerpt(written)}, not an object with turns", _EXAMPLE)
    return written


_EXAMPLE: Final = (
    'A mapping looks like {images: photo, turns: [{user: [image, "What is this?"]}, {assistant: "{caption}"}]}.'
)


def canonical(written: str | Mapping[str, Any], where: str = "mapping") -> str:
    """Return a mapping as canonical JSON, checked; the same one for the same meaning in YAML.

    Raises:
        InputError: it cannot be used.
    """
    value = read_mapping(written, where) if isinstance(written, str) else dict(written)
    try:
        text = canonical_json(value).decode()
    except TypeError as error:
        raise InputError(f"{where}: holds what is no JSON: {error}", _EXAMPLE) from error
    compiled(text, where)
    return text


def of_turns(turns: list[str], media: Mapping[str, str]) -> str:
    """Return the mapping that `role=template` flags say.

    Args:
        turns: the flags.
        media: column role → the column of media that is named for it, by a path.

    Raises:
        InputError: one says no role.
    """
    made = []
    for each in turns:
        role, equals, template = each.partition("=")
        if not equals:
            raise InputError(f"`turns` {each!r}: expected role=template", 'for example: --turn "assistant={caption}"')
        made.append({role.strip(): template})
    return canonical({**media, "turns": made}, "`turns`")
