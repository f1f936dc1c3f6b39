"""ShardDataset: a map-style torch dataset over a finished store.

With torch's DataLoader the loop says what it has trained on, since workers are some batches ahead of it:

    dataset = ShardDataset("out/packed", rank=rank, world_size=world_size, seed=0)
    loader = DataLoader(dataset, batch_size=4, sampler=dataset.sampler(), num_workers=4, collate_fn=...)
    if saved:
        dataset.resume(State.from_json(saved))   # any world size, any number of workers
    for epoch in range(dataset.epoch, epochs):
        dataset.set_epoch(epoch)                 # keeps the position of a resumed epoch
        for step, batch in enumerate(loader, start=1):
            ...
            state = dataset.state(consumed=step * 4 * world_size)   # save state.to_json() with the checkpoint

With torchdata's StatefulDataLoader and the same sampler, the loader's own state_dict() and load_state_dict() are
exact, for any world size and the same number of workers; for another number give `State.from_loader(saved)` to
`resume`. All ranks save the same position. Do not shuffle in the loader: the order is the dataset's.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import Dataset

from vlm_prep.core.errors import Reject, StoreError
from vlm_prep.processors.pixels import PixelMaker
from vlm_prep.stream.order import Order, Remainder, epoch_order, steps_left
from vlm_prep.stream.rows import Rows, open_rows
from vlm_prep.stream.sampler import Cursor, Pick, ShardSampler
from vlm_prep.stream.state import State

Item = dict[str, Any]
_WIDE = ("input_ids", "labels", "position_ids", "seq_lens")
_FAULTS = (Reject, StoreError, pa.ArrowException, ValueError, KeyError, IndexError, TypeError, OSError, RuntimeError)
"""What reading, decoding and the image processors raise; not MemoryError, which is no fault of the row."""


class ShardDataset(Dataset[Item]):
    """Rows of a tokenized store, or packs of a packed one, of one rank, in the order of (seed, epoch).

    An item holds torch tensors: input_ids and labels int64 (length,), labels unshifted; for packs position_ids
    int64 (3, length) or (length,), float32 for Qwen3-Omni, and seq_lens int64 (documents,); for media the processor's
    tensors under its names, int64 grids (n, 3), float32 pixel_values (patches, dim), ...; and sample_id (or
    sample_ids), n_images, n_videos.

    Args:
        path: a finished store.
        rank: of this process.
        world_size: ranks that share the store; any number, not only the one that packs were planned for.
        seed: of the order.
        shuffle: False reads in the store's order.
        epoch: to start with.
        pixels: make pixel tensors; False leaves them out, for models without a vision tower or for counting.
        remainder: what happens when the rows do not divide by world_size, see `order.steps_left`.
        verify: compare all shards' checksums first.
        max_rows: only the first rows of the store.

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
        max_rows: int | None = None,
    ) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} of world size {world_size}")
        # absolute: trainers change the working folder, and workers open the store again
        self.path = Path(os.path.abspath(path))
        self.rank, self.world_size, self.seed = rank, world_size, seed
        self._shuffle, self._remainder = shuffle, remainder
        self._rows: Rows = open_rows(self.path, verify=verify)
        self.n_rows = len(self._rows) if max_rows is None else min(max_rows, len(self._rows))
        self._max_rows = max_rows
        self._pixels = PixelMaker(self._rows.manifest.processor) if pixels else None
        self._order: tuple[int, Order] | None = None
        self.cursor = Cursor(epoch)

    def __getstate__(self) -> dict[str, Any]:
        # memory maps are opened again in each process, and workers that are given Picks need no order
        kept = {name: value for name, value in vars(self).items() if name not in ("_rows", "_order")}
        return {**kept, "_opened_fingerprint": self.manifest.fingerprint}

    def __setstate__(self, state: dict[str, Any]) -> None:
        fingerprint = state.pop("_opened_fingerprint")
        self.__dict__.update(state)
        self._order = None
        self._rows = open_rows(self.path, verify=False)
        if self.manifest.fingerprint != fingerprint:
            raise StoreError(f"{self.path} was replaced while it was in use", "start the run again")

    @property
    def manifest(self) -> Any:
        """The store's manifest."""
        return self._rows.manifest

    @property
    def fingerprint(self) -> str:
        """The store's fingerprint and what else decides a position's row; what a State is checked against."""
        marks = [] if self._shuffle else ["in order"]
        if self._max_rows is not None:
            marks.append(f"first {self._max_rows}")
        return " ".join([self.manifest.fingerprint, *marks])

    @property
    def epoch(self) -> int:
        """The current epoch."""
        return self.cursor.epoch

    def set_epoch(self, epoch: int) -> None:
        """Go to an epoch: to its start, or, if it is the epoch of a resumed state, to that state's position."""
        self.cursor.set_epoch(epoch)

    def sampler(self) -> ShardSampler:
        """Return the sampler for a loader; it carries the position of the run."""
        return ShardSampler(self)

    def __len__(self) -> int:
        """Items of this rank that are left in the epoch."""
        return steps_left(self.n_rows, self.cursor.start, self.world_size, self._remainder)

    def position(self, index: int) -> int:
        """Return the position in the epoch of item `index` of this rank."""
        return self.cursor.start + index * self.world_size + self.rank

    def row_at(self, epoch: int, position: int) -> int:
        """Return the store row at a position of an epoch; past the last row the order begins again."""
        if self._order is None or self._order[0] != epoch:
            order = epoch_order(self.n_rows, self.seed, epoch, shuffle=self._shuffle, group=self._rows.group)
            self._order = (epoch, order)
        return int(self._order[1][position % self.n_rows])

    def row_number(self, index: int) -> int:
        """Return the store row of item `index` of this rank."""
        if not 0 <= index < len(self):
            raise IndexError(f"item {index} of {len(self)}")
        return self.row_at(self.epoch, self.position(index))

    def __getitem__(self, index: int | Pick) -> Item:
        number = index.row if isinstance(index, Pick) else self.row_number(index)
        row: dict[str, Any] = {}
        try:
            row = self._rows.row(number)
            return self._item(row)
        except _FAULTS as error:
            message = error.message if isinstance(error, Reject | StoreError) else f"{type(error).__name__}: {error}"
            hint = error.hint if isinstance(error, StoreError) else None
            raise StoreError(f"{self._rows.where(number)}{_names(row)}: {message}", hint) from error

    def _item(self, row: dict[str, Any]) -> Item:
        item: Item = {}
        stored = {tensor["name"]: tensor["dtype"] for tensor in self.manifest.processor["tensors"]}
        for name, value in row.items():
            if name in _WIDE:
                # float32 are the positions of Qwen3-Omni
                item[name] = torch.from_numpy(value.astype(np.float32 if value.dtype == np.float32 else np.int64))
            elif name in stored:
                item[name] = torch.from_numpy(value.astype(stored[name]))
            elif name in ("sample_id", "sample_ids"):
                item[name] = value
        kinds = [struct["kind"] for struct in row["media"]]
        item["n_images"], item["n_videos"] = kinds.count("image"), kinds.count("video")
        if self._pixels is not None and kinds:
            made = self._pixels.pixels(row["media"], row.get("media_counts"))
            for name in stored:
                if name in made and not torch.equal(made[name], item[name]):
                    raise StoreError(f"{name} is {made[name].tolist()}, the store says {item[name].tolist()}")
            item.update({name: tensor for name, tensor in made.items() if name not in stored})
        return item

    def state(self, consumed: int) -> State:
        """Return where the run stands.

        Args:
            consumed: rows that all ranks together took since this iteration of the epoch began (at its start, or
                where `resume` put it): batches x batch size x world size.
        """
        return self.state_at(self.epoch, self.cursor.start + consumed)

    def state_at(self, epoch: int, consumed: int) -> State:
        """Return the state after `consumed` rows (of all ranks, from its start) of an epoch."""
        return State(fingerprint=self.fingerprint, seed=self.seed, epoch=epoch, consumed=consumed)

    def resume(self, state: State) -> None:
        """Go where `state` says: the items left of its epoch come first, 0 being the next one.

        Raises:
            StoreError: the state is of another store or seed.
        """
        state.check(self.fingerprint, self.seed)
        self.cursor.move(state.epoch, state.consumed)
        self.cursor.finished = len(self) == 0


def _names(row: dict[str, Any]) -> str:
    """Name the samples of a row, as far as it was read."""
    names = [row["sample_id"]] if "sample_id" in row else row.get("sample_ids", [])
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return f" ({', '.join(names[:8])}{more})" if names else ""
