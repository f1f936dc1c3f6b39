"""What to read: a meta JSON, or a data file, folder, preset or hub set given directly → DatasetSpec for each dataset.

A meta JSON is `{name: {file_name, format, columns, tags, media_dir, sample_ratio, ...}}`, see `entry.Entry`.
`file_name` and `media_dir` start from the meta file's folder, so a meta file and its data move together and mean the
same from any working directory. Everything a person can get wrong here is an InputError before the first row is
read, with the nearest right name: one misspelt key that went unseen would cost a whole run.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Unpack, get_args

from vlm_prep.core.errors import InputError
from vlm_prep.core.named_sources import is_named, meant_by, source_stem
from vlm_prep.core.regular_files import read_regular
from vlm_prep.core.remote import cached, is_remote
from vlm_prep.core.settings import MissingTags, RepeatedTags, TagBlanks
from vlm_prep.ingest.derived.axolotl import axolotl_meta
from vlm_prep.ingest.derived.derived_rows import Derived, derived, of_tars
from vlm_prep.ingest.derived.energon import metadataset
from vlm_prep.ingest.derived.nemo_tars import folder_of
from vlm_prep.ingest.derived.other_tools import as_meta, described_in, is_dataset_info
from vlm_prep.ingest.derived.tar_rows import spelt_range
from vlm_prep.ingest.detect import resolve
from vlm_prep.ingest.entry import EXAMPLE, Entry, SourceOptions, validated
from vlm_prep.ingest.hub_sets import HubTables, hub_tables
from vlm_prep.ingest.interleave import Mix, read_mix
from vlm_prep.ingest.mapping.compiled import canonical, of_turns, read_mapping
from vlm_prep.ingest.meta_file import read_meta
from vlm_prep.ingest.metadata_folders import described_entry, metadata_file
from vlm_prep.ingest.mock_rows import check_mock
from vlm_prep.ingest.names import (
    check_choice,
    check_columns,
    check_durations,
    check_encoding,
    check_format,
    check_mapping,
    check_prompt,
    check_ratio,
    check_tags,
)
from vlm_prep.ingest.presets.preset import preset_of, with_preset
from vlm_prep.ingest.spec import MEDIA_COLUMN_ALIASES, DatasetSpec, did_you_mean
from vlm_prep.ingest.splits import Tables
from vlm_prep.ingest.table_files import split_files
from vlm_prep.media.downloads import Downloads
from vlm_prep.media.table_rows import table_kind
from vlm_prep.media.text_files import plain_name

MIX: Final = "mix"
"""The key of a meta JSON that says how its datasets are mixed."""


@dataclass(frozen=True)
class Datasets:
    """What a source is."""

    specs: list[DatasetSpec]
    """In sorted order of names; of a mix in that of its shares."""
    mix: Mix | None
    """How they are mixed; None for one after the other."""


def load_source(path: str | Path, **how: Unpack[SourceOptions]) -> list[DatasetSpec]:
    """Return the datasets of a source, resolved, in sorted order of names, see `read_source`."""
    return read_source(path, **how).specs


def read_source(path: str | Path, **how: Unpack[SourceOptions]) -> Datasets:
    """Return the datasets of a meta JSON, or the one of a data file or folder, resolved, and how they are mixed.

    Args:
        path: a meta JSON, a data file (JSON array, JSON lines, Parquet, Arrow), or the folder of a Hugging Face
            dataset; the content tells which. On an object store (`s3://`) a data file. Or a name: `preset:NAME[=path]`,
            `hf:owner/name[@revision]`, `mock:rows=8`.
        how: see `entry.SourceOptions`; all but `datasets` (the names to take; None takes all) and how they are mixed
            for a data file only, in a meta JSON it belongs to the entry.

    Raises:
        InputError: a file, name, key or value that is not usable, and what to write in its place.
    """
    given = {name: value for name, value in _options(how).items() if value is not None}
    datasets, hook = given.pop("datasets", None), given.pop("row_hook", None)
    hosts, private = given.pop("download", None), given.pop("download_private", False)
    downloads = Downloads(tuple(hosts), private) if hosts else None
    mix: dict[str, Any] = {name: given.pop(name) for name in ("mix", "mix_stop", "mix_seed") if name in given}
    named = str(path) if is_named(path) or is_remote(path) else None
    place = Path(os.path.abspath(path))
    if named is None and not place.exists() and (meant := meant_by(str(path))):
        raise InputError(f"{path}: no such file", meant)
    place = place if named else described_in(place)
    preset = None if named is None else preset_of(named)
    is_file = not named and not _is_made_of_files(place)
    blended = metadataset(place, given) if is_file else None
    found = blended or ((axolotl_meta(place) or read_meta(place)) if is_file else None)
    written_mix = _mix_of(found) if found is not None else None if preset is None else preset.mix
    if preset is not None:
        meta = preset.entries(given)
    elif found is None:
        name = Path(plain_name(place)).stem if named is None else source_stem(named)
        meta = {name: {"file_name": named or place.name} | given}
    elif given and blended is None:
        names = ", ".join(given)
        raise InputError(f"{path}: {names} cannot be given for a meta file", "Write it in the dataset's entry.")
    else:
        meta = found
        if is_dataset_info(place, meta):
            meta = as_meta(place, meta, _asked(place, meta, datasets))
    asked = _asked(place, meta, datasets)
    mixed = read_mix(str(path), written_mix, mix, asked)
    specs = [
        resolve(replace(_spec(place, name, meta[name]), row_hook=hook, downloads=downloads))
        for name in (asked if mixed is None else mixed.names)
    ]
    return Datasets(specs, mixed)


def _is_made_of_files(place: Path) -> bool:
    """Whether a path is no file's own: a range of tars, or a table of a database."""
    return not place.exists() and (spelt_range(place.name) is not None or "{" in place.name or "::" in place.name)


def _options(how: Mapping[str, Any]) -> dict[str, Any]:
    """Return options as entries have them: plain values, paths absolute."""
    given = dict(how)
    for name in ("ignore_keys", "keep_columns", "turns"):
        if given.get(name) is not None:
            given[name] = list(given[name])
    if not given.get("lenient_json"):
        given.pop("lenient_json", None)
    mapping = given.get("mapping")
    given["mapping"] = read_mapping(mapping) if isinstance(mapping, str) else mapping and dict(mapping)
    media_dir = given.get("media_dir")
    if media_dir is not None:
        given["media_dir"] = str(media_dir) if is_remote(media_dir) else os.path.abspath(media_dir)
    return given


def _mix_of(meta: dict[str, Any]) -> Any:
    """Take what is said of mixing out of a meta file; a dataset may have this name, too."""
    written = meta.get(MIX)
    return meta.pop(MIX) if isinstance(written, Mapping) and "file_name" not in written else None


def _asked(path: Path, meta: Mapping[str, Any], datasets: Sequence[str] | None) -> list[str]:
    if not meta:
        raise InputError(f"{path}: names no datasets", EXAMPLE)
    for name in datasets or ():
        if name not in meta:
            known = ", ".join(sorted(meta))
            raise InputError(f"{path}: no dataset {name!r}", f"It has: {known}.{did_you_mean(name, meta)}")
    return sorted(set(datasets)) if datasets else sorted(meta)


def _spec(path: Path, name: str, written: object) -> DatasetSpec:
    entry = with_preset(validated(path, name, written), path.parent)
    where = f"dataset {name!r}"
    commit = None
    if entry.file_name.startswith("mock:"):
        file, tables = Path(check_mock(entry.file_name)), Tables()
    elif is_named(entry.file_name):
        hub = hub_tables(entry.file_name, entry.subset, entry.split)
        entry, file, tables = _of_hub(entry, hub)
        commit = hub.commit
    else:
        entry, file, tables = _files(path, name, entry)
    media_dir = _media_dir(path, file, entry)
    columns = check_columns(where, entry.columns or {})
    media = {role: columns.pop(role) for role in MEDIA_COLUMN_ALIASES if entry.turns is not None and role in columns}
    mapping = _mapping(path, where, entry, media)
    check_mapping(where, entry.format, mapping, columns)
    if mapping is not None and entry.tag_blanks is not None:
        raise InputError(f"{where}: tag_blanks is not for a mapping", "`strip: true` in it says the same.")
    check_durations(where, entry.min_duration, entry.max_duration)
    return DatasetSpec(
        name=name,
        file=file,
        file_name=entry.file_name,
        media_dir=media_dir,
        format=check_format(where, entry.format),
        is_given_format=entry.format is not None,
        columns=columns,
        given_columns=frozenset(columns),
        tags=(tags := check_tags(where, entry.tags or {})),
        given_tags=frozenset(tags),
        sample_ratio=check_ratio(where, 1.0 if entry.sample_ratio is None else entry.sample_ratio),
        tables=tables.files,
        rows=tables.rows,
        split=tables.split,
        subset=entry.subset,
        commit=commit,
        limit=entry.limit,
        system_prompt=check_prompt(where, "system_prompt", entry.system_prompt),
        user_prompt=check_prompt(where, "user_prompt", entry.user_prompt),
        min_duration=entry.min_duration,
        max_duration=entry.max_duration,
        missing_tags=check_choice(where, "missing_tags", entry.missing_tags, get_args(MissingTags)),
        repeated_tags=check_choice(where, "repeated_tags", entry.repeated_tags, get_args(RepeatedTags)),
        tag_blanks=check_choice(where, "tag_blanks", entry.tag_blanks, get_args(TagBlanks)),
        ignore_keys=tuple(entry.ignore_keys or ()),
        keep_columns=tuple(entry.keep_columns or ()),
        encoding=check_encoding(where, entry.encoding),
        lenient_json=bool(entry.lenient_json),
        rows_key=entry.rows_key,
        mapping=mapping,
    )


def _mapping(path: Path, where: str, entry: Entry, media: Mapping[str, str]) -> str | None:
    """Return the mapping that an entry says, as an object or by the path of a file."""
    if entry.mapping is not None and entry.turns is not None:
        raise InputError(f"{where}: mapping and turns both say what the columns are", "Leave one out.")
    if entry.turns is not None:
        return of_turns(entry.turns, media)
    if not isinstance(entry.mapping, str):
        return None if entry.mapping is None else canonical(entry.mapping, f"{where}: mapping")
    file = path.parent / entry.mapping
    try:
        return canonical(read_regular(file).decode(), str(file))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{where}: mapping {entry.mapping!r}: {error}", "Give a YAML file in UTF-8.") from error


def _media_dir(path: Path, file: Path, entry: Entry) -> Path | str:
    """Return where relative media paths start: where the user says, else beside the data file."""
    if is_remote(entry.media_dir):
        return str(entry.media_dir)
    if entry.media_dir is not None:
        return Path(os.path.abspath(path.parent / entry.media_dir))
    if is_remote(entry.file_name):
        return entry.file_name.rpartition("/")[0]
    return Path(os.path.abspath(file if file.is_dir() else file.parent))


def _of_hub(entry: Entry, hub: HubTables) -> tuple[Entry, Path, Tables]:
    """Return `_files` of a set of the hub."""
    if hub.are_tars:
        entry, file, _ = _as_made(entry, of_tars(hub.folder, list(hub.tables.files)))
        return entry, file, Tables(hub.tables.split)
    if hub.metadata is not None:
        return described_entry(entry, hub.folder, hub.metadata), hub.metadata, Tables(hub.tables.split)
    return entry, hub.folder, hub.tables


def _as_made(entry: Entry, made: Derived) -> tuple[Entry, Path, Tables]:
    """Return `_files` of rows that were written down."""
    said = {**made.options, "media_dir": str(made.media_dir)}
    if entry.mapping is not None or entry.format is not None or entry.columns:
        said.pop("turns", None)  # what the user says of the columns comes first
    if entry.mapping is not None or entry.turns is not None:
        said.pop("format", None)
    unsaid = {key: value for key, value in said.items() if getattr(entry, key) is None}
    tables = Tables(entry.split, (made.file,)) if table_kind(str(made.file)) else Tables(entry.split)
    return entry.model_copy(update=unsaid), made.file, tables


def _files(path: Path, name: str, entry: Entry) -> tuple[Entry, Path, Tables]:
    """Return the file or folder of an entry and, of a dataset of tables, which they are."""
    remote = entry.file_name if is_remote(entry.file_name) else None
    file = cached(remote) if remote else path.parent / entry.file_name
    file = Path(os.path.abspath(file))
    file = folder_of(file) if entry.media_dir is None else file
    described = None if remote else metadata_file(file, entry.split)
    made = None if described else derived(file, entry.split)
    if made is not None:
        if entry.subset is not None:
            raise InputError(f"dataset {name!r}: subset {entry.subset!r} of what has none", "Leave it out.")
        return _as_made(entry, made)
    if not file.exists():
        meta = f"{path}: " if path.is_file() else ""  # a preset is none
        raise InputError(f"{meta}dataset {name!r}: no data file {entry.file_name!r}", f"Looked for {file}.")
    if described is not None:
        return described_entry(entry, file, described), described, Tables()
    if not file.is_dir():
        for setting in ("split", "subset"):
            if (value := getattr(entry, setting)) is not None:
                where = f"dataset {name!r}: {setting} {value!r}"
                raise InputError(f"{where} of a single file", "Leave it out: a file is read whole.")
        return entry, file, Tables(files=(file,) if table_kind(str(file)) else ())
    return entry, file, split_files(file, entry.split, entry.subset)
