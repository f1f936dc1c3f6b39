"""The meta JSON: `{name: {file_name, ...}}`, told from data, and what is wrong with one that is damaged."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

from vlm_prep.core.errors import InputError
from vlm_prep.ingest.derived.other_tools import is_dataset_info
from vlm_prep.ingest.entry import EXAMPLE, Entry
from vlm_prep.ingest.json_scan import BOM
from vlm_prep.ingest.sniff import LINE_SUFFIXES, is_row, open_input
from vlm_prep.ingest.spec import COLUMN_NAMES, did_you_mean
from vlm_prep.media.table_rows import table_kind

_HEAD = 64 << 10
_MAX_META = 64 << 20


def read_meta(path: Path) -> dict[str, Any] | None:
    """Return the object in a meta JSON, or None when `path` is a data file or a folder."""
    if path.is_dir() or table_kind(str(path)) or path.suffix.lower() == ".tar":
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
        raise InputError(f"{path}: cannot be read as a meta file: {error}", EXAMPLE) from error
    return value if _is_meta(value) or is_dataset_info(path, value) else None


def _names_files(data: bytes) -> bool:
    return b'"file_name"' in data


def _is_meta(value: dict[str, Any]) -> bool:
    """Tell a meta file from a row, or an object of rows: its entries have a file_name, or what is meant for one."""
    if not value:
        return True
    entries = [entry for entry in value.values() if isinstance(entry, dict)]
    if any("file_name" in entry and not _is_row(entry) for entry in entries):
        return True
    keys = set(Entry.model_fields) - {"system_prompt", "user_prompt", "columns", "format", "tags"}
    rows = {name for role in ("messages", "instruction", "text") for name in COLUMN_NAMES[role]}
    near = [entry for entry in entries if not rows & entry.keys() and (keys & entry.keys() or _nearly_names(entry))]
    return bool(entries) and len(entries) == len(value) and len(near) == len(entries)


def _is_row(entry: dict[str, Any]) -> bool:
    """Whether an object holds a conversation: a row, which may name a file of its own."""
    return any(isinstance(entry.get(name), list) for name in COLUMN_NAMES["messages"])


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
