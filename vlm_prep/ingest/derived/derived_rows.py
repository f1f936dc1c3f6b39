"""Which form a source has that is no file of rows, and its rows as JSON lines.

The lines lie in the cache (`$VLM_PREP_CACHE`), under what the source's files are: their names, sizes and times. They
are written whole or not at all, and made again where the source changed.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from vlm_prep.core.errors import InputError
from vlm_prep.core.fingerprint import digest_json
from vlm_prep.core.remote import cache_folder
from vlm_prep.ingest.derived import energon, folder_rows, nemo_tars, sql_rows, tar_rows
from vlm_prep.ingest.derived import speech_layouts as layouts
from vlm_prep.ingest.derived.lance_rows import as_parquet, is_lance
from vlm_prep.ingest.splits import ALL, no_split

_VERSION: Final = 2
_LAYOUT: Final = "docs/sources.md says what such a folder holds."


@dataclass(frozen=True)
class Derived:
    """A source's rows as they were written down."""

    file: Path
    """JSON lines, or Parquet."""
    media_dir: Path
    """Where relative media paths start."""
    options: dict[str, Any]
    """What an entry of a meta file says of such rows, where it says nothing itself."""


@dataclass(frozen=True)
class Form:
    """A form that a source may have."""

    name: str
    files: Callable[[Path, str | None], list[Path]]
    """The files that its rows are made of; none where the source has not this form."""
    rows: Callable[[Path, list[Path], str | None], Iterator[dict[str, Any] | str]]
    """Its rows, of a folder, these files, and the split that was asked for."""
    options: dict[str, Any]
    parts: Callable[[Path], list[str]] = lambda path: []
    """The splits that it has; none where the source has not this form."""
    described: Callable[[Path], object] = lambda base: None
    """What else its rows depend on."""


_SPEECH: Final = {"format": "asr"}
_TARS: Final = Form("webdataset", tar_rows.files, tar_rows.rows, {}, tar_rows.parts, energon.field_map)
FORMS: Final = (
    Form("nemo_tars", nemo_tars.nemo_files, nemo_tars.nemo, _SPEECH),  # before tars: they hold no texts
    _TARS,
    Form("librispeech", layouts.librispeech_files, layouts.librispeech, _SPEECH, layouts.librispeech_parts),
    Form("mls", layouts.mls_files, layouts.mls, _SPEECH, layouts.mls_parts),
    Form("aishell", layouts.aishell_files, layouts.aishell, _SPEECH, layouts.aishell_parts),
    Form("gigaspeech", layouts.gigaspeech_files, layouts.gigaspeech, _SPEECH, layouts.gigaspeech_parts),
    Form("fleurs", layouts.fleurs_files, layouts.fleurs, _SPEECH, layouts.fleurs_parts),
    Form("ljspeech", layouts.ljspeech_files, layouts.ljspeech, _SPEECH),
    Form("kaldi", layouts.kaldi_files, layouts.kaldi, _SPEECH, layouts.kaldi_parts),
    Form("sidecars", folder_rows.sidecar_files, folder_rows.sidecars, {}),
)
_OF_FILES: Final = frozenset(("gigaspeech",))
"""Forms whose splits are not in files of their own."""


def derived(path: Path, split: str | None) -> Derived | None:
    """Return the rows of a source that is no file of rows, None where it has another form.

    Args:
        path: a tar, a name with a range in braces, a database, or a folder.
        split: a part of it, where its form has parts; `all` is the whole.

    Raises:
        InputError: it has the form and cannot be read, or has no such split.
    """
    if (database := sql_rows.split_address(path)) is not None:
        _refuse_split(path, split)
        return Derived(sql_rows.as_parquet(*database), database[0].parent, {})
    if is_lance(path):
        _refuse_split(path, split)
        return Derived(as_parquet(path), path.parent, {})
    for form in FORMS:
        files = form.files(path, split)
        if not files and split == ALL and form.parts(path):
            files = form.files(path, None)
        if not files and split is not None and (parts := form.parts(path)):
            raise no_split(path, parts, split)
        if files:
            if not path.is_dir() and form.name not in _OF_FILES:
                _refuse_split(path, split)
            base = path if path.is_dir() else path.parent
            if form is _TARS:
                return of_tars(base, files)
            made = _written(form, base, files, split if form.name in _OF_FILES else None)
            return Derived(made, base, form.options)
    return None


def of_tars(base: Path, files: list[Path]) -> Derived:
    """Return the rows of WebDataset tars in a folder.

    Raises:
        InputError: a tar cannot be read.
    """
    turns = energon.turns_of(base)
    return Derived(_written(_TARS, base, files, None), base, {"turns": turns} if turns else {})


def _refuse_split(path: Path, split: str | None) -> None:
    if split is not None:
        raise InputError(f"{path}: split {split!r} of what has no splits", "Leave it out: it is read whole.")


def _written(form: Form, base: Path, files: list[Path], split: str | None) -> Path:
    stats = [(os.path.relpath(file, base), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    described = form.described(base)
    more = [each for each in (described, split and {"split": split}) if each]
    key = digest_json([_VERSION, form.name, str(base), stats, *more]).removeprefix("xxh3:")[:16]
    target = cache_folder() / "rows" / key / f"{base.name or 'rows'}.jsonl"
    if target.exists():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".rows-") as folder:
            temporary = Path(folder) / target.name
            with open(temporary, "wb") as out:
                for row in form.rows(base, files, split):
                    out.write(_line(row))
            if not temporary.stat().st_size:
                raise InputError(f"{base}: holds no rows, as {form.name}", _LAYOUT)
            os.replace(temporary, target)
    except (OSError, UnicodeError, ValueError) as error:
        raise InputError(
            f"{base}: cannot be read as {form.name}: {error}", "See docs/sources.md for the layout."
        ) from error
    return target


def _line(row: object) -> bytes:
    """Return a row as a line; of one that JSON cannot hold what is wrong, in its place, which is a reject."""
    try:
        return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:  # file systems and tars take any bytes as a name
        return orjson.dumps("a name in it is not UTF-8", option=orjson.OPT_APPEND_NEWLINE)
