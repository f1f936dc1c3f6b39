"""Where an epoch's rows are handed out, and the one place where a run's position is kept.

torchdata's StatefulDataLoader asks the sampler's *iterator* for its state as it draws each batch, and saves the one
that belongs to the last batch that came out, so batches prefetched by workers do not count. A state_dict of the
dataset would be loaded into every worker's copy beside fast-forwarding the sampler; with neither, the loader only
counts batches, and would resume in another epoch, of another store, on another world size, in silence. A plain
DataLoader has no such hook: there the loop says how much it has trained on (`ShardDataset.state`).

What is handed out is a `Pick` with the row's number, so workers neither compute nor hold an epoch's order.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import torch
from torch.utils.data import Sampler, get_worker_info

from vlm_prep.stream.run_state import State


class Pick(NamedTuple):
    """A row to read: an index that `ShardDataset` takes beside plain integers."""

    position: int
    """In the epoch, over all ranks."""
    row: int
    """In the store."""


_LOG = logging.getLogger(__name__)
_WORKERS = 64
_AHEAD = 1024
"""Positions, of all ranks, whose rows are drawn at once: a twentieth of the time that each alone takes."""


class Cursor:
    """The epoch, the position in it at which reading begins, and how many rows each worker skipped.

    In memory that workers share: persistent workers keep their copy of the dataset for the whole run, and would
    otherwise stay in the epoch they were started in. torch unlinks the memory's name as it makes it, so a killed run
    leaves nothing behind. Each worker writes a number of its own, so nothing needs a lock.
    """

    def __init__(self, epoch: int) -> None:
        self._shared = torch.zeros(2 + 1 + _WORKERS, dtype=torch.int64)
        self._shared.share_memory_()  # type: ignore[no-untyped-call]
        self._numbers = self._shared.numpy()  # a tensor's own indexing takes microseconds
        self._numbers[0] = epoch
        self.finished = False
        """Whether the epoch was read to its end; a sampler's next iteration then begins the next one."""
        self.handed_out = False
        """Whether all of the epoch's rows were handed out, if perhaps not asked for more."""

    def __getstate__(self) -> dict[str, Any]:
        return {"_shared": self._shared, "finished": self.finished, "handed_out": self.handed_out}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._numbers = self._shared.numpy()

    @property
    def epoch(self) -> int:
        """The epoch."""
        return int(self._numbers[0])

    @property
    def start(self) -> int:
        """Rows that all ranks took before; above 0 only after a state was loaded."""
        return int(self._numbers[1])

    @property
    def skipped(self) -> int:
        """Rows skipped in this process and its workers."""
        return int(self._numbers[2:].sum())

    def count_skip(self) -> None:
        """Count a skipped row."""
        worker = get_worker_info()
        self._numbers[2 if worker is None else 3 + worker.id % _WORKERS] += 1

    def move(self, epoch: int, start: int) -> None:
        """Go to a position."""
        self._numbers[:2] = (epoch, start)
        self.finished = self.handed_out = False

    def begin(self) -> None:
        """Begin an iteration: of the next epoch if this one was read to its end."""
        if self.finished:
            self.set_epoch(self.epoch + 1)
        elif self.handed_out:
            _LOG.warning(
                "epoch %d begins again: all its rows were handed out, but the loop never asked for more, so it may not "
                "have taken them all; call set_epoch(%d) to go on to the next",
                self.epoch,
                self.epoch + 1,
            )

    def set_epoch(self, epoch: int) -> None:
        """Go to an epoch: to its start, or, if it is the epoch of a loaded state, to that state's position."""
        self.move(epoch, self.start if epoch == self.epoch else 0)


class Drawn(Protocol):
    """What rows are drawn of: a `ShardDataset`."""

    rank: int
    world_size: int
    cursor: Cursor

    def __len__(self) -> int: ...

    @property
    def epoch(self) -> int:
        """The epoch."""

    def set_epoch(self, epoch: int) -> None:
        """Go to an epoch."""

    def rows_of(self, epoch: int, positions: range) -> Iterable[int]:
        """Return the rows at positions of an epoch."""

    def state_at(self, epoch: int, consumed: int) -> State:
        """Return the state after `consumed` rows of an epoch."""

    def resume(self, state: State) -> None:
        """Go to a state."""


class ShardSampler(Sampler[Pick]):
    """Hands out one rank's rows, an epoch for each iteration; made by `ShardDataset.sampler`.

    The next epoch begins by itself where `set_epoch` is not called, once an iteration was asked for more than there
    was, as `for` does. An iteration that was left early begins again where it began; that is said where it may be a
    loop that counts its batches instead.
    """

    def __init__(self, dataset: Drawn) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __iter__(self) -> Iterator[Pick]:
        self._dataset.cursor.begin()
        return _Epoch(self._dataset)

    def set_epoch(self, epoch: int) -> None:
        """See `ShardDataset.set_epoch`; some trainers call it on the sampler."""
        self._dataset.set_epoch(epoch)


class _Epoch(Iterator[Pick]):
    """The rows left of the current epoch."""

    def __init__(self, dataset: Drawn) -> None:
        self._dataset = dataset
        self._begin()

    def _begin(self) -> None:
        self._epoch, self._start = self._dataset.epoch, self._dataset.cursor.start
        self._taken, self._count = 0, len(self._dataset)
        self._picks: Iterator[Pick] = iter(())

    def __next__(self) -> Pick:
        pick = next(self._picks, None)
        if pick is None:
            pick = self._more()
        self._taken += 1
        if self._taken == self._count and self._dataset.epoch == self._epoch:
            self._dataset.cursor.handed_out = True
        return pick

    def _more(self) -> Pick:
        """Draw the next picks, some at a time, and return the first."""
        dataset = self._dataset
        if self._taken >= self._count:
            if dataset.epoch == self._epoch:
                dataset.cursor.finished = True
            raise StopIteration
        first = self._start + self._taken * dataset.world_size + dataset.rank
        stop = min(first + _AHEAD, self._start + self._count * dataset.world_size)
        positions = range(first, stop, dataset.world_size)
        self._picks = map(Pick, positions, dataset.rows_of(self._epoch, positions))
        return next(self._picks)

    def state_dict(self) -> dict[str, Any]:
        """Called by StatefulDataLoader after each batch it draws."""
        taken = self._taken * self._dataset.world_size
        return self._dataset.state_at(self._epoch, self._start + taken).to_json()

    def load_state_dict(self, data: Mapping[str, Any]) -> None:
        """Called by StatefulDataLoader before its first batch."""
        self._dataset.resume(State.from_json(data))
        self._begin()
