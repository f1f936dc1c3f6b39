"""manifest.json: what a finished folder holds. Written last: present means complete.

Readers of vlm_prep open nothing without it, because neither an Arrow stream nor a tar says by itself that rows are
missing (a writer killed between two batches leaves a file that reads without an error).

It holds the checksums of all other files and, in `checksum`, its own: of its bytes with zeros in that place. Whoever
changes it by a program writes it in another form, which readers take (after `manifest_rules`) and `verify` tells.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import orjson
import xxhash

from vlm_prep.core.atomic_files import write_bytes_atomically
from vlm_prep.core.errors import StoreError
from vlm_prep.core.processor_record import ProcessorRecord
from vlm_prep.core.regular_files import read_regular
from vlm_prep.shards.manifest_rules import check_manifest
from vlm_prep.shards.object_store import RemotePath, StorePath, store_path
from vlm_prep.shards.schema import SCHEMA_VERSION
from vlm_prep.shards.shard_info import ShardInfo
from vlm_prep.shards.store_names import MANIFEST, WORK, StoreName

__all__ = ["GATHERED", "MANIFEST", "WORK", "Manifest", "read_manifest", "read_stage", "write_manifest"]
GATHERED = "gather"
"""The stage of a media store, which holds files' contents and no rows of a source."""
_NO_SUM = "0" * 32
_FORM = b'{\n  "'
"""How what was written here begins."""
_SUM = re.compile(rb'\n  "checksum": "xxh3:([0-9a-f]{32})"')


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The contents of manifest.json."""

    stage: str
    """"ingest", "tokenize", "pack" or "gather"."""
    config: dict[str, Any]
    """The settings that shaped the output."""
    splits: dict[str, list[ShardInfo]]
    """Shards by folder: "train", or "rank-00000" … in a packed store."""
    totals: dict[str, Any]
    """Row and token accounting; rows_in == rows_written + rows_rejected."""
    processor: ProcessorRecord = field(default_factory=lambda: cast(ProcessorRecord, {}))
    """Identity of the processor and what the runtime needs of it (image processor settings, token ids)."""
    proof: dict[str, Any] = field(default_factory=dict)
    """The comparison with the real processor."""
    fingerprint: str = ""
    """Digest of the identity."""
    identity: dict[str, Any] = field(default_factory=dict)
    """All that the fingerprint is the digest of, so that another run can say what differs."""
    tasks: list[int] = field(default_factory=list)
    """How many shards each task made, in task order: which task to do again for a lost shard."""
    poison: list[dict[str, Any]] = field(default_factory=list)
    """Rows that end the worker that does them, by number in the stage's input: {row, reason, message}."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Facts of one stage: sources of a tokenize, the plan of a pack."""
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    """{name: {bytes, xxh3}} of the files beside the shards; empty in stores of earlier versions. origin.json, which
    holds paths, has its own checksum: two stores of one content have one manifest."""
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return {
            "schema_version": self.schema_version,
            "stage": self.stage,
            "fingerprint": self.fingerprint,
            "config": self.config,
            "totals": self.totals,
            "processor": self.processor,
            "proof": self.proof,
            "identity": self.identity,
            "tasks": self.tasks,
            "poison": self.poison,
            "extra": self.extra,
            "files": self.files,
            "splits": {name: [shard.to_json() for shard in shards] for name, shards in self.splits.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Manifest:
        """Read what `to_json` wrote."""
        splits = {name: [ShardInfo.from_json(item) for item in items] for name, items in data["splits"].items()}
        return cls(**{**data, "splits": splits})

    def shards(self) -> list[tuple[StoreName, ShardInfo]]:
        """Return (path below the folder, shard) for all shards, in order."""
        return [
            (StoreName(f"{split}/{shard.name}"), shard) for split, shards in self.splits.items() for shard in shards
        ]


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write manifest.json, whole or not at all."""
    write_bytes_atomically(folder / MANIFEST, sealed(manifest.to_json()))


def sealed(content: Mapping[str, Any]) -> bytes:
    """Return a table as JSON that holds its own checksum."""
    table = {**content, "checksum": f"xxh3:{_NO_SUM}"}
    data = orjson.dumps(table, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS) + b"\n"
    found = _SUM.search(data)
    assert found is not None
    return data[: found.start(1)] + xxhash.xxh3_128(data).hexdigest().encode() + data[found.end(1) :]


def unsealed(data: bytes) -> tuple[dict[str, Any], bool]:
    """Return the table that JSON holds, and whether its checksum shows that it is as it was written.

    Raises:
        ValueError: it is no JSON table, or its checksum is another one.
    """
    table = orjson.loads(data)
    if not isinstance(table, dict):
        raise ValueError("it is no table")
    found = _SUM.search(data)
    stated = table.pop("checksum", None)
    if found is None and (stated is None or not data.startswith(_FORM)):
        return table, stated is None
    if found is None:
        raise ValueError("its checksum is none")
    blank = data[: found.start(1)] + _NO_SUM.encode() + data[found.end(1) :]
    if xxhash.xxh3_128(blank).hexdigest() != found[1].decode():
        raise ValueError("its bytes are not those that were written (checksum)")
    return table, True


def read_manifest(folder: str | StorePath, *, stage: str | None = None) -> Manifest:
    """Read and check manifest.json.

    Args:
        folder: a store, also on an object store.
        stage: the stage that must have made it, or None for any.

    Raises:
        StoreError: no such folder, unfinished, not a store, another version or another stage.
        InputError: the object store could not be asked.
    """
    folder = store_path(folder)
    path = folder / MANIFEST
    try:
        content = read_regular(path)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise _no_manifest(folder, error) from error
    manifest = parse_manifest(content, folder)
    if stage is not None and manifest.stage != stage:
        raise StoreError(
            f"{folder} holds the output of `{manifest.stage}`, `{stage}` is needed here",
            f"give a folder made by `vlm-prep {stage}`",
        )
    return manifest


def must_hold_rows(folder: str | StorePath, stage: str) -> None:
    """Refuse a media store where rows of a source are asked for.

    Raises:
        StoreError: it is one.
    """
    if stage == GATHERED:
        raise StoreError(
            f"{folder} is a media store: it holds files' contents, and no rows",
            "rows that refer to it are made with `media_store`; `vlm-prep gather` again completes it",
        )


def parse_manifest(content: bytes, folder: StorePath | str) -> Manifest:
    """Read the bytes of a manifest.json of the store at `folder`. Raises as `read_manifest`."""
    try:
        data = _checked(content)
        if data["schema_version"] != SCHEMA_VERSION:
            raise StoreError(
                f"{folder}: written with schema version {data['schema_version']}, this vlm-prep reads {SCHEMA_VERSION}",
                "make the store again with this version (`fresh`), or read it with the version that made it",
            )
        check_manifest(data)
        return Manifest.from_json(data)
    except KeyError as error:
        raise StoreError(f"{folder}/{MANIFEST} is damaged: {error} is missing", "make the store again") from error
    except (TypeError, ValueError, AttributeError, RecursionError) as error:
        raise StoreError(f"{folder}/{MANIFEST} is damaged: {error}", "make the store again") from error


def _checked(content: bytes) -> dict[str, Any]:
    """Return what a manifest says; what cannot be in it is said rather than that its checksum is another one."""
    try:
        return unsealed(content)[0]
    except orjson.JSONDecodeError:
        raise
    except ValueError:
        data = orjson.loads(content)
        if isinstance(data, dict) and data.get("schema_version") == SCHEMA_VERSION:
            check_manifest(data)
        raise


def read_stage(folder: Path) -> str:
    """Return the stage that made a finished folder, of any version.

    Raises:
        StoreError: its manifest is damaged.
    """
    path = folder / MANIFEST
    try:
        return str(orjson.loads(read_regular(path))["stage"])
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise StoreError(f"{path} is damaged: {error}", "delete the folder, and make the store again") from error


def _no_manifest(folder: StorePath, error: OSError) -> StoreError:
    if isinstance(folder, RemotePath):
        return StoreError(
            f"{folder} holds no finished store: it has no {MANIFEST} ({error})",
            "check the address; if it is being copied there, wait, or run that command again",
        )
    if not folder.exists():
        return StoreError(f"{folder}: no such folder", "give a folder made by `vlm-prep`")
    if (folder / WORK).is_dir():
        return StoreError(
            f"{folder} is unfinished: it has no manifest.json",
            "run the same command again, it continues where it stopped",
        )
    below = ", ".join(str(path) for path in runs_below(folder))
    return StoreError(
        f"{folder} is not a vlm-prep store: it has no manifest.json",
        f"the stores in it are {below}" if below else "give a folder made by `vlm-prep`",
    )


def runs_below(folder: Path) -> list[Path]:
    """Return the folders in a folder, as that of a job, that are a store or will be one."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if (path / MANIFEST).exists() or (path / WORK).is_dir())
