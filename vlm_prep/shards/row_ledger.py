"""rows.parquet: what a tokenized store was made of, row by row, so that an update does again only what changed.

    digest     16 bytes of the row's text and of how it is read (`ingest.row_digests`)
    sample_id  as the rejects and the shards have it, without a document's number
    documents  how many rows of the store the row became; 0 of a rejected one
    state      of its media files when they were read (`media.file_state`): 0 without any, -1 not known
    compared   see `COMPARED`
    files      of a rejected row, its media files; those of a written one stand in its shard, and here where it was read
               from a media store
    notes      what was done to the row that the statistics count

The schema's metadata holds the tasks' accounts as JSON. Like origin.json, which has its checksum, it speaks of this
machine (the times and inodes of files), so it is in no manifest and is not pushed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vlm_prep.core.atomic_files import write_table_atomically
from vlm_prep.core.bounds import unpacking
from vlm_prep.core.errors import StoreError
from vlm_prep.core.fingerprint import digest_bytes, digest_file
from vlm_prep.core.regular_files import read_regular
from vlm_prep.shards.manifest import Manifest
from vlm_prep.shards.store_names import ROWS_FILE

DIGEST_BYTES = 16
NO_FILES, UNKNOWN = 0, -1
COMPARED = ("", "media", "media and labels", "unreadable")
"""What `compared` says of a row: not, its ids and media, its labels a second way too, its media do not decode."""
_TASKS = b"tasks"
SCHEMA = pa.schema(
    [
        pa.field("digest", pa.binary(DIGEST_BYTES)),
        pa.field("sample_id", pa.string()),
        pa.field("documents", pa.int32()),
        pa.field("state", pa.int64()),
        pa.field("compared", pa.int8()),
        pa.field("files", pa.list_(pa.string())),
        pa.field("notes", pa.list_(pa.string())),
    ]
)


@dataclass(frozen=True, kw_only=True)
class TaskAccounts:
    """What a task of the store counted."""

    rows: int
    shards: int
    counts: dict[str, int]
    facts: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class RowLedger:
    """The rows of a store, in order of its source."""

    digests: NDArray[np.uint8]
    """(rows, 16)."""
    sample_ids: list[str]
    documents: NDArray[np.int64]
    states: NDArray[np.int64]
    compared: NDArray[np.int64]
    files: list[list[str] | None]
    notes: list[list[str] | None]
    tasks: tuple[TaskAccounts, ...]

    def __len__(self) -> int:
        return len(self.sample_ids)

    @property
    def begins(self) -> NDArray[np.int64]:
        """(rows + 1,) number in the store of each row's first document."""
        return np.concatenate([[0], np.cumsum(self.documents)]).astype(np.int64)

    def write(self, folder: Path) -> dict[str, Any]:
        """Write rows.parquet and return what origin.json says of it."""
        digests = pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(DIGEST_BYTES), len(self), [None, pa.py_buffer(np.ascontiguousarray(self.digests))]
        )
        columns = [
            digests,
            pa.array(self.sample_ids, pa.string()),
            pa.array(self.documents, pa.int32()),
            pa.array(self.states, pa.int64()),
            pa.array(self.compared, pa.int8()),
            pa.array(self.files, pa.list_(pa.string())),
            pa.array(self.notes, pa.list_(pa.string())),
        ]
        tasks = [vars(each) for each in self.tasks]
        table = pa.Table.from_arrays(columns, schema=SCHEMA.with_metadata({_TASKS: orjson.dumps(tasks)}))
        write_table_atomically(folder / ROWS_FILE, table)
        path = folder / ROWS_FILE
        return {"bytes": path.stat().st_size, "xxh3": digest_file(path)}


def read_ledger(folder: Path, manifest: Manifest, said: Mapping[str, Any] | None) -> RowLedger:
    """Read rows.parquet of a store, and make sure that it is of this store.

    Args:
        folder: a finished tokenized store.
        manifest: its manifest.
        said: what its origin.json says of the file.

    Raises:
        StoreError: there is none, it is damaged, or it is of another store.
    """
    path = folder / ROWS_FILE
    hint = "`fresh` makes the store anew, and it can be updated from then on"
    try:
        data = read_regular(path)
    except OSError as error:
        raise StoreError(f"{folder} has no record of its rows ({ROWS_FILE}): it was made elsewhere", hint) from error
    if not isinstance(said, Mapping) or said.get("xxh3") != digest_bytes(data):
        raise StoreError(f"{path} is not the one that was written with the store (checksum)", hint)
    try:
        with unpacking(len(data)):
            ledger = _of_table(pq.ParquetFile(pa.BufferReader(data), pre_buffer=False).read(use_threads=False))
        _must_be_of(ledger, manifest)
    except (pa.ArrowException, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path} is damaged: {error}", hint) from error
    return ledger


def _of_table(table: pa.Table) -> RowLedger:
    if not table.schema.equals(SCHEMA):
        raise ValueError("its columns are others")
    if any(table.column(name).null_count for name in SCHEMA.names[:5]):
        raise ValueError("a value is missing")
    joined = table.combine_chunks()

    def numbers(name: str) -> NDArray[np.int64]:
        return np.asarray(joined.column(name)).astype(np.int64)

    digests = b"".join(joined.column("digest").to_pylist())
    tasks = orjson.loads((table.schema.metadata or {})[_TASKS])
    return RowLedger(
        digests=np.frombuffer(digests, np.uint8).reshape(-1, DIGEST_BYTES),
        sample_ids=joined.column("sample_id").to_pylist(),
        documents=numbers("documents"),
        states=numbers("state"),
        compared=numbers("compared"),
        files=joined.column("files").to_pylist(),
        notes=joined.column("notes").to_pylist(),
        tasks=tuple(_task(each) for each in tasks),
    )


def _task(data: Mapping[str, Any]) -> TaskAccounts:
    found = TaskAccounts(**data)
    counts = [found.rows, found.shards, *found.counts.values()]
    if not all(type(count) is int and count >= 0 for count in counts) or not isinstance(found.facts, dict):
        raise ValueError("the accounts of a task are none")
    return found


def _must_be_of(ledger: RowLedger, manifest: Manifest) -> None:
    retried = sum(sum(each["tasks"]) for each in manifest.extra.get("retries", []))
    shards = [info.rows for _, info in manifest.shards()]
    documents = int(ledger.documents.sum())
    if (ledger.documents < 0).any() or not np.isin(ledger.compared, range(len(COMPARED))).all():
        raise ValueError("a number is out of range")
    if documents != sum(shards[: len(shards) - retried]) or len(ledger) != manifest.totals["rows_in"]:
        raise ValueError("it is of other rows")
    if sum(each.rows for each in ledger.tasks) != len(ledger):
        raise ValueError("its tasks are of other rows")
    if [each.shards for each in ledger.tasks] != manifest.tasks:
        raise ValueError("its tasks made other shards")


def joined_lists(values: Mapping[int, Sequence[str]], rows: int) -> list[list[str] | None]:
    """Return a list for each row that has one, None for the others."""
    return [list(values[row]) if row in values else None for row in range(rows)]
