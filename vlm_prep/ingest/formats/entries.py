"""One entry of a media column, or one media part of a message → Media with absolute uris.

    "a.jpg"                                   a path; relative ones start from media_dir
    "db.lmdb::0007"                           a key of an LMDB; what is before the first `::` is the path
    {"path": "v.mp4", "frame_indices": [0, 8]}    a path (or url, image, video, uri) with options
    ["f0.jpg", "f1.jpg"]                      in a video column: one video, given as its frames
    {"bytes": ..., "path": "a.wav"}           a cell of a Parquet or Arrow file: the bytes, by the cell's uri
    "data:image/png;base64,..."               by its place in the data file

No media file is opened; whether it exists and can be decoded is asked by `vlm_prep.media`. An option that would
change the pixels or the sound and is not applied here rejects the row: the run would train on something else
than the source asks for.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

from vlm_prep.core.errors import Reject, RejectReason
from vlm_prep.core.records import Media, MediaKind
from vlm_prep.core.remote import is_remote
from vlm_prep.core.visible import excerpt
from vlm_prep.ingest.embedded import EmbeddedBytes, EmbeddedText
from vlm_prep.ingest.formats.common import type_name
from vlm_prep.ingest.formats.entry_options import (
    OPTION_KEYS,
    RATE_KEYS,
    SEGMENT_ENDS,
    SEGMENT_STARTS,
    bad_entry,
    rate_of,
    require_applied,
    segment_of,
)
from vlm_prep.ingest.formats.letter_case import KEY_CASE, of_usual_case
from vlm_prep.ingest.formats.noticed import MEDIA_NAME, is_empty

REFERENCE_KEYS: Final = (
    *("path", "url", "uri", "value"),
    *("image", "video", "audio", "image_url", "video_url", "audio_url", "input_audio"),
    *("image_path", "video_path", "audio_path"),
)
_OTHER_REFERENCES: Final = (
    *("file_name", "filename", "file_path", "filepath", "file"),
    *("img", "picture", "img_path", "image_file", "audio_filepath", "audio_file", "video_file", "sound", "src"),
)
"""Other names of an entry's path, read where it has none of the usual ones and one of these; else `name`, where it is
one of a media file."""
OTHER_REFERENCE: Final = "read_path_keys"
CONTENT_KEYS: Final = ("bytes", "data", "base64", "array")
"""Where an entry holds the media itself: a file's bytes, its base64 text, or decoded samples."""
READ_KEYS: Final = frozenset(
    (*REFERENCE_KEYS, *CONTENT_KEYS, *SEGMENT_STARTS, *SEGMENT_ENDS, *RATE_KEYS, "duration", "frame_indices", "format")
)
"""The keys of an entry that are read; what else one has is counted as unread, or refused by `require_applied`."""
_KNOWN: Final = READ_KEYS | OPTION_KEYS | {*_OTHER_REFERENCES, "frames", "name"}
_NAMES_MEDIA: Final = re.compile(f"{MEDIA_NAME}$", re.IGNORECASE)
_RELATIVE = re.compile(r"[^\s/:\0][^:\0]*\Z")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://")


def column_entries(value: Any, kind: MediaKind, media_dir: Path | str) -> list[Media]:
    """Return a media column's entries; one path or one object stands for a list of one.

    Raises:
        Reject: BAD_TYPE, the column is not a list; BAD_MEDIA_ENTRY, UNSUPPORTED_MEDIA or BAD_FRAME_INDICES,
        with
            the entry's 0-based place.
    """
    if value is None or value == "":
        return []
    if isinstance(value, str | dict | EmbeddedBytes):
        value = [value]
    if not isinstance(value, list):
        raise Reject(RejectReason.BAD_TYPE, f"the {kind} column is {type_name(value)}, not a list")
    return [media_from(entry, kind, media_dir, f"{kind} {place}") for place, entry in enumerate(value)]


def are_same(some: Iterable[Media], others: Iterable[Media]) -> bool:
    """Whether two lists are the same media in the same order, however their entries are written."""
    return [replace(each, notes=()) for each in some] == [replace(each, notes=()) for each in others]


def media_from(
    entry: Any, kind: MediaKind, media_dir: Path | str, where: str, ignored: frozenset[str] = frozenset()
) -> Media:
    """Return the Media that one entry describes; `ignored` are keys that mean nothing.

    Raises:
        Reject: BAD_MEDIA_ENTRY, UNSUPPORTED_MEDIA or BAD_FRAME_INDICES.
    """
    if isinstance(entry, EmbeddedBytes):
        return Media(kind=kind, uris=(entry.uri,))
    if isinstance(entry, str):
        return Media(kind=kind, uris=(absolute_uri(entry, media_dir, where),))
    if isinstance(entry, list):
        return Media(kind=kind, uris=_frames(entry, kind, media_dir, where), frame_list=True)
    if not isinstance(entry, dict):
        raise bad_entry(f"{where} is {type_name(entry)}, not a path or an object")
    return _from_object(entry, kind, media_dir, where, ignored)


def absolute_uri(written: str, media_dir: Path | str, where: str) -> str:
    """Return an absolute path, or absolute path `::` key, or the address of an object; of text in base64 the uri of its
    place.

    Raises:
        Reject: UNSUPPORTED_MEDIA, a URL; BAD_MEDIA_ENTRY, empty or with a NUL.
    """
    if isinstance(written, EmbeddedText):
        return _embedded_uri(written, where)
    if _RELATIVE.match(written) and isinstance(media_dir, Path) and len(base := str(media_dir)) > 1:
        return os.path.normpath(f"{base}/{written}")  # as most are, and as what follows would return it
    if written.startswith("data:"):
        raise Reject(RejectReason.UNSUPPORTED_MEDIA, f"{where} is a data: URL; write it to a file first")
    if is_remote(written):
        return written
    if scheme := _SCHEME.match(written):
        if scheme.group().lower() != "file://":
            raise Reject(
                RejectReason.UNSUPPORTED_MEDIA,
                f"{where} is {excerpt(written, 200)}; download it first, or name its host in `download`",
            )
        written = _path_of_url(written[scheme.end() :])
    elif written[:6].lower() == "file:/":
        written = _path_of_url(written[5:])
    path, separator, key = written.partition("::")
    if not path.strip() or "\0" in written or (separator and not key):
        raise bad_entry(f"{where} is {written!r}, not a path")
    if is_remote(media_dir) and not path.startswith("/"):
        store, _, base = str(media_dir).partition("://")
        return f"{store}://{os.path.normpath(os.path.join(base, written))}"
    # only the path is normalised: a key is any text and may hold '/../'
    return os.path.normpath(os.path.join(media_dir, path)) + separator + key


def _path_of_url(rest: str) -> str:
    """The path of a file: URL, of which `rest` follows `file://` (or `file:`); a host is none but this machine."""
    host, slash, path = rest.partition("/")
    return unquote(slash + path) if host in ("", "localhost") else unquote(rest)


def _embedded_uri(written: EmbeddedText, where: str) -> str:
    head = written[:5].lower()
    if head == "data:" and not written[:256].partition(",")[0].lower().endswith(";base64"):
        raise Reject(RejectReason.UNSUPPORTED_MEDIA, f"{where} is a data: URL that is not base64")
    return written.uri


def _from_object(
    entry: dict[str, Any], kind: MediaKind, media_dir: Path | str, where: str, ignored: frozenset[str]
) -> Media:
    given = flat(entry)
    content = _content(given, where)
    require_applied(given, kind, where, ignored)
    reference = _reference(given, media_dir, where) if content is None else content
    is_list = isinstance(reference, list)
    media = media_from(reference, kind, media_dir, where)
    start, end = (None, None) if kind == "image" else segment_of(given, where)
    if (start, end) != (None, None) and (is_list or content is not None):
        raise bad_entry(f"{where}: a part in seconds is taken of a file, not of frames or of bytes in the row")
    rate, notes = rate_of(given, kind, where, ignored)
    cased = entry_of_usual_case(entry)
    if cased is not entry:
        notes = (*notes, KEY_CASE)
    if "path" in given and not cased.keys() & {*REFERENCE_KEYS, *CONTENT_KEYS, "frames"}:
        notes = (*notes, OTHER_REFERENCE)
    return replace(
        media,
        start=start,
        end=end,
        frame_indices=_frame_indices(given.get("frame_indices"), kind, is_list, where),
        fps=rate,
        notes=(*media.notes, *notes),
    )


def _content(given: dict[str, Any], where: str) -> EmbeddedBytes | EmbeddedText | None:
    """Return the media that the entry itself holds; where there is one, a path beside it is only its name."""
    for key in ("bytes", "data", "base64"):
        content = given.get(key)
        if isinstance(content, EmbeddedBytes | EmbeddedText):
            return content
        if not is_empty(content):
            what = (
                f"bytes as {type_name(content)}" if key == "bytes" else f"{key} without the format that says what it is"
            )
            raise Reject(RejectReason.UNSUPPORTED_MEDIA, f"{where} holds {what}; write a file or a data: URL")
    if "array" in given:
        what = "decoded samples; store the file's bytes or its path, as cast_column(..., Audio(decode=False)) does"
        raise Reject(RejectReason.UNSUPPORTED_MEDIA, f"{where} holds {what}")
    return None


def entry_of_usual_case(entry: dict[str, Any]) -> dict[str, Any]:
    """Return an entry with its keys of other letter case, also of an object in it, under their usual names."""
    found = of_usual_case(entry, _KNOWN)
    inner = {key: value for key, value in found.items() if key in REFERENCE_KEYS and isinstance(value, dict)}
    cased = {key: of_usual_case(value, _KNOWN) for key, value in inner.items()}
    return found if all(cased[key] is inner[key] for key in inner) else found | cased


def flat(entry: dict[str, Any]) -> dict[str, Any]:
    """Return an entry without nulls, and with `{"image_url": {"url": …}}` brought to one level."""
    given: dict[str, Any] = {}
    for key, value in entry_of_usual_case(entry).items():
        if key in REFERENCE_KEYS and isinstance(value, dict):
            given |= {inner: each for inner, each in value.items() if each is not None}
        elif value is not None:
            given[key] = value
    return with_frames(with_path(given))


def with_path(given: dict[str, Any]) -> dict[str, Any]:
    """Return an entry whose path has a less usual name with it as its path."""
    if given.keys() & {*REFERENCE_KEYS, *CONTENT_KEYS}:
        return given
    names = [key for key in _OTHER_REFERENCES if isinstance(given.get(key), str) and given[key]]
    if not names and isinstance(name := given.get("name"), str) and _NAMES_MEDIA.search(name):
        names = ["name"]
    if len(names) != 1:
        return given
    return {("path" if key == names[0] else key): value for key, value in given.items()}


def with_frames(given: dict[str, Any]) -> dict[str, Any]:
    """Return an entry with its list of `frames` as the video that they are, unless it names another."""
    if not isinstance(given.get("frames"), list) or any(key in given for key in (*REFERENCE_KEYS, *CONTENT_KEYS)):
        return given
    return {("video" if key == "frames" else key): value for key, value in given.items()}


def _reference(given: dict[str, Any], media_dir: Path | str, where: str) -> str | list[Any] | EmbeddedBytes:
    references = [given[key] for key in REFERENCE_KEYS if key in given]
    if not references:
        raise bad_entry(f"{where} has no path; it has {', '.join(map(repr, given)) or 'nothing'}")
    reference = references[0]
    if len(references) > 1:
        paths = [absolute_uri(each, media_dir, where) if isinstance(each, str) else each for each in references]
        if any(path != paths[0] for path in paths):
            both = " and ".join(f"{key} ({excerpt(given[key])})" for key in REFERENCE_KEYS if key in given)
            raise bad_entry(f"{where} has several paths that differ: {both}")
    if not isinstance(reference, str | list | EmbeddedBytes):
        raise bad_entry(f"{where}: the path is {type_name(reference)}, not a string")
    return reference


def _frames(entries: list[Any], kind: MediaKind, media_dir: Path | str, where: str) -> tuple[str, ...]:
    if kind != "video":
        raise bad_entry(f"{where} is a list; only a video may be given as a list of frames")
    if not entries:
        raise bad_entry(f"{where} is an empty list of frames")
    frames = [media_from(entry, "image", media_dir, f"{where}, frame {n}") for n, entry in enumerate(entries)]
    return tuple(frame.uris[0] for frame in frames)


def _frame_indices(value: Any, kind: MediaKind, is_list: bool, where: str) -> tuple[int, ...] | None:
    if value is None:
        return None
    if kind != "video" or is_list:
        raise Reject(RejectReason.BAD_FRAME_INDICES, f"{where}: frame_indices belong to a video file")
    if not isinstance(value, list) or not value or any(type(index) is not int or index < 0 for index in value):
        message = f"{where}: frame_indices must be a list of whole numbers from 0 up"
        raise Reject(RejectReason.BAD_FRAME_INDICES, message)
    return tuple(value)
