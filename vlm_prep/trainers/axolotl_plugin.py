"""An axolotl plugin that trains on a store: rows, order, states and batches are ours, all else is axolotl's.

    plugins:
      - vlm_prep.trainers.axolotl_plugin.StorePlugin
    datasets:
      - path: out/packed        # a tokenized or a packed store
        type: vlm-prep
    test_datasets:              # optional, another one
      - path: out/eval
        type: vlm-prep
    vlm_prep_collate:           # optional, of PackedCollate.for_store or PadCollate.for_store
      mask: varlen

axolotl imports this module, which no other of ours does: it is the only one that imports axolotl.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Final

from axolotl.common.datasets import TrainDatasetMeta
from axolotl.core.trainers import AxolotlTrainer
from axolotl.integrations.base import BasePlugin
from pydantic import BaseModel

from vlm_prep.core.errors import InputError
from vlm_prep.stream import ShardDataset
from vlm_prep.trainers.hf_trainer import ForModel, collater, shard_trainer

TYPE: Final = "vlm-prep"
_OURS: Final = ("sample_packing", "eval_sample_packing", "curriculum_sampling", "streaming", "rl")
"""What axolotl would do to the rows or to their order, which are settled here."""


class StoreArgs(BaseModel):
    """What this plugin adds to axolotl's configuration."""

    vlm_prep_collate: dict[str, Any] | None = None


class StorePlugin(BasePlugin):  # type: ignore[misc]  # axolotl has no types
    """Gives axolotl the rows, the collater and the trainer class of a store."""

    def __init__(self) -> None:
        super().__init__()
        self._rows: ShardDataset | None = None
        self._eval: ShardDataset | None = None

    def get_input_args(self) -> str:
        """Return the name of the settings' class."""
        return f"{StoreArgs.__module__}.{StoreArgs.__qualname__}"

    def load_datasets(self, cfg: Any, preprocess: bool = False) -> TrainDatasetMeta:
        """Open the stores.

        Args:
            cfg: axolotl's configuration.
            preprocess: whether it is asked by `axolotl preprocess`, which has nothing to do.

        Raises:
            InputError: something but one store is named, or the configuration asks for what a store has settled.
            StoreError: a store cannot be read.
        """
        asked = [name for name in _OURS if cfg.get(name)]
        if asked:
            raise InputError(
                f"the rows and packs of a store are settled, and {', '.join(asked)} of the axolotl configuration would "
                "change them",
                "leave it out; `vlm-prep pack` makes packs",
            )
        self._rows = _store(cfg, cfg.datasets, "datasets", shuffle=True)
        self._eval = _store(cfg, cfg.test_datasets, "test_datasets", shuffle=False) if cfg.test_datasets else None
        # the trainer counts its own steps by the loader's length
        return TrainDatasetMeta(train_dataset=self._rows, eval_dataset=self._eval, total_num_steps=None)

    def get_training_args(self, cfg: Any) -> dict[str, Any]:
        """Return arguments of the Trainer: it must not drop the columns that it does not know."""
        return {"remove_unused_columns": False}

    def get_trainer_cls(self, cfg: Any) -> type[Any]:
        """Return axolotl's trainer, reading by the store's own order."""
        return shard_trainer(AxolotlTrainer, self._opened())

    def get_collator_cls_and_kwargs(self, cfg: Any, is_eval: bool = False) -> tuple[Any, dict[str, Any]]:
        """Return what makes the collater of the store."""
        rows = self._eval if is_eval and self._eval is not None else self._opened()
        return _Collater(rows, dict(cfg.get("vlm_prep_collate") or {})), {}

    def _opened(self) -> ShardDataset:
        if self._rows is None:
            raise InputError("axolotl asked for a trainer before it asked for data", "report it with axolotl's version")
        return self._rows


class _Collater:
    """Called with axolotl's arguments for a collater, of which it takes the model alone."""

    def __init__(self, rows: ShardDataset, options: Mapping[str, Any]) -> None:
        self.rows, self.options = rows, options

    def __call__(self, *_tokenizer: Any, model: Any = None, **_theirs: Any) -> ForModel:
        return collater(self.rows, model, self.options)


def _store(cfg: Any, named: Sequence[Mapping[str, Any]] | None, key: str, *, shuffle: bool) -> ShardDataset:
    entries = list(named or ())
    if len(entries) != 1 or entries[0].get("type") != TYPE:
        raise InputError(
            f"{key} of the axolotl configuration must name one store: path: FOLDER, type: {TYPE}",
            "several stores are mixed by a mix file, which stands as the path",
        )
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    return ShardDataset(entries[0]["path"], rank=rank, world_size=world_size, seed=cfg.seed or 0, shuffle=shuffle)
