"""MixedDataset: several stores as one dataset, see `mix` for the order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypedDict, Unpack

from vlm_prep.core.errors import StoreError
from vlm_prep.core.fingerprint import digest_json
from vlm_prep.shards.cache import shard_cache
from vlm_prep.shards.object_store import absolute, store_path
from vlm_prep.stream.dataset import OnBad, ShardDataset
from vlm_prep.stream.mix import MixedOrder
from vlm_prep.stream.mixed_rows import MixedRows
from vlm_prep.stream.order import Order, Remainder, order_of
from vlm_prep.stream.restore import Pixels
from vlm_prep.stream.stored_rows import Rows, open_rows


class MixOptions(TypedDict, total=False):
    """Options of `ShardDataset` that a mix takes, too."""

    shuffle: bool
    epoch: int
    pixels: Pixels
    remainder: Remainder
    verify: bool
    max_rows: None
    on_bad: OnBad
    max_bad: int
    trust_remote_code: bool
    processor: str | None
    cache_dir: str | Path | None
    cache_bytes: int | None


class MixedDataset(ShardDataset):
    """Rows of several stores, mixed by weight: an explicit interleave, see `mix`.

    In each stretch of the stream, store i has its share weights[i] / sum(weights) of the rows, to within one. Each
    store is shuffled for itself and read to its end before it begins again, over as many epochs as that takes.

    Args:
        paths: finished stores made with the same processor; all tokenized, or all packed alike.
        weights: of the stores, above 0.
        rank: see `ShardDataset`, as all others.
        epoch_rows: rows in an epoch; None takes the sum of the stores' rows.
        options: of `ShardDataset`.

    Raises:
        StoreError: a store cannot be streamed, or they do not go together.
        ValueError: not one weight above 0 for each store.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        weights: Sequence[float],
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
        *,
        epoch_rows: int | None = None,
        **options: Unpack[MixOptions],
    ) -> None:
        if not paths or len(paths) != len(weights) or min(weights) <= 0:
            raise ValueError(f"{len(paths)} stores and weights {list(weights)}: give a weight above 0 for each store")
        if options.get("max_rows") is not None:
            raise ValueError("max_rows is of a single store; epoch_rows says how long a mixed epoch is")
        cache = shard_cache(options.get("cache_dir"), options.get("cache_bytes"), verify=options.get("verify", False))
        self.paths = [absolute(store_path(path, cache)) for path in paths]
        self.weights, self._epoch_rows = list(weights), epoch_rows
        super().__init__(paths[0], rank, world_size, seed, **options)

    def _open(self, *, verify: bool) -> tuple[Rows, Order]:
        parts = [open_rows(path, verify=verify, cache=self._cache) for path in self.paths]
        empty = [str(path) for path, part in zip(self.paths, parts, strict=True) if not len(part)]
        if empty:
            raise StoreError(f"no rows in {', '.join(empty)}", "leave it out of the mix")
        rows = MixedRows(parts)
        uneven = [str(path) for path, part in zip(self.paths, parts, strict=True) if len(set(part.places.epochs)) > 1]
        if uneven:
            raise StoreError(
                f"{', '.join(uneven)}: planned epochs of unequal numbers of packs do not mix", "pack again"
            )
        orders = [order_of(part.places, self.seed, shuffle=self._shuffle) for part in parts]
        of_epoch = self._epoch_rows or sum(order.count(0) for order in orders)
        return rows, MixedOrder(orders, self.weights, of_epoch)

    def rows_of(self, epoch: int, positions: range) -> Iterable[int]:
        """See `ShardDataset.rows_of`; a mix is drawn row by row."""
        return (self.row_at(epoch, position) for position in positions)

    def _identity(self) -> str:
        assert isinstance(self._rows, MixedRows)
        prints = [part.manifest.fingerprint for part in self._rows.parts]
        return digest_json({"mix": prints, "weights": [float(each) for each in self.weights], "rows": self.n_rows})
