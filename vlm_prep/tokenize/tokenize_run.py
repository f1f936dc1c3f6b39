"""A whole source into a tokenized store: start-up check, tasks, top-up of the proof, manifest."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import vlm_prep
from vlm_prep.core.errors import InputError, RejectReason, StoreError
from vlm_prep.core.fingerprint import digest_json
from vlm_prep.core.own_process import as_before
from vlm_prep.core.records import Encoded
from vlm_prep.core.run_yaml import stored_run
from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.core.stored_settings import stored_settings
from vlm_prep.engine.accounts import check_reject_rate
from vlm_prep.engine.local import Limits, ask, start_forkserver
from vlm_prep.engine.ownership import read_run
from vlm_prep.engine.retry_rejects import added_totals, open_retry, run_retry
from vlm_prep.engine.stage import RunOptions, Send, Stage, run_stage
from vlm_prep.engine.tasks import Assignment, Poison, Record, Task, no_heartbeat, rows_per_task, split_rows
from vlm_prep.ingest.row_source import said_of_outside
from vlm_prep.ingest.some_samples import earlier_rejects
from vlm_prep.ingest.source import Samples, how_read
from vlm_prep.ingest.unread_keys import unread_notes
from vlm_prep.media.changed_media import said_of_changes
from vlm_prep.media.rules import rules_of
from vlm_prep.processors.load import must_be_reachable
from vlm_prep.processors.template_date import today
from vlm_prep.shards.layout import read_rejects
from vlm_prep.shards.manifest import MANIFEST, WORK, Manifest, read_manifest
from vlm_prep.shards.reader import Store
from vlm_prep.shards.schema import SCHEMA_VERSION
from vlm_prep.tokenize.bounded_rows import bounded_rows
from vlm_prep.tokenize.encoder import VIDEO_FRAMES
from vlm_prep.tokenize.recipe import ProcessorFindings
from vlm_prep.tokenize.row_facts import ROWS, write_ledger
from vlm_prep.tokenize.run_accounts import data_card, describe_run, proof_of_hook, shapes_in
from vlm_prep.tokenize.token_hook import digest_of
from vlm_prep.tokenize.tokenize_job import STAGE, STARTUP_ROWS, TokenizeJob
from vlm_prep.tokenize.verify.asking import ASKED
from vlm_prep.tokenize.verify.choose import LABELS, REFUSED, UNREADABLE, proof
from vlm_prep.tokenize.verify.refusals import LastCheck, Refusals


@as_before()
def tokenize(
    samples: Samples, processor: str, config: TokenizeConfig, options: RunOptions, *, begun: Begun | None = None
) -> Manifest | None:
    """Tokenize `samples` into the store `options.out`.

    Examples:
        >>> config = vp.TokenizeConfig(max_length=450, train_on="last")
        >>> run = vp.RunOptions(out=folder / "tok", workers=0, say=told, max_reject_rate=0.5)
        >>> manifest = vp.tokenize(samples, "builtin:qwen2.5-vl-mini", config, run)
        >>> manifest.totals["rows_written"], manifest.totals["rejects"]
        (7, {'overlong': 1})

    Args:
        samples: see `ingest.source.open_samples`.
        processor: Hugging Face id, folder, or `builtin:<name>`.
        config: settings that shape the output.
        options: how to run.
        begun: what `begin` returned for these arguments, where it was called already.

    Returns:
        The manifest of the finished store; None where only a part of the run was asked for. Each part compares the
        first rows before it begins, with its own machine's libraries, and the share of its rows that is chosen; the
        top-up for rare kinds of media needs all records and is left to the finishing.

    Raises:
        InputError: there are no rows.
        ProcessorError: the processor does not load or has no family.
        ExactnessError: a row differs from the real processor's output.
        RejectRateError: the store is complete, with too many rejects.
    """
    job, identity, findings = begun or begin(samples, processor, config, options)
    tell(findings, options)
    config = replace(config, template_date=findings.template_date)
    tasks, again = split_rows(len(samples), rows_per_task(len(samples))), origin_of(samples, processor)
    last = LastCheck(Refusals(tasks), config, options.say)

    def check(records: Sequence[Record], shards: Path, send: Send) -> list[Poison]:
        refused = last.refused(records, shards, send)
        if not refused and (said := write_ledger(samples, identity["samples"], records, options.out)):
            again[ROWS] = said
        return refused

    stage = Stage(
        name=STAGE,
        identity=identity,
        tasks=tasks,
        job=job,
        describe=partial(describe_run, samples, config, findings.runtime, last.compared),
        begin=Assignment(
            task=startup_task(job), folder=options.out, method="check_start", arguments=(options.max_reject_rate,)
        ),
        begun=last.refusals.knows,
        check=check,
        again=again,
        settings=run_file(samples, processor, config),
        numbers=samples.numbers,
        earlier=earlier_rejects(samples),
    )
    was_complete = (options.out / MANIFEST).is_file() and not options.fresh
    manifest = run_stage(stage, options)
    if manifest is None:
        return None
    if was_complete and (said := said_of_changes(Store(options.out, stage=STAGE))):
        options.say(said)
    for note in _notes(manifest, findings, options.out):
        options.say(note)
    check_reject_rate(manifest.totals, options)
    return manifest


Begun = tuple[TokenizeJob, dict[str, Any], ProcessorFindings]


def begin(samples: Samples, processor: str, config: TokenizeConfig, options: RunOptions) -> Begun:
    """Return the job of a run, its identity, and what its workers, or this process where it has none, know of the
    processor: where there are workers, only they load it, and this process never imports torch."""
    if not len(samples):
        raise InputError("the source has no rows")
    job = TokenizeJob(samples, processor, _with_day(config, options))
    rules_of(config)
    must_be_reachable(processor)
    supervised = options.engine == "local" and options.workers > 0
    if supervised:
        start_forkserver(job, options.workers)
    source = samples.identity()  # reads the source while the forkserver loads the processor
    if supervised:
        limits = Limits(sample_timeout=options.sample_timeout, worker_memory=options.worker_memory)
        findings: ProcessorFindings = ask(job, "findings", limits, options.out / WORK / "findings")
    else:
        job.setup()
        findings = job.findings(startup_task(job), options.out, no_heartbeat)
    job.payload = findings.runtime["payload"]
    identity = {
        "stage": STAGE,
        "schema": SCHEMA_VERSION,
        "vlm_prep": vlm_prep.__version__,
        "samples": source,
        "config": replace(config, template_date=findings.template_date).to_json(),
        "processor": findings.identity,
        **({"token_hook": hook} if (hook := digest_of(config.token_hook)) else {}),
    }
    return job, identity, findings


def tell(findings: ProcessorFindings, options: RunOptions) -> None:
    """Say what there is to say of a processor, once a run."""
    for note in findings.notes:
        options.say(f"note: {note}")


def _with_day(config: TokenizeConfig, options: RunOptions) -> TokenizeConfig:
    """The settings with the day that templates are told: a store's own where it is gone on with."""
    if config.template_date is not None:
        return config
    try:
        held = {} if options.fresh else read_run(options.out)[1].get("config", {})
    except StoreError:  # a new one
        held = {}
    return replace(config, template_date=held.get("template_date") or today())


def prepare(
    samples: Samples, processor: str, config: TokenizeConfig, options: RunOptions
) -> tuple[TokenizeJob, dict[str, Any]]:
    """Return the job, ready in this process, and the run's identity."""
    job, identity, findings = begin(samples, processor, config, replace(options, workers=0, engine="local"))
    tell(findings, options)
    return job, identity


def _notes(manifest: Manifest, findings: ProcessorFindings, out: Path) -> Iterator[str]:
    """Yield what to tell the user of a finished store."""
    if asked := manifest.totals.get(ASKED):
        yield (
            f"note: {asked} rows were made by asking the whole processor for each, since of such rows it makes other "
            "tokens or tensors than the calls showed by which we learned its ways: they are equal to its output"
        )
    # the processor keeps every frame of a video
    if findings.every_frame is not None and manifest.totals["rejects"].get(RejectReason.OVERLONG.value):
        overlong = [row["message"] for row in read_rejects(out) if row["reason"] == RejectReason.OVERLONG.value]
        if long := sum(VIDEO_FRAMES in message for message in overlong):
            yield (
                f"note: {long} rows with video were too long: {findings.every_frame} samples no frames by itself, so "
                "every frame was kept, as the processor would; `fps=2` takes two a second"
            )
    if outside := said_of_outside(manifest.totals):
        yield outside
    yield from unread_notes(manifest.totals)
    if unreadable := manifest.proof["unreadable"]:
        yield (
            f"note: {unreadable} compared rows have media that do not decode; training would stop at them and at "
            "others like them: `check_media=decode` finds and rejects all of them"
        )


def origin_of(samples: Samples, processor: str) -> dict[str, Any]:
    """Return where a run's rows and processor came from."""
    path = os.path.abspath(processor) if os.path.isdir(processor) else processor
    return {"source": samples.origin, "processor": path}


def run_file(samples: Samples, processor: str, config: TokenizeConfig) -> str:
    """Return what the store keeps as run.yaml."""
    named = {"source": samples.origin.get("path"), "processor": origin_of(samples, processor)["processor"]}
    return stored_run(STAGE, named, how_read(samples), config)


def startup_task(job: TokenizeJob) -> Task:
    """Return the rows among which some are compared before the long run starts."""
    return Task(index=0, start=0, stop=min(STARTUP_ROWS, len(job.samples)))


@as_before()
def retry_tokenize(
    samples: Samples,
    processor: str,
    reasons: Sequence[str],
    options: RunOptions,
    *,
    trust_remote_code: bool = False,
    token_hook: str | None = None,
) -> Manifest:
    """Do the rows of the store `options.out` again that were rejected for `reasons`, see `engine.retry_rejects`.

    Raises:
        StoreError: the store was made with code of its processor and `trust_remote_code` is not given, or with another
            `token_hook`.
        ExactnessError: a row differs from the real processor's output.
    """
    stored = read_manifest(options.out, stage=STAGE).config
    code: dict[str, Any] = {"trust_remote_code": trust_remote_code, "token_hook": token_hook}
    config = stored_settings(TokenizeConfig, stored, options.out, **code)
    job, identity, findings = begin(samples, processor, config, options)
    tell(findings, options)
    retry = open_retry(options.out, reasons, identity, samples.numbers)
    before = {reject.sample_id: reject.reason for reject in retry.rejects}
    suspects = frozenset(number for name, number in retry.numbers.items() if before[name] in REFUSED)
    last = LastCheck(Refusals(retry.tasks(), suspects), config, options.say, Counter(retry.manifest.proof["rows"]))

    def amend(manifest: Manifest, records: Sequence[Record], shards: Path, send: Send) -> tuple[Manifest, str]:
        before = manifest.proof
        kinds = Counter(manifest.totals["kinds"])
        for record in records:
            kinds.update(record.facts["kinds"])
        shapes = [*before.get("shapes", ()), *shapes_in(records)]
        checked = [
            {**before["rows"], LABELS: before["labels_found_twice"], UNREADABLE: before["unreadable"]},
            *(record.facts["checked"] for record in records),
            *last.compared,
        ]
        totals = added_totals(manifest.totals, records)
        proved = proof(checked, kinds, manifest.processor, config.verify_fraction, shapes)
        amended = replace(
            manifest,
            totals={**manifest.totals, "kinds": dict(sorted(kinds.items()))},
            proof=proved | proof_of_hook(config, totals),
        )
        return amended, data_card(totals)

    return run_retry(retry, options, job, amend, last.refused)


@as_before()
def dry_run(samples: Samples, processor: str, config: TokenizeConfig, options: RunOptions) -> dict[str, Any]:
    """Load, check and encode the first rows; write nothing.

    Returns:
        What the run would be: rows, datasets, processor, template findings, and the numbers of the first rows.
    """
    job, identity = prepare(samples, processor, config, options)
    job.check_start(startup_task(job), None, no_heartbeat)
    count = min(4 * STARTUP_ROWS, len(samples))
    results = list(bounded_rows(job, 0, count))
    written = [result for result in results if isinstance(result, Encoded)]
    rejects = Counter(result.reason for result in results if not isinstance(result, Encoded))
    tokens = sum(len(encoded.input_ids) for encoded in written)
    return {
        "rows": len(samples),
        "datasets": samples.describe(),
        "read": samples.first_rows(),
        "fingerprint": digest_json(identity),
        "processor": job.encoder.adapter.loaded.identity,
        "family": job.encoder.adapter.family,
        "level": job.encoder.adapter.level,
        "text_encoder": job.encoder.text.implementation,
        "template": vars(job.encoder.template.findings),
        "first_rows": {
            "rows": count,
            "written": sum(encoded.document == 1 for encoded in written),
            "documents": len(written),
            "rejected": dict(rejects),
            "tokens": tokens,
            "mean_tokens": round(tokens / len(written), 1) if written else 0,
        },
        "equal_to_the_processor": config.verify_fraction > 0,
    }
