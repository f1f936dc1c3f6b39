"""A doctor for the trainer's side: some batches of each rank, loaded as training loads them, on a tiny model.

    store ─ ranks in processes of their own ─ DataLoader, collater ─▶ tiny model of the family ─▶ findings

What can only be seen across ranks: in sharded training every rank gathers the parameters of the same modules in the
same order, so a step in which one of them runs its vision tower and another does not hangs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing import get_context
from typing import Any

import numpy as np
from torch.utils.data import DataLoader

from vlm_prep.certify.tiny_model import TinyModel
from vlm_prep.core.errors import InputError, StoreError
from vlm_prep.core.own_process import end_with_parent, without_main
from vlm_prep.processors.model_config import config_of
from vlm_prep.stream.dataset import ShardDataset
from vlm_prep.trainers.batch_check import BatchCheck, check_batch
from vlm_prep.trainers.hf_trainer import collater


@dataclass(frozen=True, kw_only=True)
class TrainerOptions:
    """How training would load a store."""

    batches: int = 2
    world_size: int = 1
    batch_size: int = 1
    seed: int = 0
    dummy: bool = False
    """Batches without media get a stand-in."""
    attention: str = "sdpa"
    """What the model runs."""
    model: Mapping[str, Any] | None = None
    """Its config, as JSON; None takes the one that the store knows."""
    trust_remote_code: bool = False
    workers: int = 1


@dataclass(kw_only=True)
class TrainerCheck:
    """What was found."""

    store: str
    world_size: int
    model: str | None
    """transformers' name of it."""
    layout: str
    """The collater, and for packs the form of attention."""
    batches: list[BatchCheck]
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether nothing was found."""
        return not self.faults

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        hidden = ("modules",)
        batches = [{name: value for name, value in vars(each).items() if name not in hidden} for each in self.batches]
        return {**vars(self), "batches": batches, "sound": self.sound}


def check_trainer(store: str, options: TrainerOptions) -> TrainerCheck:
    """Load batches of a store on each rank, and say what a trainer would meet.

    Args:
        store: tokenized or packed.
        options: how it would be loaded.

    Raises:
        StoreError: the store cannot be read, or has no rows.
        InputError: the model is not in transformers, or needs what no form of the store's batches gives.
        ProcessorError: no small model can be made of the config.
    """
    ranks = range(options.world_size)
    if options.world_size == 1:
        found = [_rank(store, 0, options)]
    else:
        with rank_processes(options.world_size) as pool, without_main():
            found = list(pool.map(_rank, [store] * len(ranks), ranks, [options] * len(ranks)))
    check = TrainerCheck(
        store=store,
        world_size=options.world_size,
        model=found[0][1],
        layout=found[0][2],
        batches=[each for batches, _, _ in found for each in batches],
    )
    check.faults += [f"rank {each.rank}, step {each.step}: {line}" for each in check.batches for line in each.faults]
    check.notes += dict.fromkeys(line for each in check.batches for line in each.notes)
    if check.model is None:
        check.notes.append("the model is not known, so none was run (--model FOLDER)")
    check.faults += _across_ranks(check.batches, options)
    if options.world_size > 1 and not options.dummy:
        check.faults += _in_the_epoch(store, options)
    return check


def _in_the_epoch(store: str, options: TrainerOptions) -> list[str]:
    """Steps of the first epoch, those that no rank loaded here too, in which some ranks have media and others none."""
    world, trusted = options.world_size, options.trust_remote_code
    rows = ShardDataset(store, world_size=world, seed=options.seed, trust_remote_code=trusted)
    places = range(len(rows) * world)
    order = np.fromiter(rows.rows_of(rows.epoch, places), np.int64, len(places)).reshape(-1, world)
    starts = np.arange(0, len(order), options.batch_size)
    media = np.logical_or.reduceat(rows.kinds()[order] > 0, starts, axis=0)
    torn = np.flatnonzero(media.any(axis=1) & ~media.all(axis=1)) + 1
    if not len(torn):
        return []
    return [
        f"{len(torn):,} of {len(media):,} steps of the epoch, the first is step {torn[0]:,}: some ranks have media and "
        "others none, which hangs sharded training: pack with lockstep for as many ranks, or use stand-ins (--dummy)"
    ]


def rank_processes(world_size: int) -> ProcessPoolExecutor:
    """Return processes for the ranks, as many as there are cores at most: spawned, for a rank shares nothing with this
    process, as in training."""
    most = min(world_size, os.cpu_count() or 1)
    return ProcessPoolExecutor(most, mp_context=get_context("spawn"), initializer=end_with_parent)


def _rank(store: str, rank: int, options: TrainerOptions) -> tuple[list[BatchCheck], str | None, str]:
    """What one rank gets, the model's name, and how batches are laid out."""
    rows = ShardDataset(
        store,
        rank=rank,
        world_size=options.world_size,
        seed=options.seed,
        trust_remote_code=options.trust_remote_code,
    )
    if not rows.n_rows:
        raise StoreError(f"{store} has no rows", "see what was rejected: `vlm-prep rejects`")
    data = options.model if options.model is not None else rows.manifest.processor.get("model")
    config = config_of(data) if data is not None else None
    if options.model is not None and config is None:
        raise InputError(f"transformers has no model {options.model.get('model_type')}", "its forward cannot be tried")
    packed = "seq_lens" in rows.columns
    told: dict[str, Any] = {"dummy": options.dummy or None}
    if packed:
        told |= {"attention": options.attention, "model": data}
    collate = collater(rows, None, told)
    loader: Any = DataLoader(
        rows,
        batch_size=options.batch_size,
        sampler=list(islice(rows.sampler(), options.batches * options.batch_size)),  # then workers end by themselves
        num_workers=options.workers,
        collate_fn=_WithItems(collate),
    )
    taken: list[tuple[list[dict[str, Any]], dict[str, Any]]] = list(loader)
    model = _model(config, taken)
    batches = [
        check_batch(batch, items, model, rank=rank, step=step, attention=options.attention)
        for step, (items, batch) in enumerate(taken, start=1)
    ]
    layout = type(collate.collate).__name__ + (f", {collate.collate.mask}" if packed else "")  # type: ignore[union-attr]
    return batches, None if config is None else str(config.model_type), layout


class _WithItems:
    """A collater that keeps what can be told of its items."""

    def __init__(self, collate: Any) -> None:
        self.collate = collate

    def __call__(self, items: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        kept = ["n_images", "n_videos", "n_audios"]
        if getattr(self.collate.collate, "document_multiple", 1) == 1:  # else documents lie elsewhere than they say
            kept.append("seq_lens")
        return [{name: item[name] for name in kept if name in item} for item in items], self.collate(items)


def _model(config: Any, taken: list[tuple[Any, dict[str, Any]]]) -> TinyModel | None:
    if config is None:
        return None
    names = ("input_ids", "decoder_input_ids")
    ids = {token for _, batch in taken for name in names if name in batch for token in batch[name].unique().tolist()}
    return TinyModel(config, sorted(ids))


def _across_ranks(batches: list[BatchCheck], options: TrainerOptions) -> list[str]:
    """Steps in which ranks differ in what hangs sharded training."""
    faults = []
    for step in sorted({each.step for each in batches}):
        ranks = [each for each in batches if each.step == step]
        if len(ranks) < options.world_size:
            faults.append(f"step {step}: {len(ranks)} of {options.world_size} ranks have a batch")
        ran = [each for each in ranks if each.loss is not None]
        if len(ran) == len(ranks):
            calls = {tuple(each.modules) for each in ranks}
        else:  # no model was run: what it would call follows from the kinds of media
            calls = {tuple(each.kinds) for each in ranks}
        if len(calls) > 1:
            kinds = ", ".join(f"rank {each.rank} {'+'.join(each.kinds) or 'text'}" for each in ranks)
            way = "" if options.dummy else ": pack with lockstep, or use stand-ins (--dummy)"
            faults.append(f"step {step}: ranks call other modules, which hangs sharded training ({kinds}){way}")
    return faults
