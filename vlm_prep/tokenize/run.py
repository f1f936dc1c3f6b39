"""A whole source into a tokenized store: start-up check, tasks, top-up of the proof, manifest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import vlm_prep
from vlm_prep.core.config import TokenizeConfig
from vlm_prep.core.errors import InputError, RejectReason
from vlm_prep.core.fingerprint import digest_json
from vlm_prep.core.types import Encoded
from vlm_prep.engine.local import start_forkserver
from vlm_prep.engine.stage import (
    RunOptions,
    check_reject_rate,
    reject_reasons,
    run_stage,
    sum_counts,
    sum_datasets,
)
from vlm_prep.engine.tasks import Record, rows_per_task, split_rows
from vlm_prep.engine.workspace import Describe
from vlm_prep.ingest.source import Samples
from vlm_prep.shards.layout import read_rejects
from vlm_prep.shards.manifest import Manifest
from vlm_prep.shards.reader import ShardReader
from vlm_prep.shards.schema import SCHEMA_VERSION
from vlm_prep.shards.writer import ShardInfo
from vlm_prep.tokenize.encoder import VIDEO_FRAMES
from vlm_prep.tokenize.job import STAGE, TokenizeJob, row_of
from vlm_prep.tokenize.verify import ROWS_PER_KIND, check_row, media_kind, proof

STARTUP_ROWS = 64
STARTUP_PER_KIND = 2

_CARD = """# Tokenized by vlm-prep

{rows} rows, {tokens} tokens. Open it with `datasets.load_from_disk(FOLDER)` or `load_dataset(FOLDER)`; for training use
`vlm_prep.stream.ShardDataset(FOLDER)`.

- `input_ids`, `labels` (unshifted, -100 where nothing is trained), media geometry under the processor's own names
- `media`: the files, by reference or with their bytes; `conversation`: JSON of messages and tools
- `manifest.json`: settings, accounts, the proof of equality with the processor; `rejects.parquet`: rows not written
"""


def tokenize(
    samples: Samples, processor: str, config: TokenizeConfig, options: RunOptions
) -> Manifest:
    """Tokenize `samples` into the store `options.out`.

    Args:
        samples: see `ingest.source.open_samples`.
        processor: Hugging Face id, folder, or `builtin:<name>`.
        config: settings that shape the output.
        options: how to run.

    Returns:
        The manifest of the finished store.

    Raises:
        InputError: there are no rows.
        ProcessorError: the processor does not load or has no family.
        ExactnessError: a row differs from the real processor's output.
        RejectRateError: the store is complete, with too many rejects.
    """
    start_forkserver(TokenizeJob(samples, processor, config), options.workers)
    job, identity = prepare(samples, processor, config, options)
    runtime = job.encoder.adapter.runtime()

    def ready() -> TokenizeJob:
        startup_check(job)
        return job

    checked: list[Counter[str]] = []

    def top_up(records: Sequence[Record], shards: Path) -> None:
        checked.append(_top_up(job, records, shards))

    def describe(records: Sequence[Record]) -> Describe:
        return lambda splits: _describe(samples, config, runtime, records, splits, checked)

    tasks = split_rows(len(samples), rows_per_task(len(samples)))
    manifest = run_stage(
        STAGE, identity, tasks, options, prepare=ready, describe=describe, check=top_up
    )
    _say_about_overlong_video(manifest, job, options)
    if unreadable := manifest.proof["unreadable"]:
        options.say(
            f"note: {unreadable} compared rows have media that do not decode; training would stop at them and at "
            "others like them: --check-media decode finds and rejects all of them"
        )
    check_reject_rate(manifest.totals, options)
    return manifest


def prepare(
    samples: Samples, processor: str, config: TokenizeConfig, options: RunOptions
) -> tuple[TokenizeJob, dict[str, Any]]:
    """Load the processor and return the job, ready in this process, and the run's identity."""
    if not len(samples):
        raise InputError("the source has no rows")
    job = TokenizeJob(samples, processor, config)
    loaded = job.load()
    job.setup(loaded)
    for note in (*loaded.notes, job.encoder.text.note):
        if note:
            options.say(f"note: {note}")
    identity = {
        "stage": STAGE,
        "schema": SCHEMA_VERSION,
        "vlm_prep": vlm_prep.__version__,
        "samples": samples.identity(),
        "config": config.to_json(),
        "processor": loaded.identity,
    }
    return job, identity


def _say_about_overlong_video(manifest: Manifest, job: TokenizeJob, options: RunOptions) -> None:
    """Say what to do when rows were too long because the processor keeps every frame of a video."""
    video = getattr(job.encoder.adapter.hf, "video_processor", None)
    if video is None or video.do_sample_frames or not manifest.totals["rejects"].get(RejectReason.OVERLONG.value):
        return
    long = sum(
        row["reason"] == RejectReason.OVERLONG.value and VIDEO_FRAMES in row["message"]
        for row in read_rejects(options.out)
    )
    if long:
        options.say(
            f"note: {long} rows with video were too long: {type(video).__name__} samples no frames by itself, so every "
            "frame was kept, as the processor would; --fps 2 takes two a second"
        )


def startup_check(job: TokenizeJob) -> None:
    """Compare the first rows of each kind of media, before the long run starts.

    Raises:
        ExactnessError: a row differs from the real processor's output.
    """
    seen: Counter[str] = Counter()
    for result in job.results(0, min(STARTUP_ROWS, len(job.samples))):
        if isinstance(result, Encoded):
            row = row_of(result)
            kind = media_kind(row["media"])
            if seen[kind] < STARTUP_PER_KIND and job.config.verify_fraction > 0:
                seen.update(check_row(job.oracle, row))


def _top_up(job: TokenizeJob, records: Sequence[Record], shards: Path) -> Counter[str]:
    """Compare more rows of the kinds of which fewer than eight were chosen; return how many."""
    done: Counter[str] = Counter()
    added: Counter[str] = Counter()
    if job.config.verify_fraction <= 0:
        return added
    for record in records:
        done.update(record.facts["checked"])
    for record in records:
        for kind, places in record.facts["spare"].items():
            for shard, index in places:
                if done[kind] >= ROWS_PER_KIND:
                    break
                info = record.shards[shard]
                counts = check_row(job.oracle, ShardReader(shards / info.name, info).row(index))
                done.update(counts)
                added.update(counts)
    return added


def _describe(
    samples: Samples,
    config: TokenizeConfig,
    runtime: dict[str, Any],
    records: Sequence[Record],
    splits: dict[str, list[ShardInfo]],
    added: Sequence[Counter[str]],
) -> tuple[Manifest, str]:
    totals: dict[str, Any] = sum_counts(records, rows=len(samples))
    totals["rejects"] = reject_reasons(records)
    totals["datasets"] = sum_datasets(records)
    kinds: Counter[str] = Counter()
    for record in records:
        kinds.update(record.facts["kinds"])
    totals["kinds"] = dict(sorted(kinds.items()))
    checked = [*(record.facts["checked"] for record in records), *added]
    manifest = Manifest(
        stage=STAGE,
        config=config.to_json(),
        splits=splits,
        totals=totals,
        processor=runtime,
        proof=proof(checked, kinds, runtime, config.verify_fraction),
        extra={"datasets": samples.describe()},
    )
    return manifest, _CARD.format(rows=totals["rows_written"], tokens=totals["tokens"])


def dry_run(samples: Samples, processor: str, config: TokenizeConfig, options: RunOptions) -> dict[str, Any]:
    """Load, check and encode the first rows; write nothing.

    Returns:
        What the run would be: rows, datasets, processor, template facts, and the numbers of the first rows.
    """
    job, identity = prepare(samples, processor, config, options)
    startup_check(job)
    count = min(4 * STARTUP_ROWS, len(samples))
    results = list(job.results(0, count))
    written = [result for result in results if isinstance(result, Encoded)]
    rejects = Counter(result.reason for result in results if not isinstance(result, Encoded))
    tokens = sum(len(encoded.input_ids) for encoded in written)
    return {
        "rows": len(samples),
        "datasets": samples.describe(),
        "fingerprint": digest_json(identity),
        "processor": job.encoder.adapter.loaded.identity,
        "family": job.encoder.adapter.family,
        "level": job.encoder.adapter.level,
        "text_encoder": job.encoder.text.implementation,
        "template": vars(job.encoder.template.facts),
        "first_rows": {
            "rows": count,
            "written": len(written),
            "rejected": dict(rejects),
            "tokens": tokens,
            "mean_tokens": round(tokens / len(written), 1) if written else 0,
        },
        "equal_to_the_processor": config.verify_fraction > 0,
    }
