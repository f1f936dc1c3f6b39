"""The files of an updated store, gathered in its work folder until they replace the old ones."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from vlm_prep.core.atomic_files import write_bytes_atomically
from vlm_prep.core.errors import StoreError
from vlm_prep.core.fingerprint import digest_json
from vlm_prep.core.made_here import marked
from vlm_prep.core.records import Rejected
from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.engine.publish import decide, staging
from vlm_prep.engine.tasks import Record, Task
from vlm_prep.engine.workspace import Workspace
from vlm_prep.ingest.row_digests import Digests
from vlm_prep.ingest.some_samples import earlier_rejects
from vlm_prep.ingest.source import Samples
from vlm_prep.shards.earlier import EARLIER
from vlm_prep.shards.layout import (
    file_digests,
    shard_name,
    write_dataset_files,
    write_origin,
    write_rejects,
)
from vlm_prep.shards.manifest import MANIFEST, Manifest, write_manifest
from vlm_prep.shards.row_ledger import RowLedger
from vlm_prep.shards.shard_info import ShardInfo
from vlm_prep.shards.store_check import fingerprint_of
from vlm_prep.shards.store_names import RUN_FILE
from vlm_prep.tokenize.row_facts import ROWS, facts_json, write_ledger
from vlm_prep.tokenize.tokenize_run import origin_of, run_file
from vlm_prep.tokenize.update_plan import UpdatePlan


@dataclass(frozen=True, kw_only=True)
class Update:
    """What is updated, and how."""

    folder: Path
    manifest: Manifest
    ledger: RowLedger
    plan: UpdatePlan
    rejects: tuple[Rejected, ...]
    """The store's own."""
    identity: dict[str, Any]
    ids: list[str]
    digests: Digests
    """Of the source's rows, with `ids`."""

    @property
    def round(self) -> int:
        """1 for the first update of a store."""
        return int(self.manifest.extra.get("updates", 0)) + 1

    @property
    def todo(self) -> list[Task]:
        """The tasks that are not kept."""
        return [task for task in self.plan.tasks if task.index not in self.plan.kept]


def kept_record(found: Update, index: int, shards: Path) -> Record:
    """Link the shards of a task that stays into the work folder, and return its record there."""
    kept, task = found.plan.kept[index], found.plan.tasks[index]
    accounts = found.ledger.tasks[kept.old]
    first = sum(each.shards for each in found.ledger.tasks[: kept.old])
    start = sum(each.rows for each in found.ledger.tasks[: kept.old])
    infos = []
    for number, (name, info) in enumerate(found.manifest.shards()[first : first + accounts.shards]):
        unfinished = f"task-{task.index:06d}-{number:03d}.arrow"
        _link(found.folder / name, shards / unfinished)
        infos.append(replace(info, name=unfinished))
    names = set(found.ids[task.start : task.stop])
    shift = task.start - start
    spare = accounts.facts.get("spare", {})
    facts = {
        **accounts.facts,
        "spare": {kind: [[number + shift, *rest] for number, *rest in places] for kind, places in spare.items()},
        "firsts": {shape: number + shift for shape, number in accounts.facts.get("firsts", {}).items()},
        "equal": [number + shift for number in accounts.facts.get("equal", ())],
        "refused": {shape: number + shift for shape, number in accounts.facts.get("refused", {}).items()},
        ROWS: facts_json(found.ledger, start, start + accounts.rows),
    }
    return Record(
        task=task.index,
        split=task.split,
        shards=tuple(infos),
        rejects=tuple(each for each in found.rejects if each.sample_id in names),
        counts=accounts.counts,
        facts=facts,
    )


def _link(source: Path, target: Path) -> None:
    """Give a shard a second name; a copy where the file system has no links."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        temporary = target.with_name(target.name + ".tmp")
        shutil.copyfile(source, temporary)
        os.replace(temporary, target)


def _moves(found: Update, workspace: Workspace, records: Sequence[Record]) -> list[tuple[ShardInfo, Path, Path]]:
    """Return (what the manifest says, where it is made, where it is staged) for each shard."""
    made = [shard for record in records for shard in record.shards]
    named = [(shard, shard_name(index, len(made), update=found.round)) for index, shard in enumerate(made)]
    return [
        (replace(shard, name=name), workspace.shards / shard.name, staging(found.folder) / "train" / name)
        for shard, name in named
    ]


def unstage(found: Update, workspace: Workspace, records: Sequence[Record]) -> None:
    """Take back what a killed update had staged."""
    for _, source, target in _moves(found, workspace, records):
        if not source.exists() and target.exists():
            target.rename(source)
    shutil.rmtree(staging(found.folder), ignore_errors=True)


def stage(
    found: Update,
    workspace: Workspace,
    records: Sequence[Record],
    made: tuple[Manifest, str],
    samples: Samples,
    processor: str,
    config: TokenizeConfig,
) -> None:
    """Gather the new store in the work folder, then decide that it replaces the old one."""
    folder = staging(found.folder)
    (folder / "train").mkdir(parents=True)
    moves = _moves(found, workspace, records)
    for _, source, target in moves:
        source.rename(target)
    shards = [info for info, _, _ in moves]
    earlier = earlier_rejects(samples)
    write_rejects(folder, [*earlier.rejects, *(reject for record in records for reject in record.rejects)])
    said = write_ledger(samples, found.identity["samples"], records, folder, (found.digests, found.ids))
    if said is None:
        raise StoreError(f"{found.folder}: its source changed while it was updated", "run the same command again")
    origin = {**origin_of(samples, processor), ROWS: said}
    write_origin(folder, marked(origin))
    write_bytes_atomically(folder / RUN_FILE, run_file(samples, processor, config).encode())
    manifest, card = made
    updated = digest_json([info.xxh3 for info in shards])
    updates = {
        "updates": found.round,
        "updated": updated,
        "rows": [[task.start, task.stop] for task in found.plan.tasks],
    }
    totals = {**manifest.totals, **({EARLIER: list(earlier.accounts)} if earlier.accounts else {})}
    extra = {**manifest.extra, **updates}
    manifest = replace(
        manifest,
        splits={"train": shards},
        totals=totals,
        extra=extra,
        identity=found.identity,
        tasks=[len(record.shards) for record in records],
        poison=[asdict(each) for each in workspace.poison()],
    )
    manifest = replace(manifest, fingerprint=fingerprint_of(found.identity, [], updated))
    write_dataset_files(folder, manifest.splits, card=card, fingerprint=manifest.fingerprint)
    write_manifest(folder, replace(manifest, files=file_digests(folder, ["train"])))
    names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
    made_names = [name for name in names if name.endswith(".arrow")]
    others = [name for name in names if name not in made_names and name != MANIFEST]
    outdated = [name for name, _ in found.manifest.shards()]
    decide(found.folder, [*made_names, *others, MANIFEST], outdated)
