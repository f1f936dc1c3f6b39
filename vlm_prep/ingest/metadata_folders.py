"""Folders of media files with a table that names them.

metadata.jsonl, metadata.csv   `audiofolder`, `imagefolder`: `file_name` beside them, or in a folder (a split, data)
<split>.tsv and clips/         Common Voice as it is unpacked: `path` is a sound in clips/, `sentence` its words
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Final

from vlm_prep.core.errors import InputError
from vlm_prep.ingest.derived.speech_layouts import is_ljspeech
from vlm_prep.ingest.derived.tar_rows import MEDIA_ENDINGS
from vlm_prep.ingest.entry import Entry
from vlm_prep.ingest.mapping.compiled import compiled
from vlm_prep.ingest.splits import ALL, DEFAULT_SPLIT, no_split

_NAME: Final = re.compile(r"\.(\w{2,5})(?![\w.])")
_CLIPS: Final = "clips"
_VOICES: Final = frozenset(("client_id", "path", "sentence"))
"""Columns that a table of Common Voice has; its lists of sentences, lengths and reports have others."""


def metadata_file(place: Path, split: str | None) -> Path | None:
    """Return the table that names the media of a folder; None where it has none.

    Args:
        place: of media files, with a table among them or in a folder for each split; or a table of Common Voice itself.
        split: None takes the folder's own table, or that of `train`.

    Raises:
        InputError: several splits, or a part of one, of such a folder; or one that it has not.
    """
    if not place.is_dir():
        return place if split is None and _is_voices(place) else None
    if split and ((name := split.partition("[")[0].partition("+")[0].strip()) != split or split == ALL):
        if metadata_file(place, None if split == ALL else name) is not None:
            raise InputError(
                f"{place}: split {split!r}: of a folder with a metadata file one whole split is read",
                "`limit` takes its first rows; write an entry of a meta JSON for each split to read several.",
            )
        return None
    places = (place / split,) if split else (place, place / DEFAULT_SPLIT, place / "data")
    files = (each / name for each in places for name in ("metadata.jsonl", "metadata.csv"))
    found = next((file for file in files if file.is_file() and not is_ljspeech(file)), None)
    return found or _voices(place, split)


def described_entry(entry: Entry, place: Path, table: Path) -> Entry:
    """Return an entry with what such a table says of its columns and media, where the user says nothing.

    Args:
        entry: of the folder, or of the table.
        place: its path.
        table: of `metadata_file`.
    """
    inner = entry.file_name if table == place else os.path.join(entry.file_name, table.relative_to(place))
    said: dict[str, Any] = {"file_name": inner, "split": None}
    if table.suffix == ".tsv":
        usual = {"media_dir": str(table.parent / _CLIPS)}
        usual |= {"format": "asr"} if entry.mapping is None and entry.turns is None else {}
        said |= {key: value for key, value in usual.items() if getattr(entry, key) is None}
    else:
        columns = _named_media(table) | (entry.columns or {})
        named = compiled(entry.mapping).media if isinstance(entry.mapping, str) else entry.mapping or {}
        said["columns"] = {role: name for role, name in columns.items() if role not in named}
    return entry.model_copy(update=said)


def _named_media(described: Path) -> dict[str, str]:
    """Return which column of a metadata file holds media: `file_name`, of the kind of the first file that it names."""
    with described.open(encoding="utf-8", errors="replace") as file:
        head = file.read(1 << 16)
    endings = (found[1].lower() for found in _NAME.finditer(head.partition("file_name")[2]))
    kind = next((MEDIA_ENDINGS[each] for each in endings if each in MEDIA_ENDINGS), None)
    return {} if kind is None else {f"{kind}s": "file_name"}


def _voices(folder: Path, split: str | None) -> Path | None:
    """Return the table of a split of Common Voice, of its only one where none is asked for; None for another folder."""
    tables = {file.stem: file for file in sorted(folder.glob("*.tsv")) if _is_voices(file)}
    wanted = split or (next(iter(tables)) if len(tables) == 1 else DEFAULT_SPLIT)
    if tables and wanted not in tables:
        raise no_split(folder, list(tables), split)
    return tables.get(wanted)


def _is_voices(file: Path) -> bool:
    """Whether a file is a table of Common Voice with its sounds beside it."""
    if file.suffix != ".tsv" or not file.is_file() or not (file.parent / _CLIPS).is_dir():
        return False
    with file.open(encoding="utf-8-sig", errors="replace") as text:
        return set(text.readline(1 << 16).rstrip("\r\n").split("\t")) >= _VOICES
