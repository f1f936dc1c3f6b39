"""The files around the shards that make a folder open with `datasets` alone.

`load_from_disk(OUT)` wants dataset_dict.json, and state.json and dataset_info.json in each split; `load_dataset(OUT)`
wants a README with `configs` (a state.json at the root would make it refuse). None of them holds a time or a path.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from vlm_prep.core.atomic_files import write_bytes_atomically, write_table_atomically
from vlm_prep.core.bounds import unpacking
from vlm_prep.core.errors import StoreError
from vlm_prep.core.fingerprint import digest_bytes, digest_file
from vlm_prep.core.plain_text import settled
from vlm_prep.core.records import Rejected
from vlm_prep.core.regular_files import read_regular
from vlm_prep.core.run_yaml import is_unchanged
from vlm_prep.shards.manifest import Manifest, sealed, unsealed
from vlm_prep.shards.object_store import StorePath, store_path
from vlm_prep.shards.schema import KEPT, REJECTS, REJECTS_KEPT
from vlm_prep.shards.shard_info import ShardInfo
from vlm_prep.shards.store_names import (
    CARD,
    DATASET_DICT,
    MANIFEST,
    ORIGIN_FILE,
    REJECTS_FILE,
    ROOT_FILES,
    ROWS_FILE,
    RUN_FILE,
    SPLIT_FILES,
    STAGED_LIST,
)
from vlm_prep.shards.store_names import PLAN_FILE as PLAN_FILE
from vlm_prep.shards.store_names import is_store_entry as is_store_entry


def shard_name(index: int, count: int, suffix: str = ".arrow", retry: int = 0, update: int = 0) -> str:
    """Return `data-00003-of-00032.arrow`, or `data-retry1-00000-of-00001.arrow`, which sorts after all others; of an
    updated store all shards have the number of the update, `data-update2-00003-of-00033.arrow`."""
    head = f"retry{retry}-" if retry else f"update{update}-" if update else ""
    return f"data-{head}{index:05d}-of-{count:05d}{suffix}"


def write_dataset_files(folder: Path, splits: Mapping[str, list[ShardInfo]], *, card: str, fingerprint: str) -> None:
    """Write dataset_dict.json, each split's state.json and dataset_info.json (not for tars), and README.md.

    Args:
        folder: the store.
        splits: shards by split folder; empty splits are left out of what `datasets` sees.
        card: Markdown body of the README.
        fingerprint: of the run; `datasets` takes its head as its own cache key.
    """
    filled = {name: shards for name, shards in splits.items() if shards}
    arrow = {name: shards for name, shards in filled.items() if shards[0].name.endswith(".arrow")}
    if arrow or not filled:
        _write_json(folder / DATASET_DICT, {"splits": list(arrow)})
    for name, shards in arrow.items():
        _write_json(folder / name / "state.json", _state(name, shards, fingerprint))
        _write_json(folder / name / "dataset_info.json", {})
    write_bytes_atomically(folder / CARD, (_front_matter(filled) + card).encode())


def _state(split: str, shards: list[ShardInfo], fingerprint: str) -> dict[str, Any]:
    return {
        "_data_files": [{"filename": shard.name} for shard in shards],
        "_fingerprint": f"{fingerprint.removeprefix('xxh3:')[:16]}-{split}",
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": split,
    }


def must_be_unchanged(folder: StorePath, manifest: Manifest) -> None:
    """Make sure that the files beside the shards are as they were written.

    Raises:
        StoreError: one is missing or was changed.
    """
    if isinstance(folder, Path) and (folder / STAGED_LIST).exists():
        return  # a retry is replacing them, the manifest last: they are the store's of before or after
    if changed := next(changed_files(folder, manifest), None):
        raise StoreError(changed, "`vlm-prep verify` looks at the whole store; make it again, or copy it there again")


def _front_matter(splits: Mapping[str, list[ShardInfo]]) -> str:
    """The splits as `datasets` shows them: the folders, and for ranks also all of them together as "train"."""
    paths = {name: f"{name}/data-*{Path(shards[0].name).suffix}" for name, shards in splits.items()}
    if paths and all(name.startswith("rank_") for name in paths):
        together = {"train": "rank_*" + next(iter(paths.values()))[len("rank_00000") :]}
        return "\n".join(["---", "configs:", *_config("default", together), *_config("ranks", paths), "---", "", ""])
    return "\n".join(["---", "configs:", *_config("default", paths), "---", "", ""])


def _config(name: str, paths: Mapping[str, str]) -> list[str]:
    lines = [f"- config_name: {name}", "  data_files:"]
    for split, path in paths.items():
        # `datasets` allows word characters and dots only in the names of splits
        lines += [f"  - split: {split.replace('-', '_')}", f"    path: {path}"]
    return lines


def file_digests(folder: Path, splits: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return what the manifest says of the files beside the shards, {name: {bytes, xxh3}}.

    Args:
        folder: the store.
        splits: the folders of its shards.
    """
    beside = ROOT_FILES - {MANIFEST, ORIGIN_FILE, RUN_FILE, ROWS_FILE}
    names = [*beside, *(f"{split}/{name}" for split in splits for name in SPLIT_FILES)]
    paths = {name: folder / name for name in sorted(names)}
    return {
        name: {"bytes": path.stat().st_size, "xxh3": digest_file(path)}
        for name, path in paths.items()
        if path.is_file()
    }


def changed_files(folder: StorePath, manifest: Manifest) -> Iterator[str]:
    """Yield a line for each file beside the shards that is missing or is not as it was written.

    Args:
        folder: a finished store.
        manifest: its manifest.
    """

    def is_sealed(data: bytes) -> bool:
        # stores of earlier versions have no checksums, neither of the others nor of these
        return unsealed(data)[1] and (b'"checksum"' in data or not manifest.files)

    for name, unchanged in ((MANIFEST, is_sealed), (ORIGIN_FILE, is_sealed), (RUN_FILE, is_unchanged)):
        try:
            if not unchanged(read_regular(folder / name)):
                yield f"{folder / name}: was changed since it was written"
        except FileNotFoundError:
            pass  # a store need not say where its rows came from
        except (OSError, ValueError) as error:
            yield f"{folder / name}: {error}"
    yield from _changed_rows(folder)
    for name, about in manifest.files.items():
        try:
            data = read_regular(folder / name)
        except OSError as error:
            yield f"{folder / name}: {'missing' if isinstance(error, FileNotFoundError) else error}"
            continue
        if len(data) != about["bytes"] or digest_bytes(data) != about["xxh3"]:
            yield f"{folder / name}: was changed since it was written (checksum)"


def _changed_rows(folder: StorePath) -> Iterator[str]:
    """Yield a line where rows.parquet is not as origin.json says; a store that was copied need not have it."""
    try:
        data = read_regular(folder / ROWS_FILE)
    except FileNotFoundError:
        return
    except OSError as error:
        yield f"{folder / ROWS_FILE}: {error}"
        return
    try:
        said = unsealed(read_regular(folder / ORIGIN_FILE))[0].get("rows")
    except (OSError, ValueError):
        return  # what is wrong with origin.json is said of it
    if not isinstance(said, dict) or said.get("xxh3") != digest_bytes(data):
        yield f"{folder / ROWS_FILE}: was changed since it was written (checksum)"


def _write_json(path: Path, value: Any) -> None:
    write_bytes_atomically(path, orjson.dumps(value, option=orjson.OPT_INDENT_2) + b"\n")


def write_rejects(folder: Path, rejects: Iterable[Rejected]) -> int:
    """Write rejects.parquet (also when empty: its absence would be ambiguous) and return the number of rows."""
    rows = [{name: getattr(reject, name) for name in REJECTS_KEPT.names} for reject in rejects]
    schema = REJECTS_KEPT if any(row[KEPT] for row in rows) else REJECTS
    write_table_atomically(folder / REJECTS_FILE, pa.Table.from_pylist(rows, schema=schema))
    return len(rows)


def write_origin(folder: Path, origin: Mapping[str, Any]) -> None:
    """Write origin.json."""
    write_bytes_atomically(folder / ORIGIN_FILE, sealed(origin))


def read_origin(folder: Path) -> dict[str, Any] | None:
    """Return what origin.json says, None where there is none.

    Raises:
        StoreError: it is damaged.
    """
    path = folder / ORIGIN_FILE
    if not path.is_file():
        return None
    try:
        return unsealed(read_regular(path))[0]
    except ValueError as error:
        raise StoreError(f"{path} is damaged: {error}", "delete it, and give --source and --processor") from error


def read_rejects(folder: str | StorePath) -> list[dict[str, Any]]:
    """Return the rows of rejects.parquet.

    Examples:
        >>> [(row["sample_id"], row["reason"]) for row in vp.read_rejects(folder / "tok")]
        [('photo_talk/6', 'overlong')]

    Raises:
        StoreError: it is missing or damaged.
    """
    path = store_path(folder) / REJECTS_FILE
    try:
        return _read_rejects(read_regular(path))
    except FileNotFoundError as error:
        raise StoreError(f"{path} is missing", "make the store again") from error
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        what = settled(str(error)).partition("\n")[0]
        raise StoreError(f"{path} is damaged: {what}", "make the store again") from error


def _read_rejects(data: bytes) -> list[dict[str, Any]]:
    content = pa.BufferReader(data)
    # in this thread: one of Arrow's own that lets go of Python's bytes while the interpreter ends aborts the process
    # ("terminate called without an active exception", in 1 of 3 short commands)
    with unpacking(len(data)):
        table = pq.ParquetFile(content, pre_buffer=False).read(use_threads=False)
        if not (table.schema.equals(REJECTS) or table.schema.equals(REJECTS_KEPT)):
            raise ValueError("its columns are others")
        rows: list[dict[str, Any]] = table.to_pylist()
    return rows
