"""TRL's SFTTrainer over shards: python scripts/trainers/trl_sft.py out/tok, or out/packed

Needs `pip install trl`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tiny_model import tiny_model

from vlm_prep.processors.load import load_processor
from vlm_prep.processors.torchvision_cpu import ensure_torchvision
from vlm_prep.trainers import over_shards


def train(store: Path, out: Path, *, steps: int, processor: str) -> list[float]:
    """Train for some steps and return the losses.

    Args:
        store: a tokenized store, or a packed one.
        out: for checkpoints.
        steps: optimizer steps.
        processor: SFTTrainer saves it with the model.
    """
    ensure_torchvision()
    from trl import SFTConfig, SFTTrainer

    arguments = SFTConfig(
        output_dir=str(out),
        max_steps=steps,
        per_device_train_batch_size=4,
        learning_rate=1e-3,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        dataloader_pin_memory=False,
        disable_tqdm=True,
    )
    processing = load_processor(processor).hf
    trainer = over_shards(SFTTrainer, store, model=tiny_model(), args=arguments, processing_class=processing)
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--out", type=Path, default=Path("out/sft"))
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--processor", default="builtin:qwen2.5-vl-mini")
    found = parser.parse_args()
    for loss in train(found.store, found.out, steps=found.steps, processor=found.processor):
        print(f"loss {loss:.6f}")


if __name__ == "__main__":
    main()
