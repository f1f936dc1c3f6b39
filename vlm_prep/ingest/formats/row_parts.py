"""The part of its file that a row's own keys name: `offset` and `duration`, `start` and `end`, in seconds.

They belong to the one sound or video of the row. Of several it cannot be told which is meant, and bytes that lie in the
row (a cell of a table, a file of its WebDataset sample) are the part already: there the keys say where it was cut from.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from vlm_prep.core.errors import Reject, RejectReason
from vlm_prep.core.records import Media
from vlm_prep.ingest.formats.common import Row
from vlm_prep.ingest.formats.entries import SEGMENT_ENDS, SEGMENT_STARTS, segment_of
from vlm_prep.ingest.formats.noticed import SEGMENT_KEYS_WITH_MEANING, Noticed, is_empty, unread_key
from vlm_prep.media.archives import archive_kind
from vlm_prep.media.files import split_uri
from vlm_prep.media.mock_media import is_made
from vlm_prep.media.row_media import rows_kind

_KEYS: Final = frozenset((*SEGMENT_STARTS, *SEGMENT_ENDS))
SEGMENT_KEYS: Final = _KEYS | {"duration"}
"""The keys of a row that name a part, where it has one."""
_NUMBER: Final = re.compile(r"\d+(\.\d+)?")
_SAMPLE_KEY: Final = "__key__"
"""What `derived.tar_rows` adds to a row whose media are files of its own."""


def part_of_row(row: Row, media: Sequence[Media], noticed: Noticed, *, length_alone: bool = False) -> list[Media]:
    """Return a row's media, of its only sound or video the part that the row's keys name.

    Args:
        row: the row.
        media: its media, in order.
        noticed: knows the keys that mean nothing.
        length_alone: whether `duration` without another key is a part from the beginning, as in a speech manifest, and
            not how long the file is.

    Raises:
        Reject: UNREAD_KEY, it has such keys and not one such media, or names the part in another unit;
            BAD_MEDIA_ENTRY, the keys name no part, or another than the media's own entry.
    """
    if not length_alone and SEGMENT_KEYS_WITH_MEANING.keys().isdisjoint(row):
        return list(media)
    given = {key: row[key] for key in (*SEGMENT_KEYS_WITH_MEANING, "duration") if not is_empty(row.get(key))}
    given = {key: _number(value) for key, value in given.items() if key not in noticed.ignored}
    if not length_alone:  # without a begin and an end: the whole file
        given = {key: value for key, value in given.items() if value != 0}
    places = [number for number, each in enumerate(media) if each.kind != "image" and not _is_cut(each, row)]
    for key in sorted(given.keys() - {"duration"}) if places else ():
        if key not in _KEYS or len(places) > 1:
            raise unread_key("the row", key, given[key], SEGMENT_KEYS_WITH_MEANING[key])
    if len(places) != 1 or not (length_alone or given.keys() & _KEYS):
        return list(media)
    start, end = segment_of(given, "the row")
    own = media[places[0]]
    if (start, end) == (None, None):
        return list(media)
    if (own.start, own.end) not in ((None, None), (start, end)):
        raise Reject(RejectReason.BAD_MEDIA_ENTRY, "the row and its media entry name two parts of the file")
    if len(own.uris) > 1:
        raise Reject(RejectReason.BAD_MEDIA_ENTRY, "a part in seconds is taken of a file, not of frames")
    found = list(media)
    found[places[0]] = replace(own, start=start, end=end)
    return found


def _number(value: Any) -> Any:
    """Return a number that is written as text, as all are in CSV files."""
    return float(value) if isinstance(value, str) and _NUMBER.fullmatch(value.strip()) else value


def _is_cut(media: Media, row: Row) -> bool:
    """Whether media lie in their row, and are the part already."""
    uri = media.uris[0]
    path, key = split_uri(uri)
    if key is None:
        return False
    return _SAMPLE_KEY in row or is_made(uri) or (archive_kind(path) is None and rows_kind(path) is not None)
