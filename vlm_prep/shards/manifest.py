"""manifest.json: what a finished folder holds. Written last: present means complete.

Readers of vlm_prep open nothing without it, because neither an Arrow stream nor a tar says by itself that rows are
missing (a writer killed between two batches leaves a file that reads without an error).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from vlm_prep.core.errors import StoreError
from vlm_prep.shards.object_store import RemotePath, StorePath, store_path
from vlm_prep.shards.schema import SCHEMA_VERSION
from vlm_prep.shards.writer import ShardInfo, write_bytes_atomically

MANIFEST = "manifest.json"
WORK = "_work"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The contents of manifest.json."""

    stage: str
    """"ingest", "tokenize" or "pack"."""
    config: dict[str, Any]
    """The settings that shaped the output."""
    splits: dict[str, list[ShardInfo]]
    """Shards by folder: "train", or "rank-00000" … in a packed store."""
    totals: dict[str, Any]
    """Row and token accounting; rows_in == rows_written + rows_rejected."""
    processor: dict[str, Any] = field(default_factory=dict)
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
            "splits": {name: [shard.to_json() for shard in shards] for name, shards in self.splits.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Manifest:
        """Read what `to_json` wrote."""
        splits = {name: [ShardInfo.from_json(item) for item in items] for name, items in data["splits"].items()}
        return cls(**{**data, "splits": splits})

    def shards(self) -> list[tuple[str, ShardInfo]]:
        """Return (path below the folder, shard) for all shards, in order."""
        return [(f"{split}/{shard.name}", shard) for split, shards in self.splits.items() for shard in shards]


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write manifest.json, whole or not at all."""
    data = orjson.dumps(manifest.to_json(), option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS)
    write_bytes_atomically(folder / MANIFEST, data + b"\n")


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
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise _no_manifest(folder, error) from error
    try:
        data = orjson.loads(content)
        if data["schema_version"] != SCHEMA_VERSION:
            raise StoreError(
                f"{folder}: written with schema version {data['schema_version']}, this vlm-prep reads {SCHEMA_VERSION}",
                "make the store again with this version (`fresh`), or read it with the version that made it",
            )
        manifest = Manifest.from_json(data)
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{path} is damaged: {error}", "make the store again") from error
    if stage is not None and manifest.stage != stage:
        raise StoreError(
            f"{folder} holds the output of `{manifest.stage}`, `{stage}` is needed here",
            f"give a folder made by `vlm-prep {stage}`",
        )
    return manifest


def read_stage(folder: Path) -> str:
    """Return the stage that made a finished folder, of any version.

    Raises:
        StoreError: its manifest is damaged.
    """
    path = folder / MANIFEST
    try:
        return str(orjson.loads(path.read_bytes())["stage"])
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
    return StoreError(
        f"{folder} is not a vlm-prep store: it has no manifest.json", "give a folder made by `vlm-prep`"
    )
