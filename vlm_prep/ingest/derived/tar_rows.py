"""WebDataset tars as rows: the files of a name up to its first dot are one row.

    000017.jpg 000017.json          the JSON's keys, with `image` the picture
    000017.jpg 000017.txt           `text`: the caption (also .cap, .caption)
    000017.0.jpg 000017.1.jpg       several pictures, in the order of their names
    000017.mp4, 000017.wav          `video`, `audio`
    000017.cls 000017.transcript    other files that are texts, under their ending

Rows follow the tars and, in a tar, the files. A range is written with braces (`shard-{000000..000099}.tar`); a folder
is all its tars, or by Energon's `.nv-meta/split.yaml` those of a split. Where a JSON names media that are files of its
row, the column keeps its order. A file of an ending that is not known stands under it, so that it is counted as unread.
A row with a file twice, or with a link instead of one, is a reject.
"""

from __future__ import annotations

import math
import os
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import orjson

from vlm_prep.core.errors import InputError
from vlm_prep.core.fields import did_you_mean
from vlm_prep.core.regular_files import open_regular, read_regular
from vlm_prep.core.tar_members import tar_members
from vlm_prep.core.yaml_text import YamlFault, read_yaml
from vlm_prep.ingest.derived import energon
from vlm_prep.ingest.splits import ALL
from vlm_prep.media.places import natural_order

_RANGE: Final = re.compile(r"\{(\d{1,18})\.\.(\d{1,18})\}")
MEDIA_ENDINGS: Final = {
    **dict.fromkeys(("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "ppm", "avif", "heic", "jxl"), "image"),
    **dict.fromkeys(("mp4", "mkv", "webm", "mov", "avi", "m4v"), "video"),
    **dict.fromkeys(("wav", "flac", "mp3", "ogg", "opus", "m4a", "aac"), "audio"),
}
"""The ending of a media file's name → its kind."""
_CAPTIONS: Final = ("txt", "cap", "caption", "text", "transcript")
_SPLITS: Final = Path(".nv-meta", "split.yaml")
_MOST_TEXT: Final = 64 << 20
_MOST_FILES: Final = 1_000_000


def files(path: Path, split: str | None) -> list[Path]:
    """Return the tars that a path, a range or a folder means; none where it means something else.

    Raises:
        InputError: a tar of a range is missing.
    """
    if (name := spelt_range(path.name)) is not None:
        found = [path.parent / each for each in expanded(name)]
        missing = [file for file in found if not file.is_file()]
        if missing:
            raise InputError(f"{path}: {len(missing):,} tars of the range are missing, e.g. {missing[0].name}")
        return found
    if (path / _SPLITS).is_file():
        return _energon(path, split)
    if path.is_dir():
        below = path / split if split else path
        tars = below.glob("*.tar") if split != ALL or below.is_dir() else path.glob("*/*.tar")
        return sorted(tars, key=lambda file: natural_order(str(file)))
    return [path] if path.suffix.lower() == ".tar" and path.is_file() else []


def parts(path: Path) -> list[str]:
    """Return the folders of tars in a folder, which are its splits."""
    is_own = path.is_dir() and not (path / _SPLITS).is_file()
    return sorted({file.parent.name for file in path.glob("*/*.tar")}) if is_own else []


def _energon(path: Path, split: str | None) -> list[Path]:
    """Return the tars of a split by Energon's own list; what its field map says is in `energon`.

    Raises:
        InputError: the list has no such split, leaves single samples out, or names what is no tar.
    """
    where = path / _SPLITS
    try:
        said = read_yaml(read_regular(where).decode())
        parts, left_out = said["split_parts"], list(said.get("exclude") or ())
        splits = {str(name): [str(each) for each in shards or ()] for name, shards in parts.items()}
    except (YamlFault, ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(f"{where}: cannot be read: {error}", "It says split_parts: {train: [shard.tar]}.") from error
    chosen = split or ("train" if "train" in splits or len(splits) != 1 else next(iter(splits)))
    if chosen not in splits:
        raise InputError(f"{where}: no split {chosen!r}", f"It has {', '.join(splits)}.{did_you_mean(chosen, splits)}")
    names = [name for written in splits[chosen] for name in expanded(written)]
    if single := [each for each in left_out if not str(each).endswith(".tar")]:
        raise InputError(f"{where} leaves out single samples, such as {single[0]}", "That is not read; take it out.")
    found = [path / name for name in names if name not in left_out]
    if not found:
        raise InputError(f"{where}: the split {chosen!r} has no tars", f"It has {', '.join(splits)}.")
    bad = [file for file in found if file.suffix.lower() != ".tar" or not file.is_file()]
    if bad:
        raise InputError(f"{where}: {bad[0]} is not there, or no tar", "Tars that are not compressed are read.")
    return found


def spelt_range(name: str) -> str | None:
    """Return a range of files with its braces, which NeMo may write `_OP_0..3_CL_`; None for another name."""
    name = name.replace("_OP_", "{").replace("_CL_", "}")
    return name if _RANGE.search(name) else None


def expanded(name: str) -> Iterator[str]:
    """Yield the names of a range in braces; a name without one alone.

    Raises:
        InputError: it is endless.
    """
    found = _RANGE.search(name)
    if found is None:
        yield name
        return
    first, last = found[1], found[2]
    if math.prod(int(last) - int(first) + 1 for first, last in _RANGE.findall(name)) > _MOST_FILES:
        raise InputError(f"{name}: a range of more than {_MOST_FILES:,} files")
    for number in range(int(first), int(last) + 1):
        yield from expanded(f"{name[: found.start()]}{number:0{len(first)}d}{name[found.end() :]}")


class _BadRow(Exception):
    """A row that cannot be read; the message stands in its place, and is a reject."""


def rows(base: Path, tars: list[Path], split: str | None) -> Iterator[dict[str, Any] | str]:
    """Yield the rows of tars, media as `tar::name` from the folder `base`; of a row that is damaged what is wrong."""
    fields = energon.field_map(base)
    for tar in tars:
        where = os.path.relpath(tar, base)
        try:
            yield from _rows_of(tar, where, fields)
        except tarfile.TarError as error:
            raise InputError(f"{tar}: cannot be read as a tar: {error}", "Write or download it again.") from error


def _rows_of(tar: Path, where: str, fields: energon.Fields | None) -> Iterator[dict[str, Any] | str]:
    key: str | None = None
    members: dict[str, Any] = {}
    with open_regular(tar) as file:
        for archive, info in tar_members(file):
            folder, name = os.path.split(info.name)
            if info.isdir() or name.startswith("."):
                continue
            stem, _, ending = name.partition(".")
            own = os.path.join(folder, stem)
            if own != key and key is not None:
                yield _row(key, members, where, fields)
                members = {}
            key = own
            if ending in members or not info.isreg():
                members[ending] = _BadRow(f"{where}::{info.name}: {_what_is_wrong(info)}")
                continue
            kind = ending.lower().rpartition(".")[2]
            if kind in MEDIA_ENDINGS:
                members[ending] = f"{where}::{info.name}"
                continue
            if info.size > _MOST_TEXT:
                raise InputError(f"{tar}: {info.name} has {info.size:,} bytes and is no media that is known")
            stream = archive.extractfile(info)
            members[ending] = b"" if stream is None else stream.read()
    if key is not None:
        yield _row(key, members, where, fields)


def _what_is_wrong(info: tarfile.TarInfo) -> str:
    if info.isreg():
        return "the row has two files of this name"
    if info.issym() or info.islnk():
        return f"a link (make the tar with -h --hard-dereference) to {info.linkname}"
    return "no plain file"


def _row(key: str, members: dict[str, Any], where: str, fields: energon.Fields | None) -> dict[str, Any] | str:
    try:
        return _read_row(key, members, where) if fields is None else _mapped_row(key, members, where, fields)
    except _BadRow as fault:
        return str(fault)


def _read_row(key: str, members: dict[str, Any], where: str) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for ending, value in members.items():
        if isinstance(value, _BadRow):
            raise value
        kind = ending.lower().rpartition(".")[2]
        if kind in MEDIA_ENDINGS:
            continue
        row |= _said(kind, ending, value, f"{where}::{key}.{ending}")
    for kind in dict.fromkeys(MEDIA_ENDINGS.values()):
        endings = [ending for ending in members if MEDIA_ENDINGS.get(ending.lower().rpartition(".")[2]) == kind]
        uris = [members[ending] for ending in sorted(endings, key=natural_order)]
        if uris and not (uris_named := _by_name(row, kind, uris)):
            row[kind if len(uris) == 1 else f"{kind}s"] = uris[0] if len(uris) == 1 else uris
        elif uris:
            row |= uris_named
    return {"__key__": key, **row}


def _mapped_row(key: str, members: dict[str, Any], where: str, fields: energon.Fields) -> dict[str, Any]:
    """Return the attributes that a field map names; one whose file is not there is left out."""
    row: dict[str, Any] = {"__key__": key}
    found = {ending.lower(): value for ending, value in members.items()}
    for name, (ending, keys) in fields.items():
        if (value := found.get(ending)) is None:
            continue
        if isinstance(value, _BadRow):
            raise value
        kind = ending.rpartition(".")[2]
        if kind not in MEDIA_ENDINGS:
            value = _value(kind, value, f"{where}::{key}.{ending}")
        for step in keys:
            value = _inside(value, step, f"{where}::{key}.{ending}")
        row[name] = value[0] if name == "answers" and isinstance(value, list) and len(value) == 1 else value
    return row


def _value(kind: str, value: bytes, where: str) -> Any:
    try:
        return orjson.loads(value) if kind == "json" else value.decode()
    except ValueError as error:  # no JSON, no UTF-8
        raise _BadRow(f"{where}: cannot be read: {error}") from error


def _inside(value: Any, step: str, where: str) -> Any:
    try:
        return value[int(step)] if isinstance(value, list) else value[step]
    except (LookupError, TypeError, ValueError) as error:
        raise _BadRow(f"{where}: has no {step}, which the field map asks for") from error


def _by_name(row: dict[str, Any], kind: str, uris: list[str]) -> dict[str, Any]:
    """Return the media columns of a row's JSON whose names are members, as their places (LLaVA-OneVision, NeMo)."""
    found: dict[str, Any] = {}
    names = {os.path.basename(uri.partition("::")[2]): uri for uri in uris}
    for column in (kind, f"{kind}s"):
        written = row.get(column)
        listed = written if isinstance(written, list) else [written]
        places = [names.get(os.path.basename(each)) if isinstance(each, str) else None for each in listed]
        if written and None not in places:
            found[column] = places if isinstance(written, list) else places[0]
        elif written:
            row[f"{column}_written"] = row.pop(column)
    return found


def _said(kind: str, ending: str, value: bytes, where: str) -> dict[str, Any]:
    if kind in ("json", "jsonl"):
        try:
            found = orjson.loads(value)
        except orjson.JSONDecodeError as error:
            raise _BadRow(f"{where}: no JSON: {error}") from error
        return found if isinstance(found, dict) else {("conversations" if isinstance(found, list) else ending): found}
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return {ending: f"({len(value)} bytes that are no text)"}
    return {"text" if kind in _CAPTIONS else ending: text}
