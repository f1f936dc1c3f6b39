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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

import orjson

from vlm_prep.core.atomic_files import sync_folder, write_bytes_atomically
from vlm_prep.core.errors import OutputError, StoreError
from vlm_prep.core.fingerprint import digest_json
from vlm_prep.engine.array_parts import Part, enter, must_be_idle
from vlm_prep.engine.lock import Lock
from vlm_prep.engine.ownership import PLAN, RunPlan, read_plan
from vlm_prep.engine.publish import publish_staged
from vlm_prep.engine.tasks import Poison, Record, Task
from vlm_prep.shards.layout import file_digests, shard_name, write_dataset_files, write_origin, write_rejects
from vlm_prep.shards.manifest import MANIFEST, WORK, Manifest, read_manifest, read_stage, write_manifest
from vlm_prep.shards.shard_info import ShardInfo
from vlm_prep.shards.store_names import RUN_FILE, is_store_entry

_Note = TypeVar("_Note")
Describe = Callable[[dict[str, list[ShardInfo]]], tuple[Manifest, str]]
"""Makes the manifest and the text of the data card from the final shards."""


class Workspace:
    """One output folder, owned by one run.

    Args:
        folder: OUT.
        fingerprint: identity of the run.
        stage: which stage runs; `fresh` discards an earlier output of the same stage only.
        identity: what the fingerprint is the digest of, to say what differs from another run.
        fresh: discard what the folder holds if it is another run's.
        keep: leave what is being done with a finished store, for `reopen`.
        part: the part of the run that is done, while others may do other parts; None for all of it.
        tasks: how many tasks the run has.
        again: where the stage's input is, for `vlm-prep finish`.
        say: tells the user a line.

    Raises:
        OutputError: the folder holds something else, is in use, or cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        fingerprint: str,
        *,
        stage: str,
        identity: dict[str, Any] | None = None,
        fresh: bool = False,
        keep: bool = False,
        part: Part | None = None,
        tasks: int = 0,
        again: dict[str, Any] | None = None,
        say: Callable[[str], None] = print,
    ) -> None:
        self.folder, self.fingerprint, self._say = folder, fingerprint, say
        self.plan = RunPlan(
            stage=stage, fingerprint=fingerprint, identity=identity or {}, tasks=tasks, again=again or {}
        )
        self.work = folder / WORK
        self.shards = self.work / "shards"
        self.done = self.work / "done"
        self.scratch = self.work / (f"alone-{part.name}" if part else "alone")
        self.attempts = self.work / (f"attempts-{part.name}" if part else "attempts")
        self._poison = self.work / "poison"
        self._plan = self.work / PLAN
        self._lock = part.lock(folder, say) if part else Lock(folder, self.work / "lock", say)
        try:
            self.finished = self._join(part) if part else self._take_over(fresh, keep)
        except OSError as error:
            self.release()
            raise OutputError(
                f"cannot write to {self.folder}: {error.strerror or error}", "choose another `out`"
            ) from error
        except BaseException:
            self.release()
            raise

    def _take_over(self, fresh: bool, keep: bool) -> bool:
        """Make the folder ours; return whether this very run is already complete in it."""
        holds_run = self._must_be_empty_or_a_run()
        if fresh and holds_run:
            self._must_be_discardable()
        elif (self.folder / MANIFEST).exists():
            self._must_be_the_finished()
            if self.work.exists() and not keep:
                # a kill between the manifest and the end, or while a finished store was repaired, leaves it behind
                self._acquire()
                publish_staged(self.folder)
                self.close()
            return True
        self.work.mkdir(parents=True, exist_ok=True)
        self._acquire()
        if fresh and holds_run:
            self._discard()
        elif self._plan.exists():
            self._must_be_the_unfinished()
        self._make_folders(lambda task: True)
        self.plan.write(self.folder)
        return False

    def _join(self, part: Part) -> bool:
        """Take one part of the folder; others may be at work on theirs. Return whether the run is complete in it."""
        self._must_be_empty_or_a_run()
        if (self.folder / MANIFEST).exists():
            self._must_be_the_finished()
            return True
        self.work.mkdir(parents=True, exist_ok=True)
        self._lock.acquire()
        enter(self.folder, part)
        Lock(self.folder, self.work / "lock", self._say).must_be_free()
        if (self.folder / MANIFEST).exists():  # another process finished it just now
            self.close()
            return True
        self.plan.write(self.folder, create=True)
        self._must_be_the_unfinished()
        self._make_folders(part.owns)
        return False

    def _acquire(self) -> None:
        """Become the only one who writes the folder."""
        self._lock.acquire()
        must_be_idle(self.folder, self._say)

    def _must_be_the_finished(self) -> None:
        manifest = read_manifest(self.folder)
        # of the identity: the fingerprint of a store that a retry added to is another one
        self.plan.must_be(self.folder, digest_json(manifest.identity), manifest.identity)

    def _must_be_the_unfinished(self) -> None:
        found = read_plan(self.folder)
        self.plan.must_be(self.folder, found.fingerprint, found.identity)

    def _make_folders(self, owns: Callable[[int], bool]) -> None:
        """Make the folders of the work, and delete unfinished shards of the tasks that are ours."""
        for folder in (self.shards, self.done, self._poison):
            folder.mkdir(exist_ok=True)
        for left_over in self.shards.glob("task-*.tmp"):
            if owns(int(left_over.name.split("-")[1])):
                left_over.unlink(missing_ok=True)

    def _must_be_empty_or_a_run(self) -> bool:
        """Return whether the folder holds a run of ours, finished or not."""
        if self.folder.is_symlink() and not self.folder.exists():
            raise OutputError(
                f"{self.folder} is a link to {self.folder.readlink()}, which is not there",
                "make that folder, or choose another `out`",
            )
        if not self.folder.exists():
            return False
        if not self.folder.is_dir():
            raise OutputError(f"{self.folder} is a file, not a folder", "choose another `out`")
        if (self.folder / MANIFEST).exists() or self._plan.exists():
            return True
        # a kill before the plan was written leaves no more than these
        known = {"shards", "done", "poison", "parts", "lock"}
        inside = {path.name for path in self.work.iterdir()} if self.work.is_dir() else set()
        inside = {name for name in inside if not name.startswith(("lock.", "lock-", "plan.json."))}
        if any(path.name != WORK for path in self.folder.iterdir()) or not inside <= known:
            raise OutputError(f"{self.folder} is not empty and no run of vlm-prep", "choose another `out`")
        return False

    def _must_be_discardable(self) -> None:
        """Refuse --fresh for anything but an earlier output of this stage: a wrong --out must not cost a store."""
        foreign = sorted(path.name for path in self.folder.iterdir() if not is_store_entry(path))
        if foreign:
            raise OutputError(
                f"{self.folder} holds what no run of vlm-prep made: {', '.join(foreign[:5])}",
                "choose another `out`, or move these away: `fresh` deletes nothing but a former run",
            )
        complete = (self.folder / MANIFEST).exists()
        found = read_stage(self.folder) if complete else read_plan(self.folder).stage
        if found != self.plan.stage:
            raise OutputError(
                f"{self.folder} holds the output of `{found}`: `fresh` of `{self.plan.stage}` does not discard that",
                "choose another `out`",
            )

    def _discard(self) -> None:
        """Delete a former run, such that a kill in between leaves a folder that is nobody's and not complete."""
        replace(self.plan, fingerprint="discarded").write(self.folder)
        (self.folder / MANIFEST).unlink(missing_ok=True)
        sync_folder(self.folder)
        kept = (self.work, self._plan, self._lock.path)
        for path in [*self.folder.iterdir(), *self.work.iterdir()]:
            if path in kept:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()

    def reopen(self, identity: dict[str, Any] | None = None) -> None:
        """Take a finished store into work again; its own files stay as they are.

        Args:
            identity: of what is done with it, to continue after a kill; None starts over.

        Raises:
            OutputError: another process writes it.
        """
        self.work.mkdir(exist_ok=True)
        self._acquire()
        publish_staged(self.folder)
        if identity is None or not self._plan.exists() or read_plan(self.folder).identity != identity:
            for path in self.work.iterdir():
                if path.is_dir():
                    shutil.rmtree(path)
        for folder in (self.shards, self.done, self._poison):
            folder.mkdir(exist_ok=True)
        self.plan = replace(self.plan, identity=identity or {}, fingerprint=digest_json(identity or {}))
        self.plan.write(self.folder)

    def publish(self) -> None:
        """Move staged files into place, see `publish.py`."""
        self._lock.check()
        publish_staged(self.folder)

    def close(self) -> None:
        """Remove the work folder of a finished store, and give it up."""
        # what cannot be deleted now (a file that NFS holds) is no reason to fail
        shutil.rmtree(self.work, ignore_errors=True)
        self.release()

    def release(self) -> None:
        """Give the folder up; what was committed stays."""
        self._lock.release()

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
        self._lock.check()
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
        self, records: Sequence[Record], describe: Describe, origin: dict[str, Any] | None = None, settings: str = ""
    ) -> Manifest:
        """Give the shards their final names, write the files around them, and the manifest last."""
        self._lock.check()
        splits = self._place_shards(records)
        manifest, card = describe(splits)
        write_rejects(self.folder, (reject for record in records for reject in record.rejects))
        write_dataset_files(self.folder, splits, card=card, fingerprint=self.fingerprint)
        if origin is not None:
            write_origin(self.folder, origin)
        if settings:
            write_bytes_atomically(self.folder / RUN_FILE, settings.encode())
        manifest = replace(manifest, files=file_digests(self.folder, splits))
        write_manifest(self.folder, manifest)
        self.close()
        return manifest

    def _place_shards(self, records: Sequence[Record]) -> dict[str, list[ShardInfo]]:
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
        return read(orjson.loads(path.read_bytes()))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise StoreError(f"{path} is damaged: {type(error).__name__}: {error}", "give `fresh` to start over") from error
