"""Make shards of a finished store again that are missing or were cut.

A shard is a function of its task, and the manifest says how many shards each task made, so the tasks of the lost shards
are done again and what they make must have the checksum that the manifest states.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vlm_prep.core.atomic_files import sync_folder
from vlm_prep.core.errors import StoreError
from vlm_prep.engine.tasks import Record, Task, rows_per_task, tasks_of
from vlm_prep.shards.layout import read_rejects
from vlm_prep.shards.manifest import Manifest
from vlm_prep.shards.reader import ShardReader
from vlm_prep.shards.shard_info import ShardInfo


@dataclass(frozen=True, kw_only=True)
class Maker:
    """Which task makes a shard."""

    task: Task
    number: int
    """Of the shard among those of its task."""
    info: ShardInfo


def lost_shards(
    folder: Path, manifest: Manifest, tasks: Sequence[Task], numbers: Callable[[list[str]], dict[str, int]] | None
) -> dict[str, Maker]:
    """Return who makes each shard that is missing or not whole, by its path in the store.

    Args:
        folder: a finished store.
        manifest: its manifest.
        tasks: of its run.
        numbers: returns the numbers of sample_ids; None where rejected rows are no rows of a task.

    Raises:
        StoreError: one is lost, and the manifest does not say which task made it.
    """
    lost: dict[str, ShardInfo] = {}
    for path, info in manifest.shards():
        try:
            ShardReader(folder / path, info)
        except StoreError:
            lost[path] = info
    if not lost:
        return {}
    if ranges := manifest.extra.get("rows"):  # of an update
        tasks = [Task(index=index, start=start, stop=stop) for index, (start, stop) in enumerate(ranges)]
    rejected = set(numbers([each["sample_id"] for each in read_rejects(folder)]).values()) if numbers else set()
    makers = _makers(manifest, tasks, rejected)
    if not lost.keys() <= makers.keys():
        raise StoreError(f"{folder}: the manifest does not say how {min(lost)} was made", "give `fresh` to start over")
    return {path: makers[path] for path in lost}


def _makers(manifest: Manifest, tasks: Sequence[Task], rejected: set[int]) -> dict[str, Maker]:
    makers: dict[str, Maker] = {}
    left = {split: iter(shards) for split, shards in manifest.splits.items()}
    for task, count in _made(manifest, tasks, rejected):
        for number in range(count):
            info = next(left[task.split])
            makers[f"{task.split}/{info.name}"] = Maker(task=task, number=number, info=info)
    return makers


def _made(manifest: Manifest, tasks: Sequence[Task], rejected: set[int]) -> Iterator[tuple[Task, int]]:
    """Yield (task, how many shards it made) for the tasks of the run and of the retries after it.

    A task is about the rows that it wrote: one that it rejected may be sound today, and is not in its shards.
    """
    retries = manifest.extra.get("retries", [])
    later = [rejected.union(*(each["rows"] for each in retries[number:])) for number in range(len(retries) + 1)]
    for task, count in zip(tasks, manifest.tasks, strict=False):
        yield _without(task, later[0]), count
    index = len(tasks)
    for retry, missing in zip(retries, later[1:], strict=True):
        for task, count in zip(tasks_of(retry["rows"], rows_per_task(len(retry["rows"]))), retry["tasks"], strict=True):
            yield replace(_without(task, missing), index=index), count
            index += 1


def _without(task: Task, rows: set[int]) -> Task:
    if rows.isdisjoint(task.numbers):
        return task
    return replace(task, only=tuple(row for row in task.numbers if row not in rows))


def put_back(folder: Path, record: Record, lost: Mapping[str, Maker], made: Path) -> None:
    """Move the lost shards among those that a task made into the store.

    Raises:
        StoreError: what was made is not what the manifest describes.
    """
    for path, maker in lost.items():
        if maker.task.index != record.task:
            continue
        target = folder / path
        found = record.shards[maker.number] if maker.number < len(record.shards) else None
        if found is None or replace(found, name=maker.info.name) != maker.info:
            raise StoreError(
                f"{target}: made again, it differs from what was lost: media or libraries changed since",
                "restore them, or give `fresh` to make the whole store again",
            )
        target.parent.mkdir(exist_ok=True)
        os.replace(made / found.name, target)
        sync_folder(target.parent)
