"""Several stores of one stage, processor and settings into one: shards are copied as they are, accounts added up.

A task is a shard: it is copied under the name of an unfinished one and its checksum compared, so that a kill costs no
more than that copy, and a damaged source is found. Rows keep their sample_ids; ids that several stores have are counted
and told.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import vlm_prep
from vlm_prep.core.atomic_files import sync_file, sync_folder
from vlm_prep.core.errors import InputError, StoreError
from vlm_prep.core.fingerprint import digest_file
from vlm_prep.core.records import Rejected
from vlm_prep.engine.stage import RunOptions, Stage, run_stage
from vlm_prep.engine.tasks import NO_ROW, Heartbeat, Poison, Record, Task
from vlm_prep.shards.earlier import EARLIER, Earlier, rejected_earlier
from vlm_prep.shards.joined import joined_manifest, must_be_alike, open_stores, repeated_ids
from vlm_prep.shards.layout import read_rejects
from vlm_prep.shards.manifest import Manifest
from vlm_prep.shards.object_store import RemotePath, StorePath
from vlm_prep.shards.reader import Store
from vlm_prep.shards.schema import SCHEMA_VERSION
from vlm_prep.shards.shard_info import ShardInfo
from vlm_prep.shards.shared import card_warning

_CARD = """# Merged by vlm-prep

{shared}{rows} rows of {stores} stores made with the same settings, shards as they were.
"""


@dataclass
class MergeJob:
    """Copies shards."""

    preload: ClassVar[tuple[str, ...]] = (__name__,)
    shards: tuple[tuple[Path, ShardInfo], ...]

    def before_fork(self) -> dict[str, str]:
        """See `engine.tasks.Job`; nothing."""
        return {}

    def setup(self) -> None:
        """See `engine.tasks.Job`; there is nothing to load."""

    def run(self, task: Task, shards: Path, heartbeat: Heartbeat) -> Record:
        """See `engine.tasks.Job`."""
        heartbeat(NO_ROW)  # a large shard may take its time
        source, info = self.shards[task.start]
        target = shards / f"task-{task.index:06d}-000.arrow"
        temporary = target.with_name(target.name + ".tmp")
        with source.open("rb") as file, open(temporary, "wb") as out:
            shutil.copyfileobj(file, out, 16 << 20)
        sync_file(temporary)
        if digest_file(temporary) != info.xxh3:
            temporary.unlink()
            raise StoreError(f"{source}: its checksum is not the manifest's: the shard is damaged", "make it again")
        os.replace(temporary, target)
        sync_folder(shards)
        counts = {"rows_in": info.rows, "rows_written": info.rows, "rows_rejected": 0, "tokens": info.tokens}
        return Record(task=task.index, split="train", shards=(replace(info, name=target.name),), counts=counts)

    def fault_of(self, task: Task, poison: Poison) -> str:
        """See `engine.tasks.Job`; a shard that cannot be copied is no fault of a row."""
        return f"copying {self.shards[task.start][0]} {poison.message}"


def merge(folders: Sequence[str | StorePath], options: RunOptions) -> Manifest:
    """Copy the rows of several stores into `options.out`, in the order given.

    Args:
        folders: finished stores of ingest, or of tokenize.
        options: how to run.

    Raises:
        InputError: fewer than two stores, or packs.
        StoreError: the stores were not made alike, with what differs, or a shard is damaged.
    """
    if len(folders) < 2:
        raise InputError("there is nothing to merge", "give two stores or more")
    stores = open_stores(folders)
    stage = stores[0].manifest.stage
    if stage == "pack":
        raise InputError("packs are not merged", "merge the tokenized stores, or `vlm-prep pack A B`")
    remote = [str(store.folder) for store in stores if isinstance(store.folder, RemotePath)]
    if remote:
        raise InputError(f"{', '.join(remote)}: shards are copied from folders", "`vlm-prep pull` it first")
    must_be_alike(stores)
    whole = joined_manifest([store.manifest for store in stores])
    shards = tuple((Path(str(shard.path)), shard.info) for store in stores for shard in store.shards)
    job = MergeJob(shards)

    manifest = run_stage(
        Stage(
            name=stage,
            identity=_identity(stores),
            tasks=[Task(index=number, start=number, stop=number + 1) for number in range(len(shards))],
            job=job,
            describe=lambda records, splits: _describe(whole, splits, len(stores)),
            again={},
            earlier=_earlier(stores),
        ),
        options,
    )
    assert manifest is not None  # of a run that is not in parts
    _say_repeated(Store(options.out, manifest=manifest), options.say)
    return manifest


def _identity(stores: Sequence[Store]) -> dict[str, Any]:
    first = stores[0].manifest
    return {
        "stage": first.stage,
        "schema": SCHEMA_VERSION,
        "vlm_prep": vlm_prep.__version__,
        "merged": [store.manifest.fingerprint for store in stores],
        "shards": [info.xxh3 for store in stores for _, info in store.manifest.shards()],
        "config": first.config,
        **({"processor": first.processor["identity"]} if first.processor else {}),
    }


def _earlier(stores: Sequence[Store]) -> Earlier:
    """Return the accounts before all stores, with all rejects: those of before first, then the stores' own."""
    before: list[Rejected] = []
    own: list[Rejected] = []
    for store in stores:
        rejects = [Rejected(**each) for each in read_rejects(store.folder)]
        count = rejected_earlier(store.manifest.totals)
        before += rejects[:count]
        own += rejects[count:]
    accounts = tuple(each for store in stores for each in store.manifest.totals.get(EARLIER, ()))
    return Earlier(accounts=accounts, rejects=(*before, *own))


def _describe(whole: Manifest, splits: dict[str, list[ShardInfo]], stores: int) -> tuple[Manifest, str]:
    totals = {name: value for name, value in whole.totals.items() if name != EARLIER}
    extra = {name: value for name, value in whole.extra.items() if name != "retries"}
    manifest = replace(whole, splits=splits, totals=totals, extra=extra)
    return manifest, _CARD.format(rows=totals["rows_written"], stores=stores, shared=card_warning(totals))


def _say_repeated(store: Store, say: Callable[[str], None]) -> None:
    if repeated := repeated_ids(store):
        say(f"note: {repeated:,} sample_ids stand more than once: several of the stores have rows of these names")
