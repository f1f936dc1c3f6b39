"""Raw rows into a store of samples with probed media headers.

Not needed before `tokenize`, which ingests on the way; useful to check a source once and tokenize it many times.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

import vlm_prep
from vlm_prep.core.errors import InputError, Reject
from vlm_prep.core.records import Rejected, Sample, characters, counts_of, rejected
from vlm_prep.core.run_yaml import stored_run
from vlm_prep.core.settings import IngestConfig
from vlm_prep.core.stored_settings import stored_settings
from vlm_prep.engine.accounts import check_first_rows, check_reject_rate, reject_reasons, sum_counts, sum_datasets
from vlm_prep.engine.retry_rejects import added_totals, open_retry, run_retry
from vlm_prep.engine.stage import RunOptions, Send, Stage, run_stage
from vlm_prep.engine.tasks import NO_ROW, Assignment, Heartbeat, Poison, Record, Task, rows_per_task, split_rows
from vlm_prep.ingest.row_source import STAGE, said_of_outside
from vlm_prep.ingest.some_samples import keeps_columns
from vlm_prep.ingest.source import Samples, how_read, read_task, sample_row
from vlm_prep.ingest.unread_keys import UNREAD, Unread, count_unread, sum_unread, unread_notes
from vlm_prep.media.changed_media import said_of_changes
from vlm_prep.media.probe import media_of, probe, with_media
from vlm_prep.media.rules import MediaRules, rules_of
from vlm_prep.shards.manifest import MANIFEST, Manifest, read_manifest
from vlm_prep.shards.reader import Store
from vlm_prep.shards.schema import SCHEMA_VERSION, sample_schema
from vlm_prep.shards.shard_info import ShardInfo
from vlm_prep.shards.writer import ShardWriter

_FIRST_ROWS = 64
_CARD = """# Ingested by vlm-prep

{rows} samples. Next: `vlm-prep tokenize FOLDER --processor P --out OUT`.
"""


@dataclass
class IngestJob:
    """Ingests ranges of rows."""

    preload: ClassVar[tuple[str, ...]] = (__name__,)
    samples: Samples
    config: IngestConfig

    def __getstate__(self) -> dict[str, Any]:
        return {"samples": self.samples, "config": self.config}

    def before_fork(self) -> dict[str, str]:
        """See `engine.tasks.Job`; nothing."""
        return {}

    def setup(self) -> None:
        """See `engine.tasks.Job`; there is nothing to load."""

    def run(self, task: Task, shards: Path, heartbeat: Heartbeat) -> Record:
        """See `engine.tasks.Job`."""
        rejects: list[Rejected] = []
        datasets: dict[str, Counter[str]] = {}
        unread: Unread = {}
        with ShardWriter(shards / f"task-{task.index:06d}-000.arrow", self._schema) as writer:
            for _, item in read_task(self.samples, task, heartbeat, STAGE):
                if isinstance(item, Sample):
                    count_unread(unread, item.dataset, item.unread)
                result = self._probe(item) if isinstance(item, Sample) else item
                counts = datasets.setdefault(item.dataset, Counter(rows_in=0, rows_written=0, rows_rejected=0))
                if isinstance(result, Rejected):
                    rejects.append(result)
                    counts.update(rows_in=1, rows_rejected=1)
                else:
                    row = sample_row(result)
                    writer.write(row, size=len(row["conversation"]) + len(row["media"]) + 128, tokens=0)
                    counts.update(rows_in=1, rows_written=1, **dict.fromkeys(result.notes, 1))
                    counts.update(_media_counts(result))
                    counts["characters"] += characters(result)
            heartbeat(NO_ROW)
            infos = (writer.commit(),) if len(rejects) < len(task.numbers) else ()
        totals: Counter[str] = Counter(rows_in=0, rows_written=0, rows_rejected=0)
        for counts in datasets.values():
            totals.update(counts)
        return Record(
            task=task.index,
            split=task.split,
            shards=infos,
            rejects=tuple(rejects),
            counts=dict(totals),
            facts={"datasets": {name: dict(counts) for name, counts in datasets.items()}, UNREAD: unread},
        )

    def fault_of(self, task: Task, poison: Poison) -> str | None:
        """See `engine.tasks.Job`; rows can be rejected."""
        return None

    @cached_property
    def _schema(self) -> Any:
        return sample_schema(kept=keeps_columns(self.samples))

    @cached_property
    def _rules(self) -> MediaRules:
        return rules_of(self.config, self.samples.data_files)

    def check_start(self, task: Task, shards: Path, heartbeat: Heartbeat, max_reject_rate: float) -> None:
        """Read the first rows and the headers of their media, before the long run starts.

        Raises:
            FirstRowsError: most of them are rejected for one reason.
        """
        items = (item for _, item in read_task(self.samples, task, heartbeat, STAGE))
        check_first_rows((self._probe(item) if isinstance(item, Sample) else item for item in items), max_reject_rate)

    def _probe(self, sample: Sample) -> Sample | Rejected:
        try:
            decode = self.config.check_media != "header"
            with media_of(sample):
                media = tuple(probe(item, decode=decode, rules=self._rules)[0] for item in sample.media)
        except Reject as reject:
            return rejected(sample, STAGE, reject)
        return with_media(sample, media)


def _media_counts(sample: Sample) -> Counter[str]:
    """Count a sample's media and their notes."""
    return Counter({note for media in sample.media for note in media.notes}) + counts_of(sample.media)


def ingest(samples: Samples, config: IngestConfig, options: RunOptions) -> Manifest | None:
    """Write `samples` with probed media into the store `options.out`.

    Examples:
        >>> run = vp.RunOptions(out=folder / "ingested", workers=0, say=told)
        >>> manifest = vp.ingest(samples, vp.IngestConfig(), run)
        >>> manifest.totals["rows_in"], manifest.totals["rows_written"], manifest.totals["rows_rejected"]
        (8, 8, 0)

    Returns:
        The manifest of the finished store; None where only a part of the run was asked for.

    Raises:
        InputError: there are no rows.
        RejectRateError: the store is complete, with too many rejects.
    """
    if not len(samples):
        raise InputError("the source has no rows")
    rules_of(config)
    identity = ingest_identity(samples, config)

    tasks = split_rows(len(samples), rows_per_task(len(samples)))
    job = IngestJob(samples, config)
    stage = Stage(
        name=STAGE,
        identity=identity,
        tasks=tasks,
        job=job,
        describe=partial(_describe, samples, config),
        begin=Assignment(
            task=Task(index=0, start=0, stop=min(_FIRST_ROWS, len(samples))),
            folder=options.out,
            method="check_start",
            arguments=(options.max_reject_rate,),
        ),
        again={"source": samples.origin},
        settings=stored_run(STAGE, {"source": samples.origin.get("path")}, how_read(samples), config),
        numbers=samples.numbers,
    )
    was_complete = (options.out / MANIFEST).is_file() and not options.fresh
    manifest = run_stage(stage, options)
    if manifest is None:
        return None
    if was_complete and (said := said_of_changes(Store(options.out, stage=STAGE))):
        options.say(said)
    for note in (said_of_outside(manifest.totals), *unread_notes(manifest.totals)):
        if note:
            options.say(note)
    check_reject_rate(manifest.totals, options)
    return manifest


def ingest_identity(samples: Samples, config: IngestConfig) -> dict[str, Any]:
    """Return all that the output of `ingest` depends on."""
    return {
        "stage": STAGE,
        "schema": SCHEMA_VERSION,
        "vlm_prep": vlm_prep.__version__,
        "samples": samples.identity(),
        "config": config.to_json(),
    }


def retry_ingest(samples: Samples, reasons: Sequence[str], options: RunOptions) -> Manifest:
    """Do the rows of the store `options.out` again that were rejected for `reasons`, see `engine.retry_rejects`."""
    config = stored_settings(IngestConfig, read_manifest(options.out, stage=STAGE).config, options.out)
    retry = open_retry(options.out, reasons, ingest_identity(samples, config), samples.numbers)

    def amend(manifest: Manifest, records: Sequence[Record], shards: Path, send: Send) -> tuple[Manifest, str]:
        return manifest, _CARD.format(rows=added_totals(manifest.totals, records)["rows_written"])

    return run_retry(retry, options, IngestJob(samples, config), amend)


def _describe(
    samples: Samples,
    config: IngestConfig,
    records: Sequence[Record],
    splits: dict[str, list[ShardInfo]],
) -> tuple[Manifest, str]:
    totals: dict[str, Any] = sum_counts(records, rows=len(samples))
    totals["rejects"] = reject_reasons(records)
    totals["datasets"] = sum_datasets(records)
    if unread := sum_unread(record.facts.get(UNREAD, {}) for record in records):
        totals[UNREAD] = unread
    manifest = Manifest(
        stage=STAGE,
        config=config.to_json(),
        splits=splits,
        totals=totals,
        extra={"datasets": samples.describe()},
    )
    return manifest, _CARD.format(rows=totals["rows_written"])
