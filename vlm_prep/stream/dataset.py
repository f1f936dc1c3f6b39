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

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from torch.utils.data import Dataset

from vlm_prep.core.errors import Reject, StoreError
from vlm_prep.processors.backbone import Backbone
from vlm_prep.processors.kinds_apart import kinds_of_documents
from vlm_prep.shards.cache import shard_cache
from vlm_prep.shards.code_place import from_named_place
from vlm_prep.shards.object_store import absolute, store_path
from vlm_prep.stream.cache_size import check_cache
from vlm_prep.stream.order import Order, Remainder, order_of, steps_left
from vlm_prep.stream.restore import Pixels, tensor_makers
from vlm_prep.stream.run_state import State
from vlm_prep.stream.sampler import Cursor, Pick, ShardSampler
from vlm_prep.stream.stored_rows import Rows, names_of, open_rows

Item = dict[str, Any]
OnBad = Literal["raise", "skip"]
_NAMES = ("sample_id", "sample_ids")
_COUNTS = (("n_images", "image"), ("n_videos", "video"), ("n_audios", "audio"))
_FAULTS = (Reject, StoreError, pa.ArrowException, ValueError, KeyError, IndexError, TypeError, OSError, RuntimeError)
"""What reading, decoding and the image processors raise; not MemoryError, which is no fault of the row."""
_STRIDE = 8
"""Ranks up to which it is faster to draw the rows of all of them at once than those of one alone."""
_LOG = logging.getLogger(__name__)


class ShardDataset(Dataset[Item]):
    """Rows of a tokenized store, or packs of a packed one, of one rank, in the order of (seed, epoch).

    Examples:
        >>> rows = vp.ShardDataset(folder / "tok", seed=0)
        >>> len(rows), sorted(rows[0])[:2]
        (7, ['image_grid_thw', 'input_ids'])

    An item holds read-only numpy views of the shard, which a collater copies once, into the batch: input_ids and
    labels int32 (length,), labels unshifted; for packs position_ids int32 (3, length) or (length,), float32 for
    Qwen3-Omni, and seq_lens int32 (documents,); grids int32 (n, 3); any further list of numbers under its own name.
    Pixels made here are the processor's tensors under its names, float32 pixel_values (patches, dim), ...; with
    pixels="bytes" those that the store holds as uint8 (payload `pixels`) are CodedTensors, for a collater. Beside them
    sample_id (or sample_ids), n_images, n_videos and n_audios.

    Args:
        path: a finished store: a folder, or s3://bucket/prefix, whose shards are fetched when they are read.
        rank: of this process.
        world_size: ranks that share the store; any number, not only the one that packs were planned for.
        seed: of the order.
        shuffle: False reads in the store's order.
        epoch: to start with.
        pixels: make pixel tensors; False leaves them out, for models without a vision tower or for counting; "bytes"
            leaves uint8 of payload `pixels` as they are: batches hold them as `pixel_values_uint8`, an eighth of the
            size, for `to_pixel_values` on the device.
        remainder: what happens when the rows do not divide by world_size, see `order.steps_left`; said once.
        verify: compare all shards' checksums first; of an object store's, cached copies' when they are mapped.
        max_rows: only the first rows of the store, or of each epoch that its packs were planned for.
        on_bad: "raise" stops at a row that cannot be read; "skip" leaves it out of its batch, which gets smaller,
            says so, and counts it in `skipped`. No other row takes its place and positions still count it, so ranks
            stay in step: a batch with no row left is a placeholder, see `collate`. Skips when loaders fetch batches;
            `dataset[i]` always raises.
        max_bad: skips of this rank's run before one raises after all.
        trust_remote_code: run the Python code of a processor that comes with some, if the store was made so.
        processor: the place of that processor; needed if the store was not made here by this user.
        cache_dir: of fetched shards, on a local disk; all processes of a machine share it. None takes a default.
        cache_bytes: most bytes in it, see `window`; None takes 64 GiB.

    Raises:
        StoreError: the store is unfinished, damaged or cannot be streamed.
        InputError: the object store could not be asked, or the cache is too small for the order.
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
        pixels: Pixels = True,
        remainder: Remainder = "pad",
        verify: bool = False,
        max_rows: int | None = None,
        on_bad: OnBad = "raise",
        max_bad: int = 100,
        trust_remote_code: bool = False,
        processor: str | None = None,
        cache_dir: str | Path | None = None,
        cache_bytes: int | None = None,
    ) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} of world size {world_size}")
        # absolute: trainers change the working folder, and workers open the store again
        self._cache = shard_cache(cache_dir, cache_bytes, verify=verify)
        self.path = absolute(store_path(path, self._cache))
        self.rank, self.world_size, self.seed = rank, world_size, seed
        self.on_bad, self.max_bad = on_bad, max_bad
        self._shuffle, self._remainder = shuffle, remainder
        self._max_rows = max_rows
        self._rows, self._order = self._open(verify=verify)
        check_cache(self._rows, self._cache, world_size, shuffle=shuffle)
        runtime = from_named_place(
            self.path, self._rows.manifest.processor, processor, trust_remote_code=trust_remote_code
        )
        self._stored = {tensor["name"] for tensor in runtime.get("tensors", ())}
        found = runtime.get("backbone")
        backbone = Backbone.from_json(found) if found is not None else Backbone()
        self.apart = backbone if backbone.has_rows_apart else None
        self._make, self._find = tensor_makers(runtime, pixels, trust_remote_code=trust_remote_code)
        self.cursor = Cursor(epoch)
        self._say_remainder()

    def _open(self, *, verify: bool) -> tuple[Rows, Order]:
        rows = open_rows(self.path, verify=verify, cache=self._cache)
        return rows, order_of(rows.places, self.seed, shuffle=self._shuffle, most=self._max_rows)

    def _say_remainder(self) -> None:
        left = self.n_rows % self.world_size
        if left and self.rank == 0:
            does = f"repeats {self.world_size - left}" if self._remainder == "pad" else f"leaves out {left}"
            told = (self.path, self.n_rows, self.world_size, does, self._remainder)
            _LOG.warning("%s: %d rows among %d ranks: each epoch %s of them (remainder=%r)", *told)

    def __getstate__(self) -> dict[str, Any]:
        # memory maps are opened again in each process, and workers that are given Picks need no order
        kept = {name: value for name, value in vars(self).items() if name not in ("_rows", "_order")}
        return {**kept, "_opened_fingerprint": self.fingerprint}

    def __setstate__(self, state: dict[str, Any]) -> None:
        fingerprint = state.pop("_opened_fingerprint")
        self.__dict__.update(state)
        self._rows, self._order = self._open(verify=False)
        if self.fingerprint != fingerprint:
            raise StoreError(f"{self.path} was replaced while it was in use", "start the run again")

    @property
    def n_rows(self) -> int:
        """Rows in the current epoch, of all ranks."""
        return self.count(self.epoch)

    def count(self, epoch: int) -> int:
        """Return the rows in an epoch; planned ones may differ in it."""
        return self._order.count(epoch)

    @property
    def manifest(self) -> Any:
        """The store's manifest."""
        return self._rows.manifest

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the store's columns."""
        return self._rows.columns()

    @property
    def fingerprint(self) -> str:
        """The store's fingerprint and what else decides a position's row; what a State is checked against."""
        marks = [] if self._shuffle else ["in order"]
        if self._max_rows is not None:
            marks.append(f"first {self._max_rows}")
        return " ".join([self._identity(), *marks])

    def _identity(self) -> str:
        return str(self.manifest.fingerprint)

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

    @property
    def remainder(self) -> Remainder:
        """What happens to rows that do not divide among the ranks."""
        return self._remainder

    def __len__(self) -> int:
        """Items of this rank that are left in the epoch."""
        return steps_left(self.n_rows, self.cursor.start, self.world_size, self._remainder)

    def __iter__(self) -> Iterator[Item]:
        return (self[index] for index in range(len(self)))

    def position(self, index: int) -> int:
        """Return the position in the epoch of item `index` of this rank."""
        return self.cursor.start + index * self.world_size + self.rank

    def row_at(self, epoch: int, position: int) -> int:
        """Return the store row at a position of an epoch; past the last row the order begins again."""
        return self._order.row(epoch, position % self.count(epoch))

    def rows_at(self, epoch: int, start: int, stop: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Return the store rows at positions start .. stop of an epoch, none past its last row."""
        return self._order.rows(epoch, start, min(stop, self.count(epoch)))

    def rows_of(self, epoch: int, positions: range) -> Iterable[int]:
        """Return the store rows at positions of an epoch; past the last row the order begins again."""
        if positions.step > _STRIDE:
            return (self.row_at(epoch, position) for position in positions)
        inside = self.rows_at(epoch, positions.start, positions.stop)[:: positions.step].tolist()
        return [*inside, *(self.row_at(epoch, position) for position in positions[len(inside) :])]

    def row_number(self, index: int) -> int:
        """Return the store row of item `index` of this rank."""
        if not 0 <= index < len(self):
            raise IndexError(f"item {index} of {len(self)}")
        return self.row_at(self.epoch, self.position(index))

    def __getitem__(self, index: int | Pick) -> Item:
        number = index.row if isinstance(index, Pick) else self.row_number(index)
        row: dict[str, Any] = {}
        try:
            # rows without tensors, or with tensors that need not be computed, are nothing but views and may be kept
            viewed = self._make is None or self._find is not None
            if viewed and (ready := self._rows.made(number, self._ready)) is not None:
                return dict(ready)
            row = self._rows.row(number)
            media = row.get("media")
            made = self._make(media, row.get("media_counts")) if self._make is not None and media else None
            return self._item(row, made or {})
        except _FAULTS as error:
            message = error.message if isinstance(error, Reject | StoreError) else f"{type(error).__name__}: {error}"
            hint = error.hint if isinstance(error, StoreError) else None
            raise StoreError(f"{self._rows.where(number)}{names_of(row)}: {message}", hint) from error

    def __getitems__(self, indices: Sequence[int | Pick]) -> list[Item]:
        """Return the items of a batch, fewer where bad ones are skipped; what torch's loaders call."""
        items = []
        self._rows.drop_cut()
        for index in indices:
            try:
                items.append(self[index])
            except StoreError as error:
                if self.on_bad == "raise":
                    raise
                self._skip(error)
        return items

    def _skip(self, error: StoreError) -> None:
        self.cursor.count_skip()
        if self.skipped > self.max_bad:
            raise StoreError(
                f"{self.skipped} rows could not be read, more than max_bad {self.max_bad}; the last: {error.message}",
                "`vlm-prep verify` looks at the whole store",
            ) from error
        _LOG.warning("skipped (%d so far): %s", self.skipped, error.message)

    @property
    def skipped(self) -> int:
        """Rows left out by on_bad="skip" since the dataset was made, by all its workers."""
        return self.cursor.skipped

    def lengths(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Return (rows of the store,) the tokens of each row, by row number."""
        return self._rows.lengths()

    def kinds(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Return (rows of the store,) the kinds of media of each row, a bit each (`media_kinds.KINDS`)."""
        return self._rows.kinds()

    def _item(self, row: dict[str, Any], made: dict[str, Any]) -> Item:
        """Return the item of a row and the tensors that were made of its media."""
        item: Item = {name: value for name, value in row.items() if isinstance(value, np.ndarray) or name in _NAMES}
        if self.apart is not None and row.get("media_counts") is not None:
            item["document_kinds"] = kinds_of_documents(row["media"], row["media_counts"])
        item.pop("media_counts", None)
        media = row.get("media")
        kinds = [struct["kind"] for struct in media] if media else ()
        for key, kind in _COUNTS:
            item[key] = kinds.count(kind)
        for name in self._stored & made.keys():
            tensor = made.pop(name)
            if not np.array_equal(tensor, item[name]):
                raise StoreError(f"{name} is {tensor.tolist()}, the store says {item[name].tolist()}")
        item.update(made)
        return item

    def _ready(self, read: Callable[[], dict[str, Any]]) -> Item | None:
        """Return an item that is nothing but views of the shard; None for all others."""
        try:
            row = read()
            media = row.get("media")
            if self._find is None or not media:
                return self._item(row, {})
            made = self._find(media, row.get("media_counts"))
            return self._item(row, made) if made is not None else None
        except _FAULTS:
            return None  # said when the row itself is read

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
