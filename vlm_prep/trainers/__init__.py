"""Trainers of other projects over our stores, each in three lines; docs/trainers.md has their recipes.

    hf_trainer.py  transformers' Trainer, and what is built on it: order, states, batches
    trl_sft.py     what TRL's SFTTrainer is told besides
    automodel.py   NeMo Automodel's collate functions
    axolotl_plugin.py  axolotl's plugin
    torchtitan_loader.py  torchtitan's data loader
    start.py       another trainer's command, beside a CPU build of torch
    ranks.py          `vlm-prep check-trainer`: batches of every rank
    exporting.py       a store as another trainer's files, whole or not there
    export_formats.py  those files, form by form
    batch_check.py    one of them, and what a tiny model does with it

No trainer is imported here: its class comes from the caller, who has it installed. axolotl and torchtitan import their
modules themselves, by a name in the recipe.
"""

from vlm_prep.trainers.automodel import collate_fn, packed_collate_fn
from vlm_prep.trainers.hf_trainer import over_shards

__all__ = ["collate_fn", "over_shards", "packed_collate_fn"]
