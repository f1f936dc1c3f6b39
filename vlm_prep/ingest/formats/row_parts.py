"""What a row's own keys say of its media: the part of a file (`offset` and `duration`, `start` and `end`, in seconds),
and the rate of frames that are given as a list or folder (`fps`, `sample_fps`).

A part belongs to the one sound or video of the row. Of several it cannot be told which is meant, and bytes that lie in
the row (a cell of a table, a file of its WebDataset sample) are the part already: there the keys say where it was cut
from.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from vlm_prep.core.errors import Reject, RejectReason
from vlm_prep.core.records import Media
from vlm_prep.core.remote import is_remote
from vlm_prep.core.visible import excerpt
from vlm_prep.ingest.formats.common import Row, is_positive_number
from vlm_prep.ingest.formats.entry_options import (
    RATE_KEYS,
    SEGMENT_ENDS,
    SEGMENT_STARTS,
    as_number,
    bad_entry,
    rate_of,
    segment_of,
)
from vlm_prep.ingest.formats.noticed import SEGMENT_KEYS_WITH_MEANING, Noticed, is_empty, unread_key
from vlm_prep.media.archives import archive_kind
from vlm_prep.media.files import split_uri
from vlm_prep.media.mock_media import is_made
from vlm_prep.media.row_media import rows_kind

_KEYS: Final = frozenset((*SEGMENT_STARTS, *SEGMENT_ENDS))
SEGMENT_KEYS: Final = _KEYS | {"duration"}
"""The keys of a row that name a part, where it has one."""
_PAIRS: Final = ("segment", "clip", "interval", "time_range")
"""Keys that name a part by two numbers; other values of them are names."""
_LENGTHS: Final = {
    f"{name}{unit}": factor
    for name in ("duration", "audio_duration", "video_duration")
    for unit, factor in (("", 1.0), ("_s", 1.0), ("_sec", 1.0), ("_seconds", 1.0), ("_ms", 0.001))
}
"""Keys that say how long a file is, and how many seconds one of their numbers is."""
_ANY: Final = frozenset((*SEGMENT_KEYS_WITH_MEANING, *_PAIRS, "to", *_LENGTHS))
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
    if _ANY.isdisjoint(row):
        return list(media)
    given = {key: row[key] for key in (*SEGMENT_KEYS_WITH_MEANING, "duration") if not is_empty(row.get(key))}
    given = {key: as_number(value) for key, value in given.items() if key not in noticed.ignored}
    if not length_alone and ("duration" not in given or given.keys() & _KEYS == set()):
        given = {key: value for key, value in given.items() if value != 0}  # from 0, and no end: the whole file
    places = [number for number, each in enumerate(media) if each.kind != "image" and not _is_cut(each, row)]
    pairs = {key: row.get(key) for key in _PAIRS} | {"to": [row.get("from"), row.get("to")]}
    for key, pair in pairs.items() if places else ():
        if _is_pair(pair) and key not in noticed.ignored:
            raise unread_key("the row", key, row[key], SEGMENT_KEYS_WITH_MEANING["start"])
    for key in sorted(given.keys() - {"duration"}) if places else ():
        if key not in _KEYS or len(places) > 1:
            raise unread_key("the row", key, given[key], SEGMENT_KEYS_WITH_MEANING[key])
    if len(places) != 1:
        return list(media)
    own, found = media[places[0]], list(media)
    start, end = segment_of(given, "the row") if length_alone or given.keys() & _KEYS else (None, None)
    if (start, end) == (None, None):
        if (own.start, own.end) == (None, None):
            found[places[0]] = replace(own, stated=_stated(row, noticed))
        return found
    if (own.start, own.end) not in ((None, None), (start, end)):
        raise Reject(RejectReason.BAD_MEDIA_ENTRY, "the row and its media entry name two parts of the file")
    if len(own.uris) > 1:
        raise Reject(RejectReason.BAD_MEDIA_ENTRY, "a part in seconds is taken of a file, not of frames")
    found[places[0]] = replace(own, start=start, end=end)
    return found


def rate_of_row(row: Row, media: Sequence[Media], noticed: Noticed) -> list[Media]:
    """Return a row's media, lists of frames with the rate that the row says, where their entry says none.

    One rate is that of all; a list has one for each video. Of a file a rate may be its own or the one wanted, and is
    not read; what has no ending is a folder of frames.

    Raises:
        Reject: BAD_MEDIA_ENTRY, it is no rate, or not one for each video.
    """
    found = list(media)
    films = [place for place, each in enumerate(media) if each.kind == "video"]
    for number, place in enumerate(films):
        if not (media[place].frame_list or _may_be_folder(media[place])) or media[place].fps is not None:
            continue
        given = {key: row[key] for key in RATE_KEYS if not is_empty(row.get(key))}
        for key, value in given.items():
            if isinstance(value, list) and len(value) != len(films):
                raise bad_entry(f"the row: {key} is {excerpt(value)}, {len(value)} rates for {len(films)} video(s)")
        rates = {key: value[number] if isinstance(value, list) else value for key, value in given.items()}
        rate, notes = rate_of(rates, "video", "the row", noticed.ignored)
        found[place] = replace(media[place], fps=rate, notes=(*media[place].notes, *notes))
    return found


def _may_be_folder(media: Media) -> bool:
    """Whether a video's name has no ending, as folders of frames have none and files that are read do."""
    path, key = split_uri(media.uris[0])
    return key is None and not is_remote(path) and "." not in os.path.basename(path)


def _stated(row: Row, noticed: Noticed) -> tuple[str, float] | None:
    """Return the first key of a row that says how long its file is, and the seconds that it says."""
    for key, factor in _LENGTHS.items():
        value = as_number(row.get(key))
        if key not in noticed.ignored and is_positive_number(value):
            return key, value * factor
    return None


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(type(each) in (int, float) for each in value)


def _is_cut(media: Media, row: Row) -> bool:
    """Whether media lie in their row, and are the part already."""
    uri = media.uris[0]
    path, key = split_uri(uri)
    if key is None:
        return False
    return _SAMPLE_KEY in row or is_made(uri) or (archive_kind(path) is None and rows_kind(path) is not None)
