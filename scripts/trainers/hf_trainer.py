"""transformers' Trainer over shards: python scripts/trainers/hf_trainer.py out/tok

The order is the dataset's; the Trainer tells it the epoch, and on resuming skips the batches that it had trained on:
picks of rows, none of which is read. Beside each checkpoint lies the dataset's state, so that a checkpoint is never
resumed on another store or seed. Needs `pip install accelerate`. TRL's SFTTrainer is this Trainer: see trl_sft.py.
"""

from __future__ import annotations

import argparse
import functools
import json
from pathlib import Path
from typing import Any

from tiny_model import tiny_model
from torch.utils.data import BatchSampler, DataLoader

from vlm_prep.processors.torchvision_cpu import ensure_torchvision
from vlm_prep.stream import PackedCollate, PadCollate, ShardDataset, State

STATE = "vlm_prep_state.json"
_AS_IN_MEMORY = {"save_original_format": False}


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


def shard_trainer(base: type[Any], dataset: ShardDataset) -> type[Any]:
    """Return `base` (Trainer, SFTTrainer) with its batches read from `dataset`."""

    class ShardTrainer(base):  # type: ignore[misc]
        """Reads and resumes by the dataset's own order."""

        def get_train_dataloader(self) -> Any:
            """Return a loader that accelerate does not shard again: the dataset has this rank's rows only."""
            args = self.args
            sampler: Any = dataset.sampler()
            batches = EpochBatches(sampler, args.per_device_train_batch_size, drop_last=False)
            return DataLoader(
                dataset,
                batch_sampler=batches,
                collate_fn=self.data_collator,
                num_workers=args.dataloader_num_workers,
                pin_memory=args.dataloader_pin_memory,
            )

        def _save_checkpoint(self, model: Any, trial: Any) -> None:
            # else the weights are saved under the names of the original checkpoint (Qwen2.5-VL: model.layers.0 ...),
            # which the Trainer does not find on resuming: it warns and goes on with the weights that the model was
            # made with (huggingface/transformers issue 43701)
            unwrapped = self.accelerator.unwrap_model(self.model)
            unwrapped.save_pretrained = functools.partial(type(unwrapped).save_pretrained, unwrapped, **_AS_IN_MEMORY)
            super()._save_checkpoint(model, trial)
            args = self.args
            batches = -(-len(dataset) // args.per_device_train_batch_size)
            epoch, steps = divmod(self.state.global_step, -(-batches // args.gradient_accumulation_steps))
            rows = args.gradient_accumulation_steps * args.per_device_train_batch_size * args.world_size
            folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
            (folder / STATE).write_text(json.dumps(dataset.state_at(epoch, steps * rows).to_json()))

    return ShardTrainer


def train(
    store: str | Path, out: Path, *, steps: int, batch: int = 4, resume: Path | None = None, packed: bool = False
) -> list[float]:
    """Train for some steps, with a checkpoint every two, and return the losses, those before `resume` included.

    Args:
        store: a tokenized store, or a packed one.
        out: for checkpoints.
        steps: in all, those before `resume` included.
        batch: rows, on each device.
        resume: a checkpoint.
        packed: whether the store is packed.
    """
    ensure_torchvision()  # beside CPU torch, torchvision's wheel does not import by itself
    from transformers import Trainer, TrainingArguments

    arguments = TrainingArguments(
        output_dir=str(out),
        max_steps=steps,
        per_device_train_batch_size=batch,
        learning_rate=1e-3,
        logging_steps=1,
        save_steps=2,
        report_to=[],
        use_cpu=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        disable_tqdm=True,
    )
    dataset = ShardDataset(store, rank=arguments.process_index, world_size=arguments.world_size, seed=0)
    if resume is not None:
        saved = State.from_json(json.loads((resume / STATE).read_text()))
        saved.check(dataset.fingerprint, dataset.seed)
    collate: Any = PackedCollate if packed else PadCollate
    trainer = shard_trainer(Trainer, dataset)(
        model=tiny_model(),
        args=arguments,
        train_dataset=dataset,
        data_collator=collate.for_store(dataset, shift=False, counts=False),
    )
    trainer.train(resume_from_checkpoint=str(resume) if resume is not None else None)
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", help="a folder, or s3://bucket/prefix")
    parser.add_argument("--out", type=Path, default=Path("out/trainer"))
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--resume", type=Path)
    parser.add_argument("--packed", action="store_true")
    found = parser.parse_args()
    losses = train(
        found.store, found.out, steps=found.steps, batch=found.batch, resume=found.resume, packed=found.packed
    )
    for loss in losses:
        print(f"loss {loss:.6f}")


if __name__ == "__main__":
    main()
