"""The output folder while it is being made.

    OUT/_work/plan.json           the run that owns the folder, see ownership.py
    OUT/_work/lock                who is writing, see lock.py; for a run in parts see array_parts.py
    OUT/_work/shards/             whole shards of finished tasks
    OUT/_work/done/<task>.json    the record of a finished task, written after its shards
    OUT/_work/poison/<row>.json   a row that ends the worker that does it, written before its task is done again

A rerun with the same fingerprint skips finished tasks. Finishing moves the shards to their final names and writes the
manifest last; each step of it can be repeated, so a kill in between costs nothing.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

import orjson

from vlm_prep.core.atomic_files import sync_folder, write_bytes_atomically
from vlm_prep.core.errors import StoreError
from vlm_prep.core.records import Rejected
from vlm_prep.core.regular_files import read_regular
from vlm_prep.engine.lock import Lock
from vlm_prep.engine.ownership import RunPlan
from vlm_prep.engine.publish import publish_staged
from vlm_prep.engine.tasks import Poison, Record, Task
from vlm_prep.shards.layout import file_digests, shard_name, write_dataset_files, write_origin, write_rejects
from vlm_prep.shards.manifest import WORK, Manifest, write_manifest
from vlm_prep.shards.shard_info import ShardInfo
from vlm_prep.shards.store_names import RUN_FILE

_Note = TypeVar("_Note")


class Workspace:
    """One output folder and the work in it; opened by `claim`, which sees to whose it is.

    Args:
        folder: OUT.
        plan: the run that owns it.
        lock: held by the run, or by its part.
        part: name of the part of the run that is done; empty for all of it.
        say: tells the user a line.
    """

    def __init__(
        self, folder: Path, plan: RunPlan, lock: Lock, *, part: str = "", say: Callable[[str], None] = print
    ) -> None:
        self.folder, self.plan, self.lock, self.say = folder, plan, lock, say
        self.finished = False
        """Whether the run is complete in it."""
        self.work = folder / WORK
        self.shards = self.work / "shards"
        self.done = self.work / "done"
        self.scratch = self.work / (f"alone-{part}" if part else "alone")
        self.attempts = self.work / (f"attempts-{part}" if part else "attempts")
        self._poison = self.work / "poison"

    def make_folders(self, owns: Callable[[int], bool]) -> None:
        """Make the folders of the work, and delete unfinished shards of the tasks that are ours."""
        for folder in (self.shards, self.done, self._poison):
            folder.mkdir(exist_ok=True)
        for left_over in self.shards.glob("task-*.tmp"):
            if owns(int(left_over.name.split("-")[1])):
                left_over.unlink(missing_ok=True)

    def publish(self) -> None:
        """Move staged files into place, see `publish.py`."""
        self.lock.check()
        publish_staged(self.folder)

    def close(self) -> None:
        """Remove the work folder of a finished store, and give it up."""
        # what cannot be deleted now (a file that NFS holds) is no reason to fail
        shutil.rmtree(self.work, ignore_errors=True)
        self.release()

    def release(self) -> None:
        """Give the folder up; what was committed stays."""
        self.lock.release()

    def pending(self, tasks: Sequence[Task]) -> list[Task]:
        """Return the tasks without a record, or whose record was made before a row of theirs was found poisonous."""
        return [task for task in tasks if not self._is_done(task)]

    def _is_done(self, task: Task) -> bool:
        if not self._record_path(task.index).exists():
            return False
        return self._record(task).poison == tuple(each.row for each in task.poison)

    def commit(self, task: Task, record: Record) -> None:
        """Make a task's result permanent.

        Raises:
            OutputError: another run took the folder over.
        """
        self.lock.check()
        record = replace(record, poison=tuple(each.row for each in task.poison))
        write_bytes_atomically(self._record_path(task.index), orjson.dumps(record.to_json()), shared=True)

    def add_poison(self, poison: Poison) -> None:
        """Remember a row that must not be done again."""
        path = self._poison / f"row-{poison.row:012d}.json"
        write_bytes_atomically(path, orjson.dumps(asdict(poison)), shared=True)

    def poison(self) -> list[Poison]:
        """Return the rows that must not be done again, in order."""
        return [_noted(path, lambda data: Poison(**data)) for path in sorted(self._poison.glob("row-*.json"))]

    def recall(self, records: Sequence[Record]) -> None:
        """Undo a finishing that was interrupted while shards were renamed, so that all are in `shards` again."""
        for source, target, shard in self._moves(records):
            if not source.exists() and target.exists() and target.stat().st_size == shard.bytes:
                os.replace(target, source)

    def records(self, tasks: Sequence[Task]) -> list[Record]:
        """Return all records, in task order."""
        return [self._record(task) for task in tasks]

    def _record(self, task: Task) -> Record:
        return _noted(self._record_path(task.index), Record.from_json)

    def _record_path(self, task: int) -> Path:
        return self.done / f"task-{task:06d}.json"

    def finish(
        self,
        manifest: Manifest,
        card: str,
        rejects: Iterable[Rejected],
        origin: dict[str, Any],
        settings: str,
    ) -> Manifest:
        """Write the files around the shards, which have their final names, and the manifest last."""
        splits = manifest.splits
        write_rejects(self.folder, rejects)
        write_dataset_files(self.folder, splits, card=card, fingerprint=manifest.fingerprint)
        write_origin(self.folder, origin)
        if settings:
            write_bytes_atomically(self.folder / RUN_FILE, settings.encode())
        manifest = replace(manifest, files=file_digests(self.folder, splits))
        write_manifest(self.folder, manifest)
        self.close()
        return manifest

    def place_shards(self, records: Sequence[Record]) -> dict[str, list[ShardInfo]]:
        """Give the shards their final names; return what the manifest says of them."""
        self.lock.check()
        placed: dict[str, list[ShardInfo]] = {}
        for source, target, shard in self._moves(records):
            target.parent.mkdir(exist_ok=True)
            self._place(source, target, shard)
            placed.setdefault(target.parent.name, []).append(replace(shard, name=target.name))
        for split in placed:
            sync_folder(self.folder / split)
        return placed

    def _moves(self, records: Sequence[Record]) -> Iterator[tuple[Path, Path, ShardInfo]]:
        """Yield (where a shard is made, where it ends, the shard) for all, in task order."""
        by_split: dict[str, list[ShardInfo]] = {}
        for record in records:
            if record.shards:
                by_split.setdefault(record.split, []).extend(record.shards)
        for split, shards in by_split.items():
            for index, shard in enumerate(shards):
                target = self.folder / split / shard_name(index, len(shards), Path(shard.name).suffix)
                yield self.shards / shard.name, target, shard

    def _place(self, source: Path, target: Path, shard: ShardInfo) -> None:
        found = source if source.exists() else target
        if not found.exists() or found.stat().st_size != shard.bytes:
            raise StoreError(
                f"{source}: committed by an earlier run and now missing or damaged", "give `fresh` to start over"
            )
        if found is source:
            os.replace(source, target)


def _noted(path: Path, read: Callable[[dict[str, Any]], _Note]) -> _Note:
    """Read a note of the work folder.

    Raises:
        StoreError: it is damaged.
    """
    try:
        return read(orjson.loads(read_regular(path)))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise StoreError(f"{path} is damaged: {type(error).__name__}: {error}", "give `fresh` to start over") from error
