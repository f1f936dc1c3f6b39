"""transformers' Trainer over shards: python scripts/trainers/hf_trainer.py out/tok, or out/packed

Needs `pip install accelerate`. TRL's SFTTrainer is this Trainer: see trl_sft.py.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tiny_model import tiny_model

from vlm_prep.processors.torchvision_cpu import ensure_torchvision
from vlm_prep.trainers import over_shards


def train(store: str | Path, out: Path, *, steps: int, batch: int = 4, resume: Path | None = None) -> list[float]:
    """Train for some steps, with a checkpoint every two, and return the losses, those before `resume` included.

    Args:
        store: a tokenized store, or a packed one.
        out: for checkpoints.
        steps: in all, those before `resume` included.
        batch: rows, on each device.
        resume: a checkpoint.
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
        dataloader_pin_memory=False,
        disable_tqdm=True,
    )
    trainer = over_shards(Trainer, store, model=tiny_model(), args=arguments)
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
    found = parser.parse_args()
    for loss in train(found.store, found.out, steps=found.steps, batch=found.batch, resume=found.resume):
        print(f"loss {loss:.6f}")


if __name__ == "__main__":
    main()
