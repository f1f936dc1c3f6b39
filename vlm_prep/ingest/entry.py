"""What may be said of one dataset: as an entry of a meta JSON, and as the options of a data file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypedDict

from pydantic import BaseModel, ConfigDict, ValidationError

from vlm_prep.core.errors import InputError
from vlm_prep.core.visible import excerpt
from vlm_prep.ingest.spec import did_you_mean

EXAMPLE: Final = 'A meta file looks like {"my_set": {"file_name": "rows.jsonl", "media_dir": "images"}}.'


class Entry(BaseModel):
    """One dataset of a meta file, as written."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    file_name: str
    preset: str | None = None
    format: str | None = None
    columns: dict[str, str] | None = None
    tags: dict[str, str] | None = None
    media_dir: str | None = None
    sample_ratio: float | None = None
    split: str | None = None
    subset: str | None = None
    limit: int | None = None
    system_prompt: str | None = None
    user_prompt: str | None = None
    min_duration: float | None = None
    max_duration: float | None = None
    missing_tags: str | None = None
    repeated_tags: str | None = None
    tag_blanks: str | None = None
    ignore_keys: list[str] | None = None
    keep_columns: list[str] | None = None
    encoding: str | None = None
    lenient_json: bool | None = None
    rows_key: str | None = None
    mapping: str | dict[str, Any] | None = None
    turns: list[str] | None = None


class SourceOptions(TypedDict, total=False):
    """How a source is read; the texts are those of `core.settings.SourceConfig`, whose fields these are."""

    datasets: Sequence[str] | None
    format: str | None
    columns: Mapping[str, str] | None
    tags: Mapping[str, str] | None
    media_dir: str | Path | None
    sample_ratio: float | None
    split: str | None
    subset: str | None
    system_prompt: str | None
    user_prompt: str | None
    min_duration: float | None
    max_duration: float | None
    missing_tags: str | None
    repeated_tags: str | None
    tag_blanks: str | None
    ignore_keys: Sequence[str] | None
    keep_columns: Sequence[str] | None
    encoding: str | None
    lenient_json: bool | None
    rows_key: str | None
    mapping: str | Mapping[str, Any] | None
    turns: Sequence[str] | None
    download: Sequence[str] | None
    download_private: bool | None
    row_hook: str | None
    mix: Mapping[str, float] | None
    mix_stop: str | None
    mix_seed: int | None


def validated(path: Path, name: str, written: object) -> Entry:
    try:
        return Entry.model_validate(_plain(written))
    except ValidationError as error:
        fault = error.errors()[0]
    where = f"{path}: dataset {name!r}"
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        keys = list(Entry.model_fields)
        hint = f"An entry may have: {', '.join(keys)}.{did_you_mean(key, keys)}"
        raise InputError(f"{where}: unknown key {key!r}", hint)
    if fault["type"] == "missing":
        raise InputError(f"{where}: file_name is missing", EXAMPLE)
    found = excerpt(fault["input"] if key else written)
    what = f"{key}: {fault['msg']}, found {found}" if key else f"is {found}, not an object"
    raise InputError(f"{where}: {what}", EXAMPLE)


def _plain(written: object) -> object:
    """Return the entry with mappings as dicts, which is all that strict validation takes."""
    if not isinstance(written, Mapping):
        return written
    return {key: dict(value) if isinstance(value, Mapping) else value for key, value in written.items()}
