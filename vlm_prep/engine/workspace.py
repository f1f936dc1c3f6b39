"""The output folder while it is being made.

    OUT/_work/plan.json           the fingerprint of the run that owns the folder
    OUT/_work/lock                who is writing
    OUT/_work/shards/             whole shards of finished tasks
    OUT/_work/done/<task>.json    the record of a finished task, written after its shards

A rerun with the same fingerprint skips finished tasks. Finishing moves the shards to their final names and writes the
manifest last; each step of it can be repeated, so a kill in between costs nothing.
"""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

import orjson

from vlm_prep.core.errors import OutputError, StoreError
from vlm_prep.engine.tasks import Record, Task
from vlm_prep.shards.layout import shard_name, write_dataset_files, write_rejects
from vlm_prep.shards.manifest import MANIFEST, WORK, Manifest, read_manifest, write_manifest
from vlm_prep.shards.writer import ShardInfo, sync_folder, write_bytes_atomically

Describe = Callable[[dict[str, list[ShardInfo]]], tuple[Manifest, str]]
"""Makes the manifest and the text of the data card from the final shards."""


class Workspace:
    """One output folder, owned by one run.

    Args:
        folder: OUT.
        fingerprint: identity of the run.
        fresh: discard what the folder holds if it is another run's.
        say: tells the user a line.

    Raises:
        OutputError: the folder holds something else, is in use, or cannot be written.
    """

    def __init__(
        self, folder: Path, fingerprint: str, *, fresh: bool = False, say: Callable[[str], None] = print
    ) -> None:
        self.folder, self.fingerprint = folder, fingerprint
        self.work = folder / WORK
        self.shards = self.work / "shards"
        self.done = self.work / "done"
        self._lock = self.work / "lock"
        self._say = say
        self.finished = self._take_over(fresh)

    def _take_over(self, fresh: bool) -> bool:
        """Make the folder ours; return whether this very run is already complete in it."""
        if fresh:
            self._discard()
        if (self.folder / MANIFEST).exists():
            self._must_be_ours(read_manifest(self.folder).fingerprint)
            return True
        plan = self.work / "plan.json"
        if plan.exists():
            self._must_be_ours(orjson.loads(plan.read_bytes())["fingerprint"])
        elif self.folder.exists() and any(path.name != WORK for path in self.folder.iterdir()):
            raise OutputError(f"{self.folder} is not empty and no run of vlm-prep", "choose another --out")
        try:
            self.shards.mkdir(parents=True, exist_ok=True)
            self.done.mkdir(exist_ok=True)
            self._acquire()
            write_bytes_atomically(plan, orjson.dumps({"fingerprint": self.fingerprint}))
        except OSError as error:
            raise OutputError(f"cannot write to {self.folder}: {error.strerror}", "choose another --out") from error
        return False

    def _must_be_ours(self, found: str) -> None:
        if found != self.fingerprint:
            raise OutputError(
                f"{self.folder} holds another run (its inputs, settings or versions differ from these)",
                "choose another --out, or give --fresh to discard it and start over",
            )

    def _discard(self) -> None:
        """Delete a former run, and nothing that is not one."""
        if not self.folder.exists():
            return
        if (self.folder / MANIFEST).exists() or (self.work / "plan.json").exists():
            self._refuse_if_running()
            shutil.rmtree(self.folder)

    def _acquire(self) -> None:
        self._refuse_if_running()
        owner = {"host": socket.gethostname(), "pid": os.getpid()}
        try:
            descriptor = os.open(self._lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            raise OutputError(f"{self.folder} is being written by another run", "wait for it") from None
        with os.fdopen(descriptor, "wb") as file:
            file.write(orjson.dumps(owner))

    def _refuse_if_running(self) -> None:
        try:
            owner = orjson.loads(self._lock.read_bytes())
        except (FileNotFoundError, orjson.JSONDecodeError):
            self._lock.unlink(missing_ok=True)
            return
        if owner["host"] != socket.gethostname():
            raise OutputError(
                f"{self.folder} is locked by process {owner['pid']} on {owner['host']}",
                f"if that run is over, delete {self._lock}",
            )
        if owner["pid"] != os.getpid() and _alive(owner["pid"]):
            raise OutputError(f"{self.folder} is being written by process {owner['pid']}", "wait for it, or stop it")
        self._say(f"taking over {self.folder}: process {owner['pid']} that was writing it is gone")
        self._lock.unlink(missing_ok=True)

    def release(self) -> None:
        """Give the folder up; what was committed stays."""
        self._lock.unlink(missing_ok=True)

    def pending(self, tasks: Sequence[Task]) -> list[Task]:
        """Return the tasks without a record."""
        return [task for task in tasks if not self._record_path(task.index).exists()]

    def commit(self, record: Record) -> None:
        """Make a task's result permanent."""
        write_bytes_atomically(self._record_path(record.task), orjson.dumps(record.to_json()))

    def records(self, tasks: Sequence[Task]) -> list[Record]:
        """Return all records, in task order."""
        return [Record.from_json(orjson.loads(self._record_path(task.index).read_bytes())) for task in tasks]

    def _record_path(self, task: int) -> Path:
        return self.done / f"task-{task:06d}.json"

    def finish(self, records: Sequence[Record], describe: Describe) -> Manifest:
        """Give the shards their final names, write the files around them, and the manifest last."""
        splits = self._place_shards(records)
        manifest, card = describe(splits)
        write_rejects(self.folder, (reject for record in records for reject in record.rejects))
        write_dataset_files(self.folder, splits, card=card, fingerprint=self.fingerprint)
        write_manifest(self.folder, manifest)
        shutil.rmtree(self.work)
        return manifest

    def _place_shards(self, records: Sequence[Record]) -> dict[str, list[ShardInfo]]:
        by_split: dict[str, list[ShardInfo]] = {}
        for record in records:
            if record.shards:
                by_split.setdefault(record.split, []).extend(record.shards)
        placed: dict[str, list[ShardInfo]] = {}
        for split, shards in by_split.items():
            target = self.folder / split
            target.mkdir(exist_ok=True)
            named = []
            for index, shard in enumerate(shards):
                name = shard_name(index, len(shards))
                self._place(self.shards / shard.name, target / name, shard)
                named.append(ShardInfo(**{**vars(shard), "name": name}))
            sync_folder(target)
            placed[split] = named
        return placed

    def _place(self, source: Path, target: Path, shard: ShardInfo) -> None:
        if source.exists():
            os.replace(source, target)
        elif not target.exists() or target.stat().st_size != shard.bytes:
            raise StoreError(
                f"{source.name}: committed by an earlier run and now missing", "give --fresh to start over"
            )


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
