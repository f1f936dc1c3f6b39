"""transformers' Trainer, and trainers built on it, over a store: batches, order and states are the dataset's.

The Trainer tells the dataset its epoch, and on resuming skips the batches that it had trained on: picks of rows, none
of which is read. Beside each checkpoint lies the dataset's state, so that a checkpoint is never resumed on another
store, seed or size of a step. accelerate does not shard the loader again: the dataset has its rank's rows only.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from torch.utils.data import BatchSampler, DataLoader

from vlm_prep.core.atomic_files import write_bytes_atomically
from vlm_prep.core.errors import InputError
from vlm_prep.stream import PackedCollate, PadCollate, ShardDataset, State
from vlm_prep.trainers.trl_sft import is_sft, sft_arguments

STATE: Final = "vlm_prep_state.json"
_NOT_OF_MODELS: Final = ("seq_lens",)
_AS_IN_MEMORY: Final = {"save_original_format": False}


class EpochBatches(BatchSampler):
    """Batches of picks that are told the epoch by the Trainer, which looks for set_epoch at loader.batch_sampler's own
    batch_sampler: that is this one too where accelerate skips batches of it."""

    sampler: Any

    @property
    def batch_sampler(self) -> BatchSampler:
        """Itself."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Go to an epoch."""
        self.sampler.set_epoch(epoch)


class ForModel:
    """A collater without what is told to trainers and not to models.

    Args:
        collate: for one of the two sorts of stores.
    """

    def __init__(self, collate: PadCollate | PackedCollate) -> None:
        self.collate = collate

    def __call__(self, items: list[dict[str, Any]]) -> dict[str, Any]:
        """Collate items."""
        batch = self.collate(items)
        return {name: value for name, value in batch.items() if name not in _NOT_OF_MODELS}


def over_shards(
    base: type[Any],
    store: str | Path | ShardDataset,
    *,
    model: Any,
    args: Any,
    eval_store: str | Path | ShardDataset | None = None,
    collate: Mapping[str, Any] | None = None,
    **more: Any,
) -> Any:
    """Return a trainer whose batches are those of a store.

    Args:
        base: transformers' Trainer, TRL's SFTTrainer, or a class built on them.
        store: a tokenized or packed store, or the dataset over it, of this rank.
        model: as the trainer takes it.
        args: the trainer's arguments; `remove_unused_columns` and SFTConfig's preparation are switched off in them. The
            order's seed is `data_seed`, or `seed`.
        eval_store: the same to evaluate on, in its own order.
        collate: options of `PadCollate.for_store` or `PackedCollate.for_store`, as `mask`, `dummy=True`.
        more: further arguments of the trainer.

    Raises:
        StoreError: the store cannot be read; on `train`, the checkpoint is of another store or seed.
        InputError: on `train`, the checkpoint was saved with steps of another size.
    """
    args.remove_unused_columns = False
    dataset = _dataset(store, args, shuffle=True)
    sizes = [dataset.count(epoch) for epoch in range(dataset.manifest.config.get("epochs", 1))]
    if len(set(sizes)) > 1:
        raise InputError(
            f"{dataset.path}: its planned epochs have {sizes} packs, and the Trainer takes "
            "all epochs for as long as the first",
            "pack without `sample_weight`, or pack each epoch for itself",
        )
    own = {**more, "data_collator": collater(dataset, model, collate or {})}
    own |= sft_arguments(args) if is_sft(base) else {"train_dataset": dataset}
    trainer = shard_trainer(base, dataset)(model=model, args=args, **own)
    if eval_store is not None:
        # after the trainer's own look at it: TRL takes datasets' type alone
        trainer.eval_dataset = _dataset(eval_store, args, shuffle=False)
    return trainer


def _dataset(store: str | Path | ShardDataset, args: Any, *, shuffle: bool) -> ShardDataset:
    if isinstance(store, ShardDataset):
        return store
    seed = args.data_seed if args.data_seed is not None else args.seed
    return ShardDataset(store, rank=args.process_index, world_size=args.world_size, seed=seed, shuffle=shuffle)


def collater(dataset: ShardDataset, model: Any, options: Mapping[str, Any]) -> ForModel:
    """Return the collater of a store for a model that shifts labels inside and takes no further arguments."""
    known: dict[str, Any] = {"shift": False, "counts": False, **options}
    if "seq_lens" in dataset.columns:
        return ForModel(PackedCollate.for_store(dataset, **{"model": model, **known}))
    return ForModel(PadCollate.for_store(dataset, **known))


def check_state(folder: Path, dataset: ShardDataset, state_at: Callable[[int], State]) -> None:
    """Refuse a checkpoint that is not of this store, seed and size of a step.

    Args:
        folder: of the checkpoint.
        dataset: that goes on.
        state_at: where this run stands after so many steps.

    Raises:
        InputError: it stands elsewhere, or a trainer over no store saved it.
    """
    if not (folder / STATE).exists():
        raise InputError(
            f"{folder} has no {STATE}: it was not saved by a trainer over this store",
            "start from its weights (from_pretrained) instead of resuming",
        )
    saved = State.from_json(json.loads((folder / STATE).read_text()))
    saved.check(dataset.fingerprint, dataset.seed)
    step = json.loads((folder / "trainer_state.json").read_text())["global_step"]
    here = state_at(step)
    if (here.epoch, here.consumed) != (saved.epoch, saved.consumed):
        raise InputError(
            f"{folder} stands at row {saved.consumed} of epoch {saved.epoch}; with this run's ranks, batch size and "
            f"accumulation its step {step} would be row {here.consumed} of epoch {here.epoch}",
            "resume with the same rows to a step (transformers counts steps, not rows)",
        )


def shard_trainer(base: type[Any], dataset: ShardDataset) -> type[Any]:
    """Return `base` (Trainer, SFTTrainer) with its batches read from `dataset`."""

    class ShardTrainer(base):  # type: ignore[misc]
        """Reads and resumes by the dataset's own order."""

        def get_train_dataloader(self) -> Any:
            """Return a loader that accelerate does not shard again."""
            return self._loader(dataset, self.args.per_device_train_batch_size, self.args.dataloader_drop_last)

        def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
            """Return the same over the evaluation's store; anything else is the base class's."""
            found = self.eval_dataset if eval_dataset is None else eval_dataset
            if not isinstance(found, ShardDataset):
                return super().get_eval_dataloader(eval_dataset)
            return self._loader(found, self.args.per_device_eval_batch_size, drop_last=False)

        def _loader(self, rows: ShardDataset, size: int, drop_last: bool) -> Any:
            args, sampler = self.args, rows.sampler()
            told = {"prefetch_factor": args.dataloader_prefetch_factor} if args.dataloader_num_workers else {}
            return DataLoader(
                rows,
                batch_sampler=EpochBatches(sampler, size, drop_last=drop_last),  # type: ignore[arg-type]
                collate_fn=self.data_collator,
                num_workers=args.dataloader_num_workers,
                pin_memory=args.dataloader_pin_memory,
                persistent_workers=args.dataloader_persistent_workers,
                **told,
            )

        def train(self, resume_from_checkpoint: str | bool | None = None, **more: Any) -> Any:
            """Train; a checkpoint is resumed on its own store, seed and size of a step alone."""
            if resume_from_checkpoint:
                self._check_state(resume_from_checkpoint)
            return super().train(resume_from_checkpoint=resume_from_checkpoint, **more)

        def _check_state(self, checkpoint: str | bool) -> None:
            from transformers.trainer_utils import get_last_checkpoint

            found = get_last_checkpoint(self.args.output_dir) if checkpoint is True else checkpoint
            if found is not None:  # else the base class says that there is none
                check_state(Path(str(found)), dataset, self._state_at)

        def _state_at(self, step: int) -> State:
            args = self.args
            whole, part = divmod(len(dataset), args.per_device_train_batch_size)
            batches = whole + (part > 0 and not args.dataloader_drop_last)
            epoch, steps = divmod(step, -(-batches // args.gradient_accumulation_steps))
            rows = args.gradient_accumulation_steps * args.per_device_train_batch_size * args.world_size
            return dataset.state_at(epoch, steps * rows)

        def _save_checkpoint(self, model: Any, trial: Any) -> None:
            # else the weights are saved under the names of the original checkpoint (Qwen2.5-VL: model.layers.0 ...),
            # which the Trainer does not find on resuming: it warns and goes on with the weights that the model was
            # made with (huggingface/transformers issue 43701)
            unwrapped = self.accelerator.unwrap_model(self.model)
            unwrapped.save_pretrained = functools.partial(type(unwrapped).save_pretrained, unwrapped, **_AS_IN_MEMORY)
            super()._save_checkpoint(model, trial)
            folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
            if self.is_world_process_zero():
                state = self._state_at(self.state.global_step)
                write_bytes_atomically(folder / STATE, json.dumps(state.to_json()).encode())

    return ShardTrainer
