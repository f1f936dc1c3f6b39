"""A tokenized store into a packed one."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast, get_args

import vlm_prep
from vlm_prep.core.atomic_files import write_table_atomically
from vlm_prep.core.errors import InputError, RejectReason
from vlm_prep.core.fingerprint import digest_json
from vlm_prep.core.own_process import as_before
from vlm_prep.core.pack_settings import PackConfig
from vlm_prep.core.processor_record import ProcessorRecord
from vlm_prep.core.run_yaml import stored_run
from vlm_prep.core.settings import MediaMode
from vlm_prep.engine.accounts import check_reject_rate, reject_reasons, sum_counts
from vlm_prep.engine.stage import RunOptions, Send, Stage, run_stage
from vlm_prep.engine.tasks import Record, Task
from vlm_prep.pack.choose_rule import Choice, choose_rule
from vlm_prep.pack.pack_job import STAGE, PackJob
from vlm_prep.pack.pack_plan import KINDS_APART, PLAN_SPLIT, Plan, make_plan, plan_table, rank_split
from vlm_prep.pack.pack_source import again, local_source, mixed, named
from vlm_prep.processors.payload.encodings import describe_payload
from vlm_prep.processors.payload.pixels import PixelMaker
from vlm_prep.shards.code_place import from_named_place
from vlm_prep.shards.earlier import earlier_of
from vlm_prep.shards.joined import (
    PickedStore,
    parts_of,
    written_sources,
)
from vlm_prep.shards.layout import PLAN_FILE
from vlm_prep.shards.manifest import Manifest
from vlm_prep.shards.object_store import StorePath
from vlm_prep.shards.reader import Store
from vlm_prep.shards.schema import SCHEMA_VERSION
from vlm_prep.shards.shard_info import ShardInfo
from vlm_prep.shards.shared import card_warning

TOKENS_PER_TASK = 8 << 20
Certify = Callable[[Path, Manifest], dict[str, Any]]
"""Compares packs that lie in a folder, of a manifest that is not written yet, see `certify.store_packs`."""
_CERTIFIER = "vlm_prep.certify.store_packs"
"""Found by its name: it gives packs to collaters and a model, which come later in the flow."""

_CARD = """# Packed by vlm-prep

{shared}{packs} packs of up to {length} tokens for {world} rank(s), fill {fill:.2%}. For training use
`vlm_prep.stream.ShardDataset(FOLDER, rank=..., world_size=...)`.

- a row is a pack: `input_ids`, `labels` (unshifted), `position_ids`, `seq_lens` (documents), media and their geometry
- `plan.parquet`: which documents of the tokenized store are in which pack
{epochs}"""

_EPOCHS = """- epochs of {packs} packs, one after the other, each with all rows: `ShardDataset` reads one at a time
"""

_TAR_CARD = """# Packed by vlm-prep, for webdataset

{packs} packs of up to {length} tokens for {world} rank(s), fill {fill:.2%}.

- a row is a pack: `input_ids.npy`, `labels.npy` (unshifted), `position_ids.npy`, `seq_lens.npy` (documents),
  `..._grid_thw.npy` (flat: reshape(-1, 3)), `json` (pack_id, sample_ids, media: JSON text)
- media files are `media.bin`, joined; offset and size of each are in `media`. With --tar-media separate they are
  `media.0.jpg`, ...
- `plan.parquet`: which documents of the tokenized store are in which pack
{epochs}"""


def raised_payload(
    store: Store, config: PackConfig, trust_remote_code: bool
) -> tuple[MediaMode | None, dict[str, Any] | None]:
    """Return the payload that media are to be raised to, None if they stay, and how they become tensors.

    Raises:
        InputError: the store has a higher one, or the packs are an index, which holds no media.
    """
    if config.media is None or config.media == store.manifest.config["media"]:
        return None, None
    order = get_args(MediaMode)
    had = store.manifest.config["media"]
    if order.index(config.media) < order.index(had):
        raise InputError(
            f"`media={config.media}`: {store.folder} holds its media as {had}, and a payload can only be raised",
            f"leave `media` out, or tokenize with `media={config.media}`",
        )
    if config.layout == "index":
        raise InputError(
            "`media` with `layout=index`: an index holds no media", f"tokenize with `media={config.media}`"
        )
    if config.media != "pixels":
        return config.media, None
    runtime = store.manifest.processor
    maker = PixelMaker(runtime, trust_remote_code=trust_remote_code)
    return config.media, describe_payload(maker, list(runtime["parts"]), config.audio)


@as_before()
def pack(
    source: str | StorePath | Sequence[str | StorePath],
    config: PackConfig,
    options: RunOptions,
    *,
    trust_remote_code: bool = False,
    processor: str | None = None,
) -> Manifest | None:
    """Pack the tokenized store `source`, or several that were made alike, into `options.out`.

    Examples:
        >>> run = vp.RunOptions(out=folder / "packed", workers=0, say=told)
        >>> manifest = vp.pack(folder / "tok", vp.PackConfig(pack_length=1024, world_size=2), run)
        >>> manifest.totals["packs_by_rank"]
        [2, 2]

    A source on an object store is fetched into its cache once, whole, since a pack's documents come from all over it.

    Args:
        source: a tokenized store, or several of one processor and the same settings.
        config: settings that shape the output.
        options: how to run.
        trust_remote_code: run the Python code of a processor that comes with some, to make its tensors.
        processor: the place of that processor; needed if the store was not made here by this user.

    Returns:
        The manifest of the packed store; None where only a part of the run was asked for.

    Raises:
        StoreError: the source is unfinished or no tokenized store, or its model cannot be given packs.
        InputError: no document fits a pack, or the source does not fit its cache.
        RejectRateError: the store is complete, with too many rejects.
    """
    _must_go_together(config)
    store = local_source(source)
    _take_processor(store, processor, trust_remote_code=trust_remote_code)
    choice = choose_rule(store, config, trust_remote_code=trust_remote_code)
    for note in choice.notes:
        options.say(note)
    certify = _certifier(choice, trust_remote_code=trust_remote_code) if config.certify else None
    plan = make_plan(store, config, choice.backbone, choice.model)
    if not plan.n_packs:
        raise InputError(f"{store.folder}: no document fits `pack_length={config.pack_length}`")
    job = _job(store, plan, choice, config, trust_remote_code=trust_remote_code, processor=processor)
    about = choice.about | ({"payload": job.payload} if job.payload is not None else {})

    def write_plan(records: Sequence[Record], shards: Path, send: Send) -> None:
        write_table_atomically(options.out / PLAN_FILE, plan_table(plan))

    stage = Stage(
        name=STAGE,
        identity=pack_identity(store, config) | choice.identity,
        tasks=pack_tasks(plan, config),
        again=again(store, processor),
        job=job,
        describe=partial(_describe, store, plan, config, options.out, about, certify),
        check=write_plan if config.layout == "ranks" else None,
        earlier=earlier_of(parts_of(store)),
        settings=stored_run(STAGE, named(store, options.out), config),
    )
    manifest = run_stage(stage, options)
    if manifest is not None:
        check_reject_rate(manifest.totals, options)
    return manifest


def _must_go_together(config: PackConfig) -> None:
    if config.format == "webdataset" and config.certify:
        raise InputError("`certify` with `format=webdataset`: collaters read Arrow shards", "leave one out")
    if config.format == "webdataset" and config.layout == "index":
        raise InputError("`format=webdataset` with `layout=index`: a plan over Arrow shards is no tar", "leave one out")
    if config.format == "webdataset" and config.compress != "none":
        raise InputError("`compress` with `format=webdataset`: tars are not compressed", "leave one out")


def _job(
    store: Store, plan: Plan, choice: Choice, config: PackConfig, *, trust_remote_code: bool, processor: str | None
) -> PackJob:
    """Return the job of a run, ready in this process."""
    media, payload = raised_payload(store, config, trust_remote_code)
    job = PackJob(
        tuple(part.folder for part in parts_of(store)),
        plan,
        choice.rule,
        write_plan=config.layout == "index",
        format=config.format,
        tar_media=config.tar_media,
        share_media=config.share_media,
        compress=config.compress,
        media=media,
        payload=payload,
        trust_remote_code=trust_remote_code,
        processor=processor,
    )
    job.setup()
    return job


def _take_processor(store: Store, processor: str | None, *, trust_remote_code: bool) -> None:
    """Have a store's records name the place of the processor's code that may run."""
    for part in parts_of(store):
        record = from_named_place(part.folder, part.manifest.processor, processor, trust_remote_code=trust_remote_code)
        part.manifest = replace(part.manifest, processor=record)
    store.manifest = replace(store.manifest, processor=parts_of(store)[0].manifest.processor)


def _certifier(choice: Choice, *, trust_remote_code: bool) -> Certify:
    found = importlib.import_module(_CERTIFIER)
    return cast(Certify, found.certifier(choice.model, trust_remote_code=trust_remote_code))


def pack_identity(store: Store, config: PackConfig) -> dict[str, Any]:
    """Return all that the output of `pack` depends on."""
    return {
        "stage": STAGE,
        "schema": SCHEMA_VERSION,
        "vlm_prep": vlm_prep.__version__,
        "source": store.manifest.fingerprint,
        # by content too: media may have changed between two runs of the same fingerprint
        "shards": digest_json([info.xxh3 for _, info in store.manifest.shards()]),
        # the model's config is there by content
        "config": {name: value for name, value in config.to_json().items() if name != "model"},
    }


def pack_tasks(plan: Plan, config: PackConfig) -> list[Task]:
    """Return the plan's own task and, for ranks, tasks of about 8 million tokens (about 160 MB without media)."""
    tasks = [Task(index=0, start=0, stop=0, split=PLAN_SPLIT)]
    if config.layout == "index":
        return tasks
    step = max(1, TOKENS_PER_TASK // config.pack_length)
    for rank in range(config.world_size):
        count, split = len(plan.packs_of(rank)), rank_split(rank)
        for start in range(0, count, step):
            tasks.append(Task(index=len(tasks), start=start, stop=min(start + step, count), split=split))
    return tasks


def _describe(
    store: Store,
    plan: Plan,
    config: PackConfig,
    out: Path,
    about: dict[str, Any],
    certify: Certify | None,
    records: Sequence[Record],
    splits: dict[str, list[ShardInfo]],
) -> tuple[Manifest, str]:
    totals: dict[str, Any] = sum_counts(records, rows=plan.documents)
    totals["rejects"] = reject_reasons(records)
    totals["fill"] = round(plan.fill, 6)
    totals["packs_by_rank"] = [len(plan.packs_of(rank)) for rank in range(plan.world_size)]
    source = store.manifest
    runtime = cast(ProcessorRecord, {**source.processor, **about})
    if compared := totals.get("pixels_compared"):
        proof = {**source.proof, "raised_at_pack": {"compared": "pixels", "documents": compared, "different": 0}}
    else:
        proof = source.proof
    manifest = Manifest(
        stage=STAGE,
        config=config.to_json(),
        splits=splits,
        totals=totals,
        processor=runtime,
        proof=proof,
        extra={
            "layout": config.layout,
            "plan": plan.numbers,
            "format": config.format,
            **written_sources(store, out),
            **mixed(store, out),
            "source_fingerprint": (store.base if isinstance(store, PickedStore) else store).manifest.fingerprint,
        },
    )
    if certify is not None:  # the packs lie in their place by now
        manifest.extra["certificate"] = certify(out, manifest)
    text = _TAR_CARD if config.format == "webdataset" else _CARD
    card = text.format(
        packs=plan.n_packs,
        length=plan.pack_length,
        world=plan.world_size,
        fill=plan.fill,
        shared=card_warning(totals),
        epochs=_EPOCHS.format(packs=plan.numbers["epochs"]["packs"]) if config.epochs > 1 else "",
    )
    return manifest, card


def dry_run(source: str | StorePath | Sequence[str | StorePath], config: PackConfig) -> dict[str, Any]:
    """Plan the packs and return their numbers; write nothing."""
    store = local_source(source)
    choice = choose_rule(store, config)
    plan = make_plan(store, config, choice.backbone, choice.model)
    apart = plan.too_long_in.count(KINDS_APART)
    rejected = {RejectReason.LONGER_THAN_PACK: len(plan.too_long) - apart}
    if apart:
        rejected[RejectReason.UNSUPPORTED_MEDIA] = apart
    return {
        "documents": len(store),
        "packs": plan.n_packs,
        "packs_by_rank": [len(plan.packs_of(rank)) for rank in range(plan.world_size)],
        "tokens": plan.tokens,
        "fill": round(plan.fill, 6),
        **plan.numbers,
        "rejected": {reason.value: count for reason, count in rejected.items()},
    }
