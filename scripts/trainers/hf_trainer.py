"""transformers' Trainer over shards: python scripts/trainers/hf_trainer.py out/tok

The Trainer brings its own sampler and would skip to its place by reading batches again; here the order and the place
are the dataset's. The state is saved beside each checkpoint, and `ignore_data_skip` tells the Trainer not to skip.
Needs `pip install accelerate`. TRL's SFTTrainer is this Trainer: see trl_sft.py.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from tiny_model import tiny_model
from torch.utils.data import DataLoader

from vlm_prep.processors.torchvision_cpu import ensure_torchvision
from vlm_prep.stream import PackedCollate, PadCollate, ShardDataset, State

STATE = "vlm_prep_state.json"


def shard_trainer(base: type[Any], dataset: ShardDataset) -> type[Any]:
    """Return `base` (Trainer, SFTTrainer) with its batches read from `dataset`."""

    class ShardTrainer(base):  # type: ignore[misc]
        """Reads and resumes by the dataset's own order."""

        def get_train_dataloader(self) -> Any:
            """Return a loader that accelerate does not shard again: the dataset has this rank's rows only."""
            args = self.args
            return DataLoader(
                dataset,
                batch_size=args.per_device_train_batch_size,
                sampler=dataset.sampler(),
                collate_fn=self.data_collator,
                num_workers=args.dataloader_num_workers,
                pin_memory=args.dataloader_pin_memory,
            )

        def _save_checkpoint(self, model: Any, trial: Any) -> None:
            super()._save_checkpoint(model, trial)
            folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
            rows = self.args.gradient_accumulation_steps * self.args.train_batch_size * self.args.world_size
            place = divmod(self.state.global_step * rows, dataset.n_rows)
            (folder / STATE).write_text(json.dumps(dataset.state_at(*place).to_json()))

    return ShardTrainer


def train(store: str | Path, out: Path, *, steps: int, resume: Path | None = None, packed: bool = False) -> list[float]:
    """Train for some steps, with a checkpoint every two, and return the losses.

    Args:
        store: a tokenized store, or a packed one.
        out: for checkpoints.
        steps: in all, those before `resume` included.
        resume: a checkpoint.
        packed: whether the store is packed.
    """
    ensure_torchvision()  # beside CPU torch, torchvision's wheel does not import by itself
    from transformers import Trainer, TrainingArguments

    dataset = ShardDataset(store, seed=0)
    if resume is not None:
        dataset.resume(State.from_json(json.loads((resume / STATE).read_text())))
    collate: Any = PackedCollate if packed else PadCollate
    arguments = TrainingArguments(
        output_dir=str(out),
        max_steps=steps,
        per_device_train_batch_size=1 if packed else 4,
        learning_rate=1e-3,
        logging_steps=1,
        save_steps=2,
        report_to=[],
        use_cpu=True,
        remove_unused_columns=False,
        ignore_data_skip=True,
        dataloader_pin_memory=False,
        disable_tqdm=True,
    )
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
    parser.add_argument("--resume", type=Path)
    parser.add_argument("--packed", action="store_true")
    found = parser.parse_args()
    for loss in train(found.store, found.out, steps=found.steps, resume=found.resume, packed=found.packed):
        print(f"loss {loss:.6f}")


if __name__ == "__main__":
    main()
