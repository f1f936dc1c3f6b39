"""What to read: a meta JSON, or a data file or folder given directly → DatasetSpec for each dataset.

A meta JSON is `{name: {file_name, format, columns, tags, media_dir, sample_ratio, ...}}`, see `_Entry`. `file_name` and
`media_dir` start from the meta file's folder, so a meta file and its data move together and mean the same
from any working directory. Everything a person can get wrong here is an InputError before the first row is
read, with the nearest right name: one misspelt key that went unseen would cost a whole run.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, ValidationError

from vlm_prep.core.errors import InputError
from vlm_prep.core.remote import cached, is_remote
from vlm_prep.core.visible import excerpt
from vlm_prep.ingest.detect import resolve
from vlm_prep.ingest.json_scan import BOM
from vlm_prep.ingest.mapping.compiled import canonical, of_turns, read_mapping
from vlm_prep.ingest.names import (
    check_columns,
    check_durations,
    check_encoding,
    check_format,
    check_mapping,
    check_missing_tags,
    check_prompt,
    check_ratio,
    check_tags,
)
from vlm_prep.ingest.sniff import LINE_SUFFIXES, is_row, open_input
from vlm_prep.ingest.spec import COLUMN_NAMES, DatasetSpec, did_you_mean
from vlm_prep.ingest.table_files import metadata_file, split_files
from vlm_prep.media.table_rows import table_kind
from vlm_prep.media.text_files import plain_name

_HEAD = 64 << 10
_MAX_META = 64 << 20
_EXAMPLE: Final = 'A meta file looks like {"my_set": {"file_name": "rows.jsonl", "media_dir": "images"}}.'


class _Entry(BaseModel):
    """One dataset of a meta file, as written."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    file_name: str
    format: str | None = None
    columns: dict[str, str] | None = None
    tags: dict[str, str] | None = None
    media_dir: str | None = None
    sample_ratio: float | None = None
    split: str | None = None
    system_prompt: str | None = None
    user_prompt: str | None = None
    min_duration: float | None = None
    max_duration: float | None = None
    missing_tags: str | None = None
    ignore_keys: list[str] | None = None
    keep_columns: list[str] | None = None
    encoding: str | None = None
    lenient_json: bool | None = None
    rows_key: str | None = None
    mapping: str | dict[str, Any] | None = None
    turns: list[str] | None = None


def load_source(
    path: str | Path,
    *,
    datasets: Sequence[str] | None = None,
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
    tags: Mapping[str, str] | None = None,
    media_dir: str | Path | None = None,
    sample_ratio: float | None = None,
    split: str | None = None,
    system_prompt: str | None = None,
    user_prompt: str | None = None,
    min_duration: float | None = None,
    max_duration: float | None = None,
    missing_tags: str | None = None,
    ignore_keys: Sequence[str] | None = None,
    keep_columns: Sequence[str] | None = None,
    encoding: str | None = None,
    lenient_json: bool | None = None,
    rows_key: str | None = None,
    mapping: str | Mapping[str, Any] | None = None,
    turns: Sequence[str] | None = None,
) -> list[DatasetSpec]:
    """Return the datasets of a meta JSON, or the one of a data file or folder, resolved, in sorted order of names.

    Args:
        path: a meta JSON, a data file (JSON array, JSON lines, Parquet, Arrow), or the folder of a Hugging Face
            dataset; the content tells which. On an object store (`s3://`) a data file.
        datasets: the names to take; None takes all.
        format: how rows are spelt; None has it detected. As the arguments below, for a data file only; in a
            meta JSON it belongs to the entry.
        columns: column role → row key, see `spec.COLUMN_NAMES`.
        tags: tag → message key or role, see `spec.DEFAULT_TAGS`.
        media_dir: where relative media paths start; by default the data file's folder.
        sample_ratio: see `sampling`.
        split: of a folder; None takes `train`, or the only one.
        system_prompt: of format asr, see `formats.asr`.
        user_prompt: likewise.
        min_duration: seconds; shorter audio rejects its row, whatever the format.
        max_duration: likewise, longer.
        missing_tags: see `spec.DatasetSpec`, as the others below.
        ignore_keys: keys that mean nothing here.
        keep_columns: keys whose values travel with the rows.
        encoding: of a text file that is not UTF-8.
        lenient_json: take comments, trailing commas, Python literals and raw control characters for JSON.
        rows_key: the key of an object under which its rows stand.
        mapping: what the columns of a table are, as YAML or its value, see `ingest.mapping`; in a meta JSON an object,
            or the path of a file.
        turns: the same in short, `role=template` for each turn.

    Raises:
        InputError: a file, name, key or value that is not usable, and what to write in its place.
    """
    remote = str(path) if is_remote(path) else None
    path = Path(os.path.abspath(path))
    meta = None if remote else _read_meta(path)
    flags = {
        "format": format,
        "columns": columns,
        "tags": tags,
        "media_dir": media_dir,
        "sample_ratio": sample_ratio,
        "split": split,
        "system_prompt": system_prompt,
        "user_prompt": user_prompt,
        "min_duration": min_duration,
        "max_duration": max_duration,
        "missing_tags": missing_tags,
        "ignore_keys": None if ignore_keys is None else list(ignore_keys),
        "keep_columns": None if keep_columns is None else list(keep_columns),
        "encoding": encoding,
        "lenient_json": lenient_json or None,
        "rows_key": rows_key,
        "mapping": read_mapping(mapping) if isinstance(mapping, str) else mapping and dict(mapping),
        "turns": None if turns is None else list(turns),
    }
    given = {name: value for name, value in flags.items() if value is not None}
    if meta is None:
        if media_dir is not None:
            given["media_dir"] = str(media_dir) if is_remote(media_dir) else os.path.abspath(media_dir)
        meta = {Path(plain_name(path)).stem: {"file_name": remote or path.name} | given}
    elif given:
        names = ", ".join(given)
        raise InputError(f"{path}: {names} cannot be given for a meta file", "Write it in the dataset's entry.")
    return [resolve(_spec(path, name, meta[name])) for name in _asked(path, meta, datasets)]


def _asked(path: Path, meta: Mapping[str, Any], datasets: Sequence[str] | None) -> list[str]:
    if not meta:
        raise InputError(f"{path}: names no datasets", _EXAMPLE)
    for name in datasets or ():
        if name not in meta:
            known = ", ".join(sorted(meta))
            raise InputError(f"{path}: no dataset {name!r}", f"It has: {known}.{did_you_mean(name, meta)}")
    return sorted(set(datasets)) if datasets else sorted(meta)


def _spec(path: Path, name: str, written: object) -> DatasetSpec:
    entry = _validate(path, name, written)
    remote = entry.file_name if is_remote(entry.file_name) else None
    file = cached(remote) if remote else path.parent / entry.file_name
    if not file.exists():
        raise InputError(f"{path}: dataset {name!r}: no data file {entry.file_name!r}", f"Looked for {file}.")
    where = f"dataset {name!r}"
    file = Path(os.path.abspath(file))
    described = metadata_file(file, entry.split) if file.is_dir() else None
    if described is not None:
        entry = entry.model_copy(
            update={"file_name": os.path.join(entry.file_name, described.relative_to(file)), "split": None}
        )
        file = described
    split, tables = _tables(where, file, entry.split)
    media_dir = _media_dir(path, file, entry)
    mapping = _mapping(path, where, entry)
    check_mapping(where, entry.format, mapping)
    check_durations(where, entry.min_duration, entry.max_duration)
    return DatasetSpec(
        name=name,
        file=file,
        file_name=entry.file_name,
        media_dir=media_dir,
        format=check_format(where, entry.format),
        columns=(columns := check_columns(where, entry.columns or {})),
        given_columns=frozenset(columns),
        tags=(tags := check_tags(where, entry.tags or {})),
        given_tags=frozenset(tags),
        sample_ratio=check_ratio(where, 1.0 if entry.sample_ratio is None else entry.sample_ratio),
        tables=tables,
        split=split,
        system_prompt=check_prompt(where, "system_prompt", entry.system_prompt),
        user_prompt=check_prompt(where, "user_prompt", entry.user_prompt),
        min_duration=entry.min_duration,
        max_duration=entry.max_duration,
        missing_tags=check_missing_tags(where, entry.missing_tags),
        ignore_keys=tuple(entry.ignore_keys or ()),
        keep_columns=tuple(entry.keep_columns or ()),
        encoding=check_encoding(where, entry.encoding),
        lenient_json=bool(entry.lenient_json),
        rows_key=entry.rows_key,
        mapping=mapping,
    )


def _mapping(path: Path, where: str, entry: _Entry) -> str | None:
    """Return the mapping that an entry says, as an object or by the path of a file."""
    if entry.mapping is not None and entry.turns is not None:
        raise InputError(f"{where}: mapping and turns both say what the columns are", "Leave one out.")
    if entry.turns is not None:
        return of_turns(entry.turns)
    if not isinstance(entry.mapping, str):
        return None if entry.mapping is None else canonical(entry.mapping, f"{where}: mapping")
    file = path.parent / entry.mapping
    try:
        return canonical(file.read_text(encoding="utf-8"), str(file))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{where}: mapping {entry.mapping!r}: {error}", "Give a YAML file in UTF-8.") from error


def _media_dir(path: Path, file: Path, entry: _Entry) -> Path | str:
    """Return where relative media paths start: where the user says, else beside the data file."""
    if is_remote(entry.media_dir):
        return str(entry.media_dir)
    if entry.media_dir is not None:
        return Path(os.path.abspath(path.parent / entry.media_dir))
    if is_remote(entry.file_name):
        return entry.file_name.rpartition("/")[0]
    return Path(os.path.abspath(file if file.is_dir() else file.parent))


def _tables(where: str, file: Path, split: str | None) -> tuple[str | None, tuple[Path, ...]]:
    """Return the split and the tables of a dataset's folder or file; none for JSON."""
    if file.is_dir():
        return split_files(file, split)
    if split is not None:
        raise InputError(f"{where}: split {split!r} of a single file", "Leave it out: a file is read whole.")
    return None, (file,) if table_kind(str(file)) else ()


def _validate(path: Path, name: str, written: object) -> _Entry:
    try:
        return _Entry.model_validate(_plain(written))
    except ValidationError as error:
        fault = error.errors()[0]
    where = f"{path}: dataset {name!r}"
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        keys = list(_Entry.model_fields)
        hint = f"An entry may have: {', '.join(keys)}.{did_you_mean(key, keys)}"
        raise InputError(f"{where}: unknown key {key!r}", hint)
    if fault["type"] == "missing":
        raise InputError(f"{where}: file_name is missing", _EXAMPLE)
    found = excerpt(fault["input"] if key else written)
    what = f"{key}: {fault['msg']}, found {found}" if key else f"is {found}, not an object"
    raise InputError(f"{where}: {what}", _EXAMPLE)


def _plain(written: object) -> object:
    """Return the entry with mappings as dicts, which is all that strict validation takes."""
    if not isinstance(written, Mapping):
        return written
    return {key: dict(value) if isinstance(value, Mapping) else value for key, value in written.items()}


# ---- the meta file ----


def _read_meta(path: Path) -> dict[str, Any] | None:
    """Return the object in a meta JSON, or None when `path` is a data file or a folder."""
    if path.is_dir() or table_kind(str(path)):
        return None
    with open_input(path) as file:
        head = file.read(_HEAD)
        if not head.removeprefix(BOM).lstrip().startswith(b"{") or path.suffix.lower() in LINE_SUFFIXES:
            return None
        if os.fstat(file.fileno()).st_size > _MAX_META:
            return None
        data = (head + file.read()).removeprefix(BOM)
    try:
        value: dict[str, Any] = json.loads(data.decode(), object_pairs_hook=_unique_keys)
    except _RepeatedKeyError as error:
        if not _names_files(data):
            return None
        raise InputError(f"{path}: {error.args[0]!r} is written twice in one object", "Rename one.") from error
    except (ValueError, RecursionError) as error:
        if not _names_files(data) or is_row(data.lstrip().split(b"\n", 1)[0]):
            return None  # data, and what is wrong with it is found there
        if isinstance(error, json.JSONDecodeError):
            raise _malformed(path, error) from error
        raise InputError(f"{path}: cannot be read as a meta file: {error}", _EXAMPLE) from error
    return value if _is_meta(value) else None


def _names_files(data: bytes) -> bool:
    return b'"file_name"' in data


def _is_meta(value: dict[str, Any]) -> bool:
    """Tell a meta file from a row, or an object of rows: its entries have a file_name, or what is meant for one."""
    if not value:
        return True
    entries = [entry for entry in value.values() if isinstance(entry, dict)]
    if any("file_name" in entry for entry in entries):
        return True
    keys = set(_Entry.model_fields) - {"system_prompt", "user_prompt", "columns", "format", "tags"}
    rows = {name for role in ("messages", "instruction", "text") for name in COLUMN_NAMES[role]}
    near = [entry for entry in entries if not rows & entry.keys() and (keys & entry.keys() or _nearly_names(entry))]
    return bool(entries) and len(entries) == len(value) and len(near) == len(entries)


def _nearly_names(entry: dict[str, Any]) -> bool:
    return any(isinstance(entry[key], str) and did_you_mean(key, ("file_name", "file", "path")) for key in entry)


def _malformed(path: Path, error: json.JSONDecodeError) -> InputError:
    lines = error.doc.splitlines()
    text = lines[error.lineno - 1].strip() if error.lineno <= len(lines) else ""
    return InputError(
        f"{path}: line {error.lineno}, column {error.colno}: not valid JSON: {error.msg}",
        f"The line reads: {text[:200]}",
    )


class _RepeatedKeyError(Exception):
    """A key stands twice in one object; JSON would keep the last one and lose the first."""


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        raise _RepeatedKeyError(counts.most_common(1)[0][0])
    return value
