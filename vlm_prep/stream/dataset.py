"""ShardDataset: a map-style torch dataset over a finished store.

With torch's DataLoader:

    dataset = ShardDataset("out/packed", rank=rank, world_size=world_size, seed=0)
    loader = DataLoader(dataset, batch_size=4, num_workers=4, collate_fn=PackedCollate.for_store(dataset))
    for epoch in range(epochs):
        dataset.set_epoch(epoch)
        for step, batch in enumerate(loader):
            ...
            state = dataset.state(consumed=(step + 1) * 4 * world_size)   # save state.to_json() with the checkpoint

    dataset.resume(State.from_json(saved))   # any world size, any number of workers; the next epoch() iterates the rest

With torchdata's StatefulDataLoader the loader's own state_dict() and load_state_dict() resume exactly as well (for the same
number of workers, a rule of that class). Do not shuffle in the loader: the order is the dataset's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from vlm_prep.core.errors import Reject, StoreError
from vlm_prep.processors.pixels import PixelMaker
from vlm_prep.stream.order import Order, Remainder, epoch_order, positions_in_epoch
from vlm_prep.stream.rows import Rows, open_rows
from vlm_prep.stream.state import State

Item = dict[str, Any]
_WIDE = ("input_ids", "labels", "position_ids", "image_grid_thw", "video_grid_thw", "seq_lens")
_GRIDS = ("image_grid_thw", "video_grid_thw")


class ShardDataset(Dataset[Item]):
    """Rows of a tokenized store, or packs of a packed one, of one rank, in the order of (seed, epoch).

    An item holds torch tensors: input_ids and labels int64 (length,), labels unshifted; for packs position_ids int64 (3,
    length) or (length,) and seq_lens int64 (documents,); for media the processor's tensors under its names, int64 grids
    (n, 3), float32 pixel_values (patches, dim), ...; and sample_id (or sample_ids), n_images, n_videos.

    Args:
        path: a finished store.
        rank: of this process.
        world_size: ranks that share the store; any number, not only the one that packs were planned for.
        seed: of the order.
        shuffle: False reads in the store's order.
        epoch: to start with.
        pixels: make pixel tensors; False leaves them out, for models without a vision tower or for counting.
        remainder: what happens when the rows do not divide by world_size, see `order.positions_in_epoch`.
        verify: compare all shards' checksums first.

    Raises:
        StoreError: the store is unfinished, damaged or cannot be streamed.
        ValueError: rank and world_size do not go together.
    """

    def __init__(
        self,
        path: str | Path,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
        *,
        shuffle: bool = True,
        epoch: int = 0,
        pixels: bool = True,
        remainder: Remainder = "pad",
        verify: bool = False,
    ) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} of world size {world_size}")
        self.path = Path(path)
        self.rank, self.world_size, self.seed = rank, world_size, seed
        self._shuffle, self._remainder = shuffle, remainder
        self._rows: Rows = open_rows(self.path, verify=verify)
        self._pixels = PixelMaker(self._rows.manifest.processor) if pixels else None
        self.set_epoch(epoch)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_rows"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._rows = open_rows(self.path, verify=False)  # memory maps are opened again in each process

    @property
    def manifest(self) -> Any:
        """The store's manifest."""
        return self._rows.manifest

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of an epoch; call it before the loader's workers start."""
        self.epoch = epoch
        self._start = 0
        self._order: Order = epoch_order(
            len(self._rows), self.seed, epoch, shuffle=self._shuffle, group=self._rows.group
        )

    def __len__(self) -> int:
        """Items of this rank that are left in the epoch."""
        total = positions_in_epoch(len(self._order), self.world_size, self._remainder)
        return max(0, total - self._start) // self.world_size

    def position(self, index: int) -> int:
        """Return the position in the epoch of item `index` of this rank."""
        return self._start + index * self.world_size + self.rank

    def row_number(self, index: int) -> int:
        """Return the store row of item `index` of this rank."""
        if not 0 <= index < len(self):
            raise IndexError(f"item {index} of {len(self)}")
        return int(self._order[self.position(index) % len(self._order)])

    def __getitem__(self, index: int) -> Item:
        number = self.row_number(index)
        row = self._rows.row(number)
        try:
            return self._item(row)
        except (Reject, StoreError, ValueError) as error:
            names = row.get("sample_id") or ", ".join(row["sample_ids"])
            raise StoreError(f"{self._rows.where(number)} ({names}): {error}") from error

    def _item(self, row: dict[str, Any]) -> Item:
        item: Item = {}
        for name, value in row.items():
            if name in _WIDE:
                item[name] = torch.from_numpy(value.astype(np.int64))
            elif name == "second_per_grid_ts":
                item[name] = torch.from_numpy(np.array(value))
            elif name in ("sample_id", "sample_ids"):
                item[name] = value
        item["n_images"] = len(item.get("image_grid_thw", ()))
        item["n_videos"] = len(item.get("video_grid_thw", ()))
        if self._pixels is not None and row["media"]:
            made = self._pixels.pixels(row["media"])
            for name in _GRIDS:
                if name in made and not torch.equal(made[name], item[name]):
                    raise StoreError(f"{name} is {made[name].tolist()}, the store says {item[name].tolist()}")
            item.update({name: tensor for name, tensor in made.items() if name not in _GRIDS})
        return item

    def state(self, consumed: int) -> State:
        """Return where the run stands.

        Args:
            consumed: rows that all ranks together took since the dataset's start or `resume`, e.g. batches x batch size
                x world size.
        """
        return State(
            fingerprint=self._rows.manifest.fingerprint,
            seed=self.seed,
            epoch=self.epoch,
            consumed=self._start + consumed,
        )

    def resume(self, state: State) -> None:
        """Go where `state` says: the items left of its epoch come first, 0 being the next one.

        Raises:
            StoreError: the state is of another store or seed.
        """
        state.check(self._rows.manifest.fingerprint, self.seed)
        self.set_epoch(state.epoch)
        self._start = state.consumed
