"""Do rejected rows of a finished store again, after what was wrong with them was repaired.

What succeeds becomes shards of its own (`data-retry1-...`), beside those that are there. The new manifest, rejects and
files around them are gathered in the work folder; they replace the old ones in an order that ends with the manifest
(`publish.py`). So the store is readable at every instant, and a kill costs nothing: before the change is decided the
rows are done again, after it the rest is moved into place. The store's fingerprint becomes another one, which whoever
planned on the old store sees.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from vlm_prep.core.errors import InputError, OutputError
from vlm_prep.core.fingerprint import changes, digest_json
from vlm_prep.core.records import Rejected
from vlm_prep.engine.accounts import sum_counts, sum_datasets
from vlm_prep.engine.claim import open_finished, reopen
from vlm_prep.engine.events import from_start_to_end
from vlm_prep.engine.lock import Lock
from vlm_prep.engine.ownership import MOST_CHANGES, read_plan
from vlm_prep.engine.publish import decide, publish_staged, staging
from vlm_prep.engine.stage import Commits, RunOptions, Send, executor_of, progress_of, sender
from vlm_prep.engine.tasks import Assignment, Job, Poison, Record, Task, rows_per_task, tasks_of
from vlm_prep.engine.workspace import Workspace
from vlm_prep.shards.earlier import rejected_earlier
from vlm_prep.shards.layout import (
    file_digests,
    read_rejects,
    shard_name,
    write_dataset_files,
    write_rejects,
)
from vlm_prep.shards.manifest import MANIFEST, WORK, Manifest, read_manifest, write_manifest
from vlm_prep.shards.shard_info import ShardInfo
from vlm_prep.shards.store_check import fingerprint_of
from vlm_prep.shards.store_names import REJECTS_FILE

Check = Callable[[Sequence[Record], Path, Send], Sequence[Poison]]
"""Returns rows among those that were done again which must be done otherwise, see `Stage.check`."""
Amend = Callable[[Manifest, Sequence[Record], Path, Send], tuple[Manifest, str]]
"""Makes what only the stage knows of the new manifest and the text of the data card."""


@dataclass(frozen=True, kw_only=True)
class Retry:
    """What of a store is done again."""

    folder: Path
    manifest: Manifest
    rejects: tuple[Rejected, ...]
    """All rejects of the store."""
    reasons: tuple[str, ...]
    numbers: dict[str, int]
    """{sample_id: number in the stage's input} of the rows to do again."""

    @property
    def round(self) -> int:
        """1 for the first retry of a store."""
        return len(self.manifest.extra.get("retries", [])) + 1

    def tasks(self) -> list[Task]:
        """Return the tasks; they do not depend on anything else than the rows."""
        rows = sorted(self.numbers.values())
        return tasks_of(rows, rows_per_task(len(rows)))


def settle(folder: Path, say: Callable[[str], None]) -> bool:
    """Complete a retry that was interrupted after it was decided; return whether there was one.

    Raises:
        OutputError: another process writes the folder.
    """
    plan = folder / WORK / "plan.json"
    if not plan.exists() or not (folder / MANIFEST).exists():
        return False
    round_number = read_plan(folder).identity.get("retry")
    if type(round_number) is not int:
        return False
    lock = Lock(folder, folder / WORK / "lock", say)
    lock.acquire()
    try:
        publish_staged(folder)
        complete = len(read_manifest(folder).extra.get("retries", [])) >= round_number
        if complete:
            shutil.rmtree(folder / WORK, ignore_errors=True)
            say(f"completed the retry of {folder} that was interrupted")
        return bool(complete)
    finally:
        lock.release()


def open_retry(
    folder: Path, reasons: Sequence[str], identity: Mapping[str, Any], number: Callable[[list[str]], dict[str, int]]
) -> Retry:
    """Find the rows that were rejected for one of `reasons`.

    Args:
        folder: a finished store.
        reasons: reject reasons.
        identity: of the run that would make the store now.
        number: returns the numbers of sample_ids.

    Raises:
        OutputError: the source or the processor is not what the store was made of.
        InputError: no row was rejected for these reasons.
    """
    manifest = read_manifest(folder)
    if digest_json(manifest.identity) != digest_json(identity):
        differs = "\n    ".join(["", *changes(manifest.identity, identity)[:MOST_CHANGES]])
        raise OutputError(
            f"{folder} was made of something else; what differs:{differs}",
            "a retry is for repaired media; when the rows or the processor changed, run the stage again with `fresh`",
        )
    rejects = tuple(Rejected(**each) for each in read_rejects(folder))
    own = rejects[rejected_earlier(manifest.totals) :]
    wanted = [reject.sample_id for reject in own if reject.reason in reasons]
    if not wanted:
        known = ", ".join(manifest.totals["rejects"]) or "none"
        before = any(reject.reason in reasons for reject in rejects)
        hint = "; those were rejected by an earlier stage: retry its store, then run this stage again" if before else ""
        named = ", ".join(reasons)
        raise InputError(f"{folder}: no row was rejected for {named}", f"reasons of this store: {known}{hint}")
    return Retry(folder=folder, manifest=manifest, rejects=rejects, reasons=tuple(reasons), numbers=number(wanted))


def run_retry(
    retry: Retry, options: RunOptions, job: Job, amend: Amend, check: Check = lambda records, shards, send: ()
) -> Manifest:
    """Do the rows again and return the store's new manifest.

    Raises:
        OutputError: another process writes the folder, or writing failed.
        VlmPrepError: from the rows.
    """
    with from_start_to_end(options.events, "retry", retry.folder, len(retry.tasks())) as totals:
        manifest = _run_retry(retry, options, job, amend, check)
        totals.update(manifest.totals)
    return manifest


def _run_retry(retry: Retry, options: RunOptions, job: Job, amend: Amend, check: Check) -> Manifest:
    plan = {"retry": retry.round, "of": retry.manifest.fingerprint, "rows": sorted(retry.numbers.values())}
    workspace = open_finished(retry.folder, retry.manifest, say=options.say)
    try:
        reopen(workspace, retry.manifest, plan)
        records = _records(retry, workspace, options, job, amend, check)
        workspace.publish()
        workspace.close()
        written = sum(record.counts["rows_written"] for record in records)
        options.say(
            f"{len(retry.numbers)} rows were done again: {written} written, {len(retry.numbers) - written} rejected"
            + ("" if written else "; the store is as it was")
        )
        return read_manifest(retry.folder)
    except OSError as error:
        raise OutputError(
            f"{retry.folder}: {error}", "the store is as it was: when the cause is gone, run the same command again"
        ) from error
    finally:
        workspace.release()


def _records(
    retry: Retry, workspace: Workspace, options: RunOptions, job: Job, amend: Amend, check: Check
) -> list[Record]:
    tasks = retry.tasks()
    with (
        executor_of(job, workspace, options) as executor,
        progress_of(len(retry.numbers), "retry", workspace, options) as progress,
    ):
        while True:
            knowing = [task.without(workspace.poison()) for task in tasks]
            assignments = [Assignment(task=task, folder=workspace.shards) for task in workspace.pending(knowing)]
            executor.run(assignments, Commits(workspace, options.events), progress)
            records = workspace.records(tasks)
            # staged again after a kill: shards that were moved there already come back first
            _unstage(retry, workspace, records)
            send = sender(executor, workspace.shards)
            for poison in check(records, workspace.shards, send):
                workspace.add_poison(poison)
            if not workspace.pending([task.without(workspace.poison()) for task in tasks]):
                break
        # with the workers, which compare rows
        manifest, card = amend(retry.manifest, records, workspace.shards, send)
    if any(record.counts["rows_written"] for record in records):
        _stage(retry, workspace, records, manifest, card)
    return records


def _unstage(retry: Retry, workspace: Workspace, records: Sequence[Record]) -> None:
    for _, source, target in _moves(retry, workspace, records):
        if not source.exists() and target.exists():
            target.rename(source)
    shutil.rmtree(staging(retry.folder), ignore_errors=True)


def _moves(retry: Retry, workspace: Workspace, records: Sequence[Record]) -> list[tuple[ShardInfo, Path, Path]]:
    """Return (what the manifest says, where it is made, where it is staged) for each new shard."""
    made = [shard for record in records for shard in record.shards]
    named = [(shard, shard_name(index, len(made), retry=retry.round)) for index, shard in enumerate(made)]
    return [
        (replace(shard, name=name), workspace.shards / shard.name, staging(retry.folder) / "train" / name)
        for shard, name in named
    ]


def _stage(retry: Retry, workspace: Workspace, records: Sequence[Record], manifest: Manifest, card: str) -> None:
    """Gather the new files in the work folder, then decide that they replace the old ones."""
    folder = staging(retry.folder)
    (folder / "train").mkdir(parents=True)
    moves = _moves(retry, workspace, records)
    for _, source, target in moves:
        source.rename(target)
    new = [info for info, _, _ in moves]
    manifest = _amended(retry, manifest, records, new, workspace)
    write_rejects(folder, _left(retry, records))
    write_dataset_files(folder, manifest.splits, card=card, fingerprint=manifest.fingerprint)
    files = {**manifest.files, **file_digests(folder, ["train"])}
    write_manifest(folder, replace(manifest, files=files))
    names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
    shards = [name for name in names if name.endswith(".arrow")]
    others = [name for name in names if name not in shards and name != MANIFEST]
    decide(retry.folder, [*shards, *sorted(others, key=lambda name: (name == REJECTS_FILE, name)), MANIFEST])


def _left(retry: Retry, records: Sequence[Record]) -> list[Rejected]:
    """Return the store's rejects, in order, after the rows were done again."""
    again = {reject.sample_id: reject for record in records for reject in record.rejects}
    return [
        again.get(reject.sample_id, reject)
        for reject in retry.rejects
        if reject.sample_id not in retry.numbers or reject.sample_id in again
    ]


def _amended(
    retry: Retry, manifest: Manifest, records: Sequence[Record], new: list[ShardInfo], workspace: Workspace
) -> Manifest:
    """Return the manifest with the new shards and the new accounts."""
    left = _left(retry, records)[rejected_earlier(manifest.totals) :]
    reasons = Counter(reject.reason for reject in left)
    totals = {
        **added_totals(manifest.totals, records),
        "rejects": dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0]))),
    }
    entry = {
        "reasons": list(retry.reasons),
        "rows": sorted(retry.numbers.values()),
        "tasks": [len(record.shards) for record in records],
        "shards": [info.xxh3 for info in new],
        "poison": [asdict(each) for each in workspace.poison()],
    }
    retries = [*manifest.extra.get("retries", []), entry]
    return replace(
        manifest,
        totals=totals,
        splits={**manifest.splits, "train": [*manifest.splits.get("train", []), *new]},
        extra={**manifest.extra, "retries": retries},
        fingerprint=fingerprint_of(manifest.identity, retries, manifest.extra.get("updated")),
    )


def added_totals(totals: Mapping[str, Any], records: Sequence[Record]) -> dict[str, Any]:
    """Return the totals of a store after some of its rejected rows were done again."""
    found = _added(totals, sum_counts(records))
    datasets = sum_datasets(records)
    found["datasets"] = {name: _added(counts, datasets.get(name, {})) for name, counts in totals["datasets"].items()}
    return found


def _added(before: Mapping[str, Any], again: Mapping[str, int]) -> dict[str, Any]:
    """Add the counts of rows that were counted as rejected before."""
    found = dict(before)
    for name, count in again.items():
        if name == "rows_rejected":
            found[name] -= again["rows_written"]
        elif name != "rows_in":
            found[name] = found.get(name, 0) + count
    return found
