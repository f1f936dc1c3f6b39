"""Bring a tokenized store up to its source: rows that were added or changed are done, the rest stays or is copied.

The store afterwards holds, row for row and in order of the source, what one made from scratch holds. It is replaced
as a retry replaces it (`engine.publish`): new shards, and the old ones that stay under names of the new order (as
links, where the disk has them), are gathered in the work folder, then a list decides, and the manifest comes last.
So a kill at any instant leaves the old store or the new one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vlm_prep.core.errors import ChangedStoreError, InputError, OutputError
from vlm_prep.core.fingerprint import changes, digest_json
from vlm_prep.core.own_process import as_before
from vlm_prep.core.records import Rejected
from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.engine.accounts import check_reject_rate
from vlm_prep.engine.claim import open_finished, reopen, settle
from vlm_prep.engine.events import from_start_to_end
from vlm_prep.engine.ownership import MOST_CHANGES, PLAN, read_plan
from vlm_prep.engine.stage import Commits, RunOptions, Send, executor_of, progress_of, sender
from vlm_prep.engine.tasks import Assignment, Poison, Record
from vlm_prep.engine.workspace import Workspace
from vlm_prep.ingest.row_digests import row_digests, sample_ids
from vlm_prep.ingest.source import Samples
from vlm_prep.media.gathered import open_gathered
from vlm_prep.processors.lean_imports import no_garbage
from vlm_prep.shards.earlier import rejected_earlier
from vlm_prep.shards.layout import (
    read_origin,
    read_rejects,
)
from vlm_prep.shards.manifest import MANIFEST, Manifest, read_manifest
from vlm_prep.shards.reader import Store
from vlm_prep.shards.row_ledger import read_ledger
from vlm_prep.shards.store_names import STAGED_LIST, WORK
from vlm_prep.tokenize.known_media import KnownRow
from vlm_prep.tokenize.recipe import ProcessorFindings
from vlm_prep.tokenize.row_facts import ROWS
from vlm_prep.tokenize.run_accounts import describe_run
from vlm_prep.tokenize.tokenize_job import STAGE
from vlm_prep.tokenize.tokenize_run import begin, tell, tokenize
from vlm_prep.tokenize.update_job import CopiedRow, UpdateJob
from vlm_prep.tokenize.update_layers import Layers, layer_of
from vlm_prep.tokenize.update_plan import NEW, plan_update
from vlm_prep.tokenize.update_staging import Update, kept_record, stage, unstage
from vlm_prep.tokenize.verify.refusals import Refusals, top_up


def is_made_good(line: str) -> bool:
    """Whether an update can make good a difference between two runs, see `fingerprint.changes`."""
    return line.startswith("samples.") or layer_of(line) is not None


def look(samples: Samples, identity: dict[str, Any], folder: Path) -> Update:
    """Find out what an update of the store in `folder` would do.

    Args:
        samples: the source as it is.
        identity: of the run that would make the store from scratch.
        folder: a finished tokenized store.

    Raises:
        OutputError: the store was made with other settings or another processor.
        StoreError: it has no record of its rows.
        InputError: the source cannot tell its rows apart.
    """
    manifest = read_manifest(folder, stage=STAGE)
    beside = [
        {name: value for name, value in each.items() if name != "samples"} for each in (manifest.identity, identity)
    ]
    lines = changes(*beside)
    if others := [line for line in lines if not is_made_good(line)]:
        differs = "\n    ".join(["", *others[:MOST_CHANGES]])
        raise OutputError(
            f"{folder} was made with other settings; what differs:{differs}",
            "an update is for rows, and for other settings of length, labels, pixels and frames; with others make the "
            "store anew (`fresh`)",
        )
    ledger = read_ledger(folder, manifest, (read_origin(folder) or {}).get(ROWS))
    digests = row_digests(samples, known=ledger.digests)
    if digests is None:
        raise InputError("this source cannot be updated from", "give the source itself")
    rejects = tuple(Rejected(**each) for each in read_rejects(folder))[rejected_earlier(manifest.totals) :]
    ids = sample_ids(samples)
    plan = plan_update(
        Store(folder, manifest=manifest),
        ledger,
        digests,
        ids,
        own=samples.data_files,
        fraction=manifest.config["verify_fraction"],
        reasons={each.sample_id: each.reason for each in rejects},
        layers=Layers.of(lines, manifest.config, identity["config"]),
        gathered=open_gathered(manifest.config.get("media_store")),
    )
    states = ledger.states.copy()
    states[list(plan.renewed)] = list(plan.renewed.values())
    ledger = replace(ledger, states=states)
    return Update(
        folder=folder,
        manifest=manifest,
        ledger=ledger,
        plan=plan,
        rejects=rejects,
        identity=identity,
        ids=ids,
        digests=digests,
    )


@as_before()
def update(samples: Samples, processor: str, config: TokenizeConfig, options: RunOptions) -> Manifest | None:
    """Bring the store `options.out` up to `samples`; where there is none, make it.

    Returns:
        The store's manifest.

    Raises:
        OutputError: the store was made with other settings, another process writes it, or writing failed.
        StoreError: the store has no record of its rows.
        ExactnessError: a row differs from the real processor's output.
        RejectRateError: the store is complete, with too many rejects.
    """
    if not (options.out / MANIFEST).exists():
        return tokenize(samples, processor, config, options)
    if options.part is not None or options.fresh:
        raise InputError("`update` excludes `part` and `fresh`", "leave one out")
    if (options.out / WORK).exists() and _is_over(options.out):
        settle(options.out, options.say)
    job, identity, findings = begin(samples, processor, config, options)
    tell(findings, options)
    config = replace(config, template_date=findings.template_date)
    with no_garbage():  # millions of small objects, none of them garbage
        found = look(samples, identity, options.out)
    options.say(f"{options.out}: {found.plan.said()}")
    try:
        with from_start_to_end(options.events, "update", options.out, len(found.todo)) as totals:
            if found.plan.nothing and digest_json(found.manifest.identity) == digest_json(identity):
                manifest = found.manifest
            else:
                rows, media = _copied_rows(found), _known_rows(found)
                # with the settings of `job`, for which the forkserver has made all that workers need
                run = UpdateJob(samples, processor, job.config, job.payload, folder=options.out, rows=rows, media=media)
                manifest = _do(found, run, config, findings, options)
            totals.update(manifest.totals)
    except ChangedStoreError as error:
        options.say(f"{error.message}: looking again")
        return update(samples, processor, config, options)
    check_reject_rate(manifest.totals, options)
    return manifest


def _do(
    found: Update, run: UpdateJob, config: TokenizeConfig, findings: ProcessorFindings, options: RunOptions
) -> Manifest:
    """Do what there is to do, and return the store's new manifest."""
    if not options.workers:
        run.setup()
    workspace = open_finished(found.folder, found.manifest, say=options.say)
    try:
        made_of = {"update": found.round, "of": found.manifest.fingerprint, "to": _target(found)}
        reopen(workspace, found.manifest, made_of)
        records, checked = _records(found, workspace, run, options)
        made = describe_run(run.samples, config, findings.runtime, [checked], records, {})
        with no_garbage():
            stage(found, workspace, records, made, run.samples, run.processor, config)
        workspace.publish()
        workspace.close()
    except OSError as error:
        raise OutputError(
            f"{options.out}: {error}", "the store is as it was: when the cause is gone, run the same command again"
        ) from error
    finally:
        workspace.release()
    return read_manifest(options.out)


def _is_over(folder: Path) -> bool:
    """Whether what stands in the work folder of a finished store was decided, or is left of what is complete."""
    if (folder / STAGED_LIST).exists() or not (folder / WORK / PLAN).exists():
        return True
    identity = read_plan(folder).identity
    made = identity.get("update")
    if not identity:  # of what starts over: this settling, ended by a second kill
        return True
    return type(made) is int and made <= int(read_manifest(folder).extra.get("updates", 0))


def _target(found: Update) -> str:
    """Return the digest of all that the new store depends on."""
    plan = found.plan
    return digest_json(
        {
            "identity": found.identity,
            "matches": digest_json(plan.matches.tolist()),
            "tasks": [[task.start, task.stop] for task in plan.tasks],
            "kept": {str(index): kept.old for index, kept in plan.kept.items()},
        }
    )


def _copied_rows(found: Update) -> dict[int, CopiedRow]:
    """Return what the store knows of the rows that are copied; those of kept tasks are not read."""
    ledger, plan = found.ledger, found.plan
    begins = ledger.begins.tolist()
    reasons = {each.sample_id: (each.reason, each.message) for each in found.rejects if each.stage == STAGE}
    kept = {row for index in plan.kept for row in plan.tasks[index].numbers}
    rows: dict[int, CopiedRow] = {}
    for row, old in enumerate(plan.matches.tolist()):
        if old == NEW or row in kept:
            continue
        rows[row] = CopiedRow(
            first=begins[old],
            documents=int(ledger.documents[old]),
            notes=tuple(ledger.notes[old] or ()),
            compared=int(ledger.compared[old]),
            reject=None if ledger.documents[old] else reasons.get(ledger.sample_ids[old]),
        )
    return rows


def _known_rows(found: Update) -> dict[str, KnownRow]:
    """Return where the media of rows that are encoded again stand in the store."""
    ledger, begins = found.ledger, found.ledger.begins.tolist()
    return {
        found.ids[row]: KnownRow(place=begins[old], notes=tuple(ledger.notes[old] or ()))
        for row, old in found.plan.known.items()
    }


def _records(
    found: Update, workspace: Workspace, job: UpdateJob, options: RunOptions
) -> tuple[list[Record], Counter[str]]:
    """Do the tasks that are not kept; return the records of all, and what was compared beyond them."""
    plan = found.plan
    kept = {index: kept_record(found, index, workspace.shards) for index in plan.kept}
    todo = found.todo
    executor = executor_of(job, workspace, options)
    rows = sum(len(task.numbers) for task in todo)
    refusals, checked = Refusals(plan.tasks), Counter[str]()
    with executor, progress_of(rows, "update", workspace, options) as progress:
        while True:
            knowing = [task.without(workspace.poison()) for task in todo]
            assignments = [Assignment(task=task, folder=workspace.shards) for task in workspace.pending(knowing)]
            executor.run(assignments, Commits(workspace, options.events), progress)
            records = [kept.get(task.index) or workspace.records([task])[0] for task in plan.tasks]
            unstage(found, workspace, records)
            send = sender(executor, workspace.shards)
            refused = _refused(found, refusals, records, workspace.shards, send)
            if not refused:
                checked, refused = top_up(job.config, records, workspace.shards, send, Counter())
                refused = refusals.spread(refused, records, send)
            for poison in refused:
                workspace.add_poison(poison)
            if not workspace.pending([task.without(workspace.poison()) for task in todo]):
                return records, checked


def _refused(found: Update, refusals: Refusals, records: Sequence[Record], shards: Path, send: Send) -> list[Poison]:
    """Return the rows among those that were done that the real processor cannot take.

    Raises:
        OutputError: rows that stay would have to be compared, too, as those of a shape that was not refused before.
    """
    kept = [record for record in records if record.task in found.plan.kept]
    done = [record for record in records if record.task not in found.plan.kept]
    if not done:
        return []
    before = {shape: -1 for record in kept for shape in record.facts.get("refused", ())}
    facts = {**done[0].facts, "refused": {**before, **done[0].facts.get("refused", {})}}
    refused = refusals.find([replace(done[0], facts=facts), *done[1:]], shards, send)
    shapes = {shape for record in done for shape in record.facts.get("refused", ())} - before.keys()
    if shapes & {shape for record in kept for shape in record.facts.get("shapes", ())}:
        raise OutputError(
            f"{found.folder}: the processor cannot take rows of a new kind, of which the store has some that were not "
            "compared",
            "make the store anew (`fresh`)",
        )
    return refused
