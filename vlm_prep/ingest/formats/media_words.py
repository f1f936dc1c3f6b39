"""Columns that are media by what they hold: `{"speech": "a.wav"}` beside a text with `<speech>`.

Their names are words of many tables, so they are media only where the value names a file of the kind, the row has no
column of it by a usual name, and its messages ask for one.
"""

from __future__ import annotations

import re
from typing import Any, Final

from vlm_prep.core.records import MediaKind
from vlm_prep.ingest.formats.common import Row
from vlm_prep.ingest.formats.noticed import Noticed, is_empty, looks_like_media, media_role
from vlm_prep.ingest.formats.spelt_tags import spelt_tags
from vlm_prep.ingest.spec import DatasetSpec

_WORDS: Final[dict[str, MediaKind]] = {
    **dict.fromkeys(("speech", "speeches", "wav", "wavs", "recording", "recordings"), "audio"),
    **dict.fromkeys(("picture", "pictures", "photo", "photos"), "image"),
}
_OTHER_FORMATS: Final = ("asr", "mapping")


def with_media_words(row: Row, spec: DatasetSpec, noticed: Noticed) -> Row:
    """Return a row with such a column under the usual name of its media; the row itself where it has none."""
    if _WORDS.keys().isdisjoint(row) or spec.format in _OTHER_FORMATS:
        return row
    own = {*spec.columns.values(), *spec.keep_columns, *noticed.ignored}
    found: dict[str, str] = {}
    for kind in ("image", "audio"):
        names = [name for name in row if _WORDS.get(name) == kind and name not in own and _is_of(row[name], kind)]
        role = f"{kind}s"
        taken = role in spec.columns or any(not is_empty(row.get(name)) for name in spec.media_names[role])
        if len(names) == 1 and not taken and any(_asks(row.get(name), kind) for name in spec.column_names("messages")):
            found[names[0]] = role
    if not found:
        return row
    noticed.note("read_media_columns")
    return {found.get(key, key): value for key, value in row.items() if key in found or key not in found.values()}


def _is_of(value: Any, kind: MediaKind) -> bool:
    if not looks_like_media(value):
        return False
    return not (isinstance(value, str) or _is_texts(value)) or media_role(value) == f"{kind}s"


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _asks(turns: Any, kind: MediaKind) -> bool:
    """Whether messages have a tag of a kind, or a part of nothing but its type."""
    if isinstance(turns, str):
        usual = re.search(f"<{kind}>", turns, re.IGNORECASE) is not None
        return usual or any(tag.kind == kind for tag in spelt_tags(turns))
    if isinstance(turns, dict):
        given = {key: value for key, value in turns.items() if not is_empty(value)}
        return given == {"type": kind} or any(_asks(value, kind) for value in given.values())
    return isinstance(turns, list) and any(_asks(each, kind) for each in turns)
