"""What the first rows of a data file say about it: format, conversation column, tags, and misspelt columns.

Stands between `meta` (what the user wrote) and `rows`: `resolve` fills in what the user left out, once for
each dataset and from the first readable row only, so the answer is the same on every run and can be shown.
What the user wrote always wins. At most 64 rows and 4 MiB are read; one byte search through the file is added
where a named column is in none of those rows, because text-only rows often come first.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any, Final

import orjson

from vlm_prep.core.errors import InputError, Reject
from vlm_prep.core.row_json import RowJsonError, parse_row
from vlm_prep.ingest.format_packages import outside_format, recognised
from vlm_prep.ingest.formats.letter_case import row_of_usual_case
from vlm_prep.ingest.formats.usual_turns import of_gemini
from vlm_prep.ingest.json_scan import BOM, elements
from vlm_prep.ingest.mapping.compiled import compiled
from vlm_prep.ingest.names import require_distinct_tags
from vlm_prep.ingest.row_hook import hooked
from vlm_prep.ingest.sniff import text_form
from vlm_prep.ingest.spec import (
    ASR_AUDIO,
    ASR_AUDIO_COLUMNS,
    COLUMN_NAMES,
    DEFAULT_TAGS,
    FROM_VALUE_TAGS,
    QUERY_COLUMNS,
    DatasetSpec,
    Format,
    did_you_mean,
)
from vlm_prep.ingest.table_files import head_rows

Row = dict[str, Any]

_HEAD_ROWS = 64
_HEAD_TABLE_ROWS = 8
"""Every row of a table has every column."""
_HEAD_BYTES = 4 << 20
_REQUIRED: Final = ("messages", "instruction", "output")
_OPTIONAL: Final = ("images", "videos", "audios", "tools", "system", "id", "input", "history")


def resolve(spec: DatasetSpec) -> DatasetSpec:
    """Return `spec` with its format, conversation column and tags filled in from the head of its file.

    Raises:
        InputError: the file is not one we read, or a column or key the user named is not in it.
    """
    if spec.is_mock:
        return replace(spec, format="messages")
    with spec.own_name():
        given = list(_through_hook(spec, head_objects(spec)))
    if given and (spec.is_outside or not _says_form(spec)):
        spec = replace(spec, format=spec.format or recognised(given[0], spec.file_name))
    if spec.is_outside:
        return _resolve_outside(spec, given)
    rows = list(_usual(spec, given))
    if not rows:
        return replace(spec, format=spec.format or ("sharegpt" if spec.mapping is None else "mapping"))
    for role in spec.columns:
        _check_column(spec, role, rows)
    spec = _resolve_kept(spec, rows)
    if spec.mapping is not None:
        return _resolve_mapping(spec, rows)
    first = rows[0]
    if spec.format is None and _is_query(spec, first):
        spec = replace(spec, format="alpaca", columns=QUERY_COLUMNS | spec.columns)
    kind = spec.format or _detect_format(spec, first)
    if kind == "asr":
        return _resolve_asr(spec, rows)
    _refuse_prompts(spec, kind)
    if kind == "alpaca":
        return replace(spec, format=kind)
    column = next((name for name in spec.column_names("messages") if name in first), None)
    if column is None:
        return replace(spec, format=kind)
    spec = replace(spec, format=kind, columns=spec.columns | {"messages": column})
    _check_message_keys(spec, rows)
    return replace(spec, tags=_detect_tags(spec, _messages(spec, first)))


def _says_form(spec: DatasetSpec) -> bool:
    """Whether the user says how rows are read, in words that mean something to our own formats alone."""
    named = spec.given_columns - {"id"} or spec.given_tags
    return spec.format is not None or spec.mapping is not None or bool(named)


def _resolve_outside(spec: DatasetSpec, rows: list[Row]) -> DatasetSpec:
    """Return `spec` of a package's format, which names columns and roles itself."""
    found = outside_format(str(spec.format))
    for name, given in (("columns", spec.given_columns - {"id"}), ("tags", spec.given_tags)):
        if given:
            what = f"dataset {spec.name!r}: {name} ({', '.join(sorted(given))}) mean nothing to {found}"
            raise InputError(what, f"It reads {', '.join(sorted(found.columns))}. Leave them out.")
    if spec.mapping is not None:
        raise InputError(f"dataset {spec.name!r}: {found} and a mapping both say how rows are read", "Leave one out.")
    _refuse_prompts(spec, found.name)
    # so it is read alike whether it was named or recognised
    return replace(_resolve_kept(spec, rows) if rows else spec, is_given_format=True)


def _resolve_asr(spec: DatasetSpec, rows: list[Row]) -> DatasetSpec:
    """Return `spec` with the columns of the audio and of the transcript; of several transcripts each row its own."""
    columns = dict(spec.columns)
    for role, names in (("audios", ASR_AUDIO_COLUMNS), ("text", COLUMN_NAMES["text"])):
        if role in columns:
            _check_column(spec, role, rows, required=True)
            continue
        filled = [name for name in names if any(row.get(name) is not None for row in rows)]
        found = filled or [name for name in names if any(name in row for row in rows)]
        option = "audio" if role == "audios" else role
        has = ", ".join(repr(name) for name in islice(rows[0], 20))
        if not found:
            raise InputError(
                f"dataset {spec.name!r}: no {option} column in {spec.file_name}",
                f"Its rows have: {has}. Name it: `columns={option}=NAME`, or columns in a meta JSON.",
            )
        if role == "text" and len(found) > 1:
            said = ({row[name] for name in names if isinstance(row.get(name), str) and row[name]} for row in rows)
            if all(len(each) < 2 for each in said):
                continue  # no row has two
            raise InputError(
                f"dataset {spec.name!r}: the transcript may be {' or '.join(map(repr, found))} in {spec.file_name}",
                f"Say which: `columns=text={found[0]}`, or columns in a meta JSON.",
            )
        columns[role] = found[0]
    return replace(spec, format="asr", columns=columns)


def _resolve_kept(spec: DatasetSpec, rows: list[Row]) -> DatasetSpec:
    """Return `spec` with the columns that travel with its rows: the id's where there is one, and those asked for."""
    for column in spec.keep_columns:
        if not any(column in row for row in rows) and not _occurs(spec, column):
            has = ", ".join(repr(name) for name in islice(rows[0], 20))
            raise InputError(
                f"dataset {spec.name!r}: no column {column!r} (keep_columns) in {spec.file_name}",
                f"Its rows have: {has}.{did_you_mean(column, rows[0])}",
            )
    ids = [name for name in spec.column_names("id") if any(name in row for row in rows)]
    return replace(spec, kept=tuple(dict.fromkeys((*ids, *spec.keep_columns))))


def _resolve_mapping(spec: DatasetSpec, rows: list[Row]) -> DatasetSpec:
    """Return `spec` with format mapping; every column that its mapping needs is in one of the rows."""
    if spec.format not in (None, "mapping"):
        raise InputError(
            f"dataset {spec.name!r}: format {spec.format} and a mapping both say how rows are read",
            "Leave one of them out.",
        )
    _refuse_prompts(spec, "mapping")
    for path, is_needed in compiled(spec.mapping or "").columns.items():
        names = {path[0], ".".join(path)}
        if is_needed and not any(names & row.keys() for row in rows) and not _occurs(spec, path[0]):
            has = ", ".join(repr(name) for name in islice(rows[0], 20))
            raise InputError(
                f"dataset {spec.name!r}: no column {path[0]!r} (mapping) in {spec.file_name}",
                f"Its rows have: {has}.{did_you_mean(path[0], rows[0])}",
            )
    return replace(spec, format="mapping")


def _refuse_prompts(spec: DatasetSpec, kind: str) -> None:
    for name in ("system_prompt", "user_prompt"):
        if getattr(spec, name) is not None:
            raise InputError(
                f"dataset {spec.name!r}: {name} belongs to format asr, and the rows of {spec.file_name} are {kind}",
                "Leave it out, or read the rows with `format=asr`.",
            )


def _through_hook(spec: DatasetSpec, rows: Iterable[Row]) -> Iterator[Row]:
    """Yield rows as the user's hook gives them, without those that it leaves out."""
    for row in rows:
        try:
            yield row if spec.row_hook is None else hooked(spec.row_hook, row)
        except Reject:
            continue


def _usual(spec: DatasetSpec, rows: Iterable[Row]) -> Iterator[Row]:
    """Yield rows as our own formats read them, without those that say no more than what is wrong with them."""
    for row in rows:
        try:
            yield of_gemini(row_of_usual_case(row, spec))
        except Reject:
            continue


def head_objects(spec: DatasetSpec) -> Iterator[Row]:
    """Yield the first rows of a dataset that are objects, as they stand in its file; of a table at most 8, else 64."""
    if spec.tables:
        yield from islice(head_rows(spec.tables), _HEAD_TABLE_ROWS)
        return
    budget = _HEAD_BYTES
    for data in islice(_head_bytes(spec), _HEAD_ROWS):
        try:
            row, _ = parse_row(data, lenient=spec.lenient_json)
        except RowJsonError:
            row = None
        if isinstance(row, dict):
            yield row
        budget -= len(data)
        if budget < 0:
            return


def _head_bytes(spec: DatasetSpec) -> Iterator[bytes]:
    form = text_form(spec.text, spec.reading)
    with open(spec.text, "rb") as file:
        if form == "lines":
            yield from (text for line in file if (text := line.removeprefix(BOM).strip()))
        elif form == "cr_lines":
            head = file.read(_HEAD_BYTES).removeprefix(BOM)
            yield from (text for line in head.split(b"\r") if (text := line.strip()))
        else:
            found = elements(spec.text, form, rows_key=spec.rows_key, lenient=spec.lenient_json)
            for start, end, _ in found:
                file.seek(start)
                yield file.read(end - start)


def _detect_format(spec: DatasetSpec, first: Row) -> Format:
    if any(name in first for name in spec.column_names("messages")):
        structured = any(isinstance(message.get("content"), list) for message in _messages(spec, first))
        return "messages" if structured else "sharegpt"

    def has(*columns: str) -> bool:
        return any(name in first for name in columns)

    if has("texts") and _are(first["texts"], "user", "assistant"):
        return "texts"
    if has("prompt") and has("completion") and isinstance(first["prompt"], list | dict | str):
        return "completion"
    if has(*spec.column_names("instruction")) and has(*spec.column_names("output")):
        return "alpaca"
    audio = (spec.columns["audios"],) if "audios" in spec.columns else ASR_AUDIO
    return "asr" if has(*audio) and has(*spec.column_names("text")) else "sharegpt"


def _is_query(spec: DatasetSpec, first: Row) -> bool:
    """Return whether a row is one of ms-swift's `query` and `response`."""
    others = {name for role in ("messages", "instruction", "output") for name in spec.column_names(role)}
    return first.keys() >= {*QUERY_COLUMNS.values()} and others.isdisjoint(first)


def _are(value: object, *keys: str) -> bool:
    """Return whether a value is a list of objects with some keys; an empty one may be."""
    return isinstance(value, list) and all(isinstance(each, dict) and each.keys() >= {*keys} for each in value)


def _messages(spec: DatasetSpec, row: Row) -> list[Row]:
    """Return the row's messages that are objects; what else is wrong with them is the row's own matter."""
    messages = next((row[name] for name in spec.column_names("messages") if name in row), None)
    return [each for each in messages if isinstance(each, dict)] if isinstance(messages, list) else []


def _detect_tags(spec: DatasetSpec, messages: list[Row]) -> dict[str, str]:
    """Return the user's own tags, and the others in the style of the first row's messages."""
    keys = {key for message in messages for key in message}
    found = {tag: spec.tags.get(tag) or _present(tag, keys) for tag in ("role_tag", "content_tag")}
    roles = {role for message in messages if isinstance(role := message.get(found["role_tag"]), str)}
    style = FROM_VALUE_TAGS if _names_like_sharegpt(roles, found["role_tag"]) else DEFAULT_TAGS
    tags = style | found | spec.tags
    if "tool_tag" not in spec.tags:
        del tags["tool_tag"]  # left open, every usual name of a tool's turn is understood
    require_distinct_tags(f"dataset {spec.name!r}", tags)
    return tags


def _present(tag: str, keys: set[str]) -> str:
    other = FROM_VALUE_TAGS[tag]
    return other if other in keys and DEFAULT_TAGS[tag] not in keys else DEFAULT_TAGS[tag]


def _names_like_sharegpt(roles: set[str], role_key: str) -> bool:
    if roles & {"human", "gpt"}:
        return True
    return role_key == "from" and not roles & {"user", "assistant"}


# ---- names the user gave ----


def _check_column(spec: DatasetSpec, role: str, rows: list[Row], *, required: bool = False) -> None:
    column = spec.columns[role]
    if any(column in row for row in rows):
        return
    # a meta file may name what only some of its files have
    usual = role in _OPTIONAL and column in COLUMN_NAMES[role]
    if not required and role not in _REQUIRED and (usual or _occurs(spec, column)):
        return
    has = ", ".join(repr(name) for name in islice(rows[0], 20))
    raise InputError(
        f"dataset {spec.name!r}: no column {column!r} (columns.{role}) in {spec.file_name}",
        f"Its rows have: {has}.{did_you_mean(column, rows[0])}",
    )


def _occurs(spec: DatasetSpec, column: str) -> bool:
    """Return whether the file holds the column's name, as a JSON string, anywhere."""
    if spec.tables:
        return False
    with open(spec.text, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return any(data.find(written) >= 0 for written in {orjson.dumps(column), json.dumps(column).encode()})


def _check_message_keys(spec: DatasetSpec, rows: list[Row]) -> None:
    messages = [message for row in rows for message in _messages(spec, row)]
    if not messages:
        return
    for tag in ("role_tag", "content_tag"):
        key = spec.tags.get(tag)
        if key is not None and not any(key in message for message in messages):
            has = ", ".join(repr(name) for name in messages[0])
            raise InputError(
                f"dataset {spec.name!r}: no key {key!r} (tags.{tag}) in the messages of {spec.file_name}",
                f"Its messages have: {has}.{did_you_mean(key, messages[0])}",
            )
