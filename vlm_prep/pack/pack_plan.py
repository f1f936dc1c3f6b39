"""The plan of a packed store: which documents share a pack, and which rank gets which pack.

Lengths are exact, so bins are best-fit-decreasing over the whole store. Packs are then ordered by their visual
tokens and dealt to ranks in turn: the packs of one step (one for each rank) cost about the same and have the same
kinds of media, so no rank waits for another. The plan depends on the store and the settings alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vlm_prep.pack.bins import Bins, best_fit_decreasing
from vlm_prep.shards.reader import Store

Rows = NDArray[np.int64]
_GRIDS = ("image_grid_thw", "video_grid_thw")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Packs in their final order: pack p belongs to rank p % world_size, step p // world_size."""

    rows: Rows
    """Document rows of the store, concatenated pack after pack."""
    offsets: Rows
    """(n_packs + 1,) where each pack begins in `rows`."""
    world_size: int
    pack_length: int
    tokens: int
    """Tokens in all packs."""
    too_long: Rows
    """Documents longer than a pack; they are rejected."""

    @property
    def n_packs(self) -> int:
        """Number of packs."""
        return len(self.offsets) - 1

    @property
    def fill(self) -> float:
        """Share of the packs' room that is used."""
        return self.tokens / (self.n_packs * self.pack_length) if self.n_packs else 0.0

    def pack(self, number: int) -> Rows:
        """Return the documents of pack `number`."""
        return self.rows[self.offsets[number] : self.offsets[number + 1]]

    def packs_of(self, rank: int) -> range:
        """Return the pack numbers of a rank, in step order."""
        return range(rank, self.n_packs, self.world_size)


def make_plan(store: Store, pack_length: int, world_size: int) -> Plan:
    """Plan the packs of a tokenized store."""
    lengths = store.lengths()
    bins = best_fit_decreasing(lengths, pack_length)
    order = _by_visual_tokens(bins, visual_tokens(store))
    sizes = np.diff(bins.offsets)[order]
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    parts = [bins.bin_rows(int(number)) for number in order]
    rows = np.concatenate(parts).astype(np.int64) if parts else np.empty(0, np.int64)
    return Plan(
        rows=rows,
        offsets=offsets,
        world_size=world_size,
        pack_length=pack_length,
        tokens=int(lengths[rows].sum()),
        too_long=bins.too_long,
    )


def _by_visual_tokens(bins: Bins, visual: Rows) -> Rows:
    """Return the bins' numbers, most visual tokens first, in their own order among equals."""
    per_bin = np.add.reduceat(visual[bins.rows], bins.offsets[:-1]) if bins.n_bins else np.empty(0, np.int64)
    return np.argsort(-per_bin, kind="stable")


def visual_tokens(store: Store) -> Rows:
    """Return (rows,) what the encoders of each row's media cost, in any unit.

    The patches of its pictures and videos where grids of both are stored and there is no audio; else its media tokens,
    for which all ids are read (1 to 2 GB/s).
    """
    runtime = store.manifest.processor
    tensors = {tensor["name"] for tensor in runtime["tensors"]}
    names = [f"{kind}_grid_thw" for kind in runtime["parts"]]
    if "run_ids" not in runtime or tensors.issuperset(names):
        return _totals(store, [name for name in _GRIDS if name in tensors], _patches)
    return _totals(store, ["input_ids"], partial(_count, tokens=runtime["run_ids"]))


def _totals(store: Store, names: Sequence[str], measure: Callable[[pa.ListArray], Rows]) -> Rows:
    """Return (rows,) the sum over columns of what `measure` finds in each row of a chunk."""
    totals = np.zeros(len(store), np.int64)
    for name in names:
        start = 0
        for shard in store.shards:
            for chunk in shard.column(name).chunks:
                totals[start : start + len(chunk)] += measure(chunk)
                start += len(chunk)
    return totals


def _count(ids: pa.ListArray, tokens: Sequence[int]) -> Rows:
    """Number of media tokens in each row."""
    lengths = ids.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
    flat = ids.flatten().to_numpy(zero_copy_only=False)
    found = np.zeros(len(flat), np.bool_)
    for token in tokens:
        found |= flat == token
    sums = np.concatenate([[0], np.cumsum(found)])
    ends = np.cumsum(lengths)
    return np.asarray(sums[ends] - sums[ends - lengths], np.int64)


def _patches(grids: pa.ListArray) -> Rows:
    """Sum of frames x rows x columns over the grids of each row."""
    counts = grids.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
    flat = grids.flatten().flatten().to_numpy(zero_copy_only=False).reshape(-1, 3).astype(np.int64)
    sums = np.concatenate([[0], np.cumsum(flat.prod(axis=1))])
    ends = np.cumsum(counts)
    return np.asarray(sums[ends] - sums[ends - counts], np.int64)


def plan_table(plan: Plan) -> pa.Table:
    """Return the plan as a table: pack_id, rank, rows (document rows of the tokenized store)."""
    numbers = np.arange(plan.n_packs, dtype=np.int64)
    rows = pa.ListArray.from_arrays(pa.array(plan.offsets.astype(np.int32)), pa.array(plan.rows))
    columns: dict[str, Any] = {
        "pack_id": pa.array(numbers),
        "rank": pa.array((numbers % plan.world_size).astype(np.int32)),
        "rows": rows,
    }
    return pa.table(columns)
