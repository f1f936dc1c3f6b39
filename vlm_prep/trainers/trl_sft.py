"""TRL's SFTTrainer renders, tokenizes, masks and packs; all of that is done already, so it is told to skip it."""

from __future__ import annotations

from typing import Any


def is_sft(base: type[Any]) -> bool:
    """Return whether a trainer's class is TRL's SFTTrainer, without importing TRL."""
    return any(each.__name__ == "SFTTrainer" and each.__module__.startswith("trl.") for each in base.__mro__)


def sft_arguments(args: Any) -> dict[str, Any]:
    """Tell an SFTConfig to skip what is done, and return the trainer's further arguments.

    `train_dataset` is of a type that SFTTrainer takes, and is never read: batches come from the store.
    """
    from datasets import Dataset

    args.dataset_kwargs = {**(args.dataset_kwargs or {}), "skip_prepare_dataset": True}
    args.packing = args.padding_free = False  # the store's packs are packs already
    args.max_length = None
    return {"train_dataset": Dataset.from_dict({"input_ids": [[0, 0]], "labels": [[-100, 0]]})}
