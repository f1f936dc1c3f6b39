"""The rows of Parquet and Arrow files as one dataset: which files of a folder they are in, and how to read one.

A folder is a Hugging Face dataset in one of two forms: what `save_to_disk` wrote (`state.json`, `dataset_dict.json`),
or a repository of data files, where the `datasets` library says which files make a split (a README's `configs`, names
like `train-00000-of-00002.parquet`, folders like `train/`).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from vlm_prep.core.errors import InputError, Reject, RejectReason
from vlm_prep.core.fingerprint import digest_file, digest_json
from vlm_prep.core.regular_files import read_regular
from vlm_prep.ingest.embedded import mark
from vlm_prep.ingest.splits import Tables, tables_of
from vlm_prep.media.table_rows import TableKind, open_table, read_row, table_kind

_SUFFIXES: Final = (".parquet", ".arrow")


@dataclass(frozen=True, slots=True)
class TableIndex:
    """The rows of one or more tables, one after the other."""

    files: tuple[str, ...]
    """Absolute paths."""
    names: tuple[str, ...]
    """The files as reports name them."""
    starts: NDArray[np.int64]
    """(files + 1,) number of each file's first row, and of all rows."""
    kind: TableKind

    def __len__(self) -> int:
        return int(self.starts[-1])

    def place(self, row: int) -> tuple[int, int]:
        """Return (file, row in it), both 0-based."""
        if len(self.files) == 1:
            return 0, row
        file = int(np.searchsorted(self.starts, row, side="right")) - 1
        return file, row - int(self.starts[file])

    def read(self, row: int) -> dict[str, Any]:
        """Return a row, its media marked with their uris.

        Raises:
            Reject: bad_row, a value that Python cannot hold.
            InputError: the file is damaged or was changed.
        """
        file, place = self.place(row)
        return read_marked(self.files[file], place)

    def content_digest(self) -> str:
        """Return a digest of the files' bytes: of one file its own, else of all and their names."""
        digests = [digest_file(file) for file in self.files]
        return digests[0] if len(digests) == 1 else digest_json([list(self.names), digests])


def read_marked(file: str, row: int) -> dict[str, Any]:
    """Return a row of a file, its media marked with their uris. Raises as `TableIndex.read`."""
    try:
        value = read_row(file, row)
    except (ValueError, OverflowError) as error:
        raise Reject(RejectReason.BAD_ROW, f"a value cannot be read: {error}") from error
    marked: dict[str, Any] = mark(value, file, row, table=True)
    return marked


def build_table_index(files: Sequence[Path], root: Path, name: str) -> TableIndex:
    """Count the rows of tables.

    Args:
        files: absolute paths.
        root: the dataset's file or folder.
        name: what reports call it.

    Raises:
        InputError: a file is gone or damaged.
    """
    starts = np.cumsum([0, *(len(open_table(str(file))) for file in files)], dtype=np.int64)
    names = [name if file == root else os.path.join(name, os.path.relpath(file, root)) for file in files]
    kind = table_kind(str(files[0])) or "parquet"
    return TableIndex(tuple(map(str, files)), tuple(names), starts, kind)


def head_rows(files: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """Yield the first file's rows, as far as they are asked for; rows that cannot be read are left out."""
    for row in range(len(open_table(str(files[0])))):
        try:
            yield read_marked(str(files[0]), row)
        except Reject:
            continue


# ---- folders ----


def split_files(folder: Path, split: str | None, subset: str | None = None) -> Tables:
    """Return the files of a folder's split, in order.

    Args:
        folder: a Hugging Face dataset.
        split: see `splits`; None takes `train`, or the only one there is.
        subset: its configuration.

    Raises:
        InputError: the folder holds no dataset of Parquet or Arrow files, or no such split.
    """
    if (folder / "dataset_dict.json").is_file():
        names = _json(folder / "dataset_dict.json").get("splits") or []
        return tables_of(
            folder,
            split,
            names,
            lambda name: _saved_files(folder / name),
            lambda name: _count(_saved_files(folder / name)),
        )
    if (folder / "state.json").is_file():
        own = _json(folder / "state.json").get("_split")
        if split is None:
            return Tables(own, _saved_files(folder))
        return tables_of(
            folder, split, [own or "none"], lambda _: _saved_files(folder), lambda _: _count(_saved_files(folder))
        )
    found = {name: [Path(file) for file in files] for name, files in _repository_files(folder, subset).items()}
    return tables_of(folder, split, list(found), found.__getitem__, lambda name: _count(found[name]))


def _count(files: Sequence[Path]) -> int:
    return sum(len(open_table(str(file))) for file in files)


def _saved_files(folder: Path) -> tuple[Path, ...]:
    try:
        files = tuple(folder / entry["filename"] for entry in _json(folder / "state.json")["_data_files"])
    except KeyError as error:
        raise _no_dataset(folder, f"its state.json has no {error}") from error
    except TypeError as error:
        raise _no_dataset(folder, "its state.json lists no files") from error
    return files


def _json(path: Path) -> dict[str, Any]:
    try:
        value = orjson.loads(read_regular(path))
    except (OSError, ValueError) as error:
        raise _no_dataset(path.parent, f"{path.name}: {error}") from error
    if not isinstance(value, dict):
        raise _no_dataset(path.parent, f"{path.name} is not an object")
    return value


def _repository_files(folder: Path, subset: str | None) -> dict[str, Sequence[str]]:
    if not any(file.suffix in _SUFFIXES for file in folder.rglob("*")):
        raise _no_dataset(folder, "it holds no .parquet or .arrow file")
    import datasets

    try:
        # its cache folder gets nothing but a lock; it is not ours to make
        with tempfile.TemporaryDirectory() as cache:
            builder = datasets.load_dataset_builder(str(folder), subset, cache_dir=cache)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise _no_dataset(folder, " ".join(str(error).split())[:300]) from error
    if builder.name not in ("parquet", "arrow"):
        raise _no_dataset(folder, f"Hugging Face datasets reads it as {builder.name!r}")
    return {str(split): list(files) for split, files in builder.config.data_files.items()}


def _no_dataset(folder: Path, what: str) -> InputError:
    return InputError(
        f"{folder}: is a folder, and not a dataset of Parquet or Arrow files: {what}",
        "Give a folder that Hugging Face datasets opens (of several configurations one by `subset`), the output of "
        "`vlm-prep ingest`, a data file, or a meta JSON.",
    )
