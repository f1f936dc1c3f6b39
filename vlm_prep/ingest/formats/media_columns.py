"""The media columns of a row → its entries by kind, with holes where the source has none.

    "a.png"   {"path": ...}   <bytes>        one entry
    ["a.png", "b.png"]                       several
    [["a.png"]]                              for pictures and audio a list in the list is its entries
    null   ""   "None"   NaN   []            none
    ["a.png", null]                          a hole: left out unless a placeholder asks for it (missing_media)

A column goes by any of its names; two that are filled must hold the same media. Only where one holds bytes, a path in
the other is taken for their name.
"""

from __future__ import annotations

import re
from typing import Any, Final

from vlm_prep.core.errors import Reject, RejectReason
from vlm_prep.core.records import Media, MediaKind
from vlm_prep.core.row_json import RowJsonError, parse_row
from vlm_prep.core.visible import excerpt
from vlm_prep.ingest.embedded import EmbeddedBytes, EmbeddedText
from vlm_prep.ingest.formats.common import Row, shown
from vlm_prep.ingest.formats.entries import READ_KEYS, are_same, flat, media_from
from vlm_prep.ingest.formats.noticed import Noticed, is_empty, is_nan
from vlm_prep.ingest.spec import COLUMN_NAMES, DatasetSpec

_FILM: Final = re.compile(r"\.(?:mp4|mkv|webm|mov|avi|m4v)$", re.IGNORECASE)
_NOTHING: Final = ("none", "null", "nan", "n/a")
"""No media as a text, as tables that were written without care have it."""
Entries = list[Media | None]
"""A media column; None is a hole."""
MEDIA_ROLES: Final[dict[MediaKind, str]] = {"image": "images", "video": "videos", "audio": "audios"}


def media_columns(row: Row, spec: DatasetSpec, noticed: Noticed) -> dict[MediaKind, Entries]:
    """Return a row's media by kind.

    Raises:
        Reject: BAD_ROW, two columns differ; or the fault of an entry.
    """
    if spec.media_keys.isdisjoint(row):
        return {kind: [] for kind in MEDIA_ROLES}
    return {kind: _column(row, spec, kind, role, noticed) for kind, role in MEDIA_ROLES.items()}


def has_media_column(row: Row, spec: DatasetSpec) -> bool:
    """Return whether a row has a media column that is not null."""
    return any(row.get(name) is not None and not isinstance(row[name], int | float) for name in spec.media_keys)


def _column(row: Row, spec: DatasetSpec, kind: MediaKind, role: str, noticed: Noticed) -> Entries:
    names = [name for name in spec.media_names[role] if name in row]
    if not names:
        return []
    if "frames" in names and _is_count(row["frames"]):
        names.remove("frames")
        noticed.unread.setdefault("row.frames", row["frames"])
    for name in names:
        if isinstance(row[name], str) and row[name][:1] in ("[", "{"):
            row = {**row, name: _parsed(row[name], name, spec, noticed)}
    filled = [name for name in names if not _is_hollow(row[name])]
    if not filled:
        holes = any(row[name] != [] for name in names)
        if any(isinstance(row[name], list | str) and row[name] for name in names):
            noticed.note("read_empty_media")
        return [None] if holes else []
    first, *others = sorted(filled, key=lambda name: not _holds_bytes(row[name])) if len(filled) > 1 else filled
    entries = _entries(row[first], kind, spec, noticed)
    for other in others:
        if _holds_bytes(row[first]) and _is_name(row[other]):
            noticed.unread.setdefault(f"row.{other}", row[other])
        elif are_same(_present(_entries(row[other], kind, spec, noticed)), _present(entries)):
            noticed.note("read_doubles")
        else:
            raise Reject(
                RejectReason.BAD_ROW,
                f"the columns {first!r} ({excerpt(row[first])}) and {other!r} ({excerpt(row[other])}) are both filled "
                f"and differ; name one with columns.{role}",
            )
    if first not in (spec.columns.get(role), *COLUMN_NAMES[role]):
        noticed.note("read_media_columns")
    return entries


def _entries(value: Any, kind: MediaKind, spec: DatasetSpec, noticed: Noticed) -> Entries:
    if type(value) is str:
        return [media_from(value, kind, spec.media_dir, f"{kind} 0")]
    if kind != "video" and isinstance(value, dict) and value and all(isinstance(value[key], list) for key in value):
        value = _by_key(value, noticed)
    if isinstance(value, str | dict | EmbeddedBytes):
        value = [value]
    if not isinstance(value, list):
        raise Reject(RejectReason.BAD_TYPE, f"the {kind} column is {shown(value)}, not a path or a list of them")
    while any(isinstance(each, list) and (kind != "video" or _are_films(each)) for each in value):
        value = [each for item in value for each in (item if isinstance(item, list) else [item])]
        noticed.note("read_nested_media")
    for each in value:
        if isinstance(each, dict):
            noticed.leave(kind, flat(each), READ_KEYS)
    return [
        None if _is_hole(each) else media_from(each, kind, spec.media_dir, f"{kind} {place}", noticed.ignored)
        for place, each in enumerate(value)
    ]


def _by_key(value: Row, noticed: Noticed) -> Any:
    """Return entries whose paths and bytes are lists side by side, as `datasets` keeps a Sequence; others unchanged."""
    if not value.keys() <= {"path", "bytes"} or len(set(map(len, value.values()))) != 1:
        return value
    noticed.note("read_media_by_key")
    return [dict(zip(value, each, strict=True)) for each in zip(*value.values(), strict=True)]


def _parsed(value: Any, name: str, spec: DatasetSpec, noticed: Noticed) -> Any:
    """Return a list or object that is written as JSON text in its column, as CSV files have it; else the value.

    Raises:
        Reject: BAD_JSON, it is one in Python's words (`lenient_json`).
    """
    if not isinstance(value, str) or not value.endswith(("]", "}")) or value[:1] not in ("[", "{"):
        return value
    try:
        found, notes = parse_row(value.encode(), lenient=True)
    except (RowJsonError, UnicodeEncodeError):
        return value  # a name may begin so
    if not isinstance(found, list | dict) or not all(isinstance(each, str | dict | list | None) for each in found):
        return value
    if "read_lenient" in notes and not spec.lenient_json:
        said = f"the column {name!r} is a list in Python's words, {excerpt(value)}; `lenient_json=true` reads it"
        raise Reject(RejectReason.BAD_JSON, said)
    noticed.notes |= notes | {"read_json_text"}
    return found


def _are_films(value: list[Any]) -> bool:
    """Whether a list in a list is of whole videos and not of the frames of one."""
    return bool(value) and all(isinstance(each, str) and _FILM.search(each) for each in value)


def _present(entries: Entries) -> list[Media]:
    return [entry for entry in entries if entry is not None]


def _is_count(value: Any) -> bool:
    """Whether a column named frames says how many there are."""
    return isinstance(value, int | float) or (isinstance(value, str) and value.strip().isdecimal())


def _is_hollow(value: Any) -> bool:
    """Return whether a column holds no media."""
    return _is_hole(value) or (isinstance(value, list) and all(map(_is_hollow, value)))


def _is_hole(value: Any) -> bool:
    return (
        value is None
        or value == ""
        or (isinstance(value, str) and len(value) < 5 and value.lower() in _NOTHING)
        or is_nan(value)
        or (isinstance(value, dict) and all(map(is_empty, value.values())))
    )


def _holds_bytes(value: Any) -> bool:
    if isinstance(value, list):
        return any(map(_holds_bytes, value))
    if isinstance(value, dict):
        return any(map(_holds_bytes, value.values()))
    return isinstance(value, EmbeddedBytes | EmbeddedText)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(each, str) for each in value))
