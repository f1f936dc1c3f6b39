"""Batches by tokens: as many rows as fit a budget, padding counted; or of so many rows of like length.

An epoch's positions are cut into windows; the rows of a window are sorted by length and cut into batches whose rows x
longest row stay within the budget, and the window's batches are shuffled. So the sequence of batches is a pure
function of (seed, epoch, budget), and rank r takes batches r, r + world_size, ...: all ranks take as many, every row
is in one batch of the epoch, and a state (rows consumed by whole batches) resumes on any world size.

In lockstep, a batch has rows of the same kinds of media, and a step of so many batches has batches of the same kinds,
so that no rank of sharded training calls an encoder that another does not. What is left of a window's kinds waits for
the next window; at the end of the epoch batches are halved to fill the last step of each kind.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle, islice, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from vlm_prep.core.errors import StoreError
from vlm_prep.stream.dataset import ShardDataset
from vlm_prep.stream.run_state import State
from vlm_prep.stream.sampler import Pick

Batch = NDArray[np.int64]
"""Positions of an epoch."""


class TokenBudget(Sampler[list[Pick]]):
    """A batch sampler: `DataLoader(dataset, batch_sampler=TokenBudget(dataset, 16384), ...)`.

    It opens every shard once, to read the rows' lengths (4 bytes a row are kept). Where batches do not divide by the
    world size, remainder="pad" repeats the epoch's first batches, "drop" leaves the last ones out.

    Args:
        dataset: gives the order, the rank and the position of the run.
        max_tokens: most tokens of a batch, padding included.
        pad_to_multiple_of: as the collater's.
        window: rows sorted by length at a time: more pad less, fewer mix better.
        max_rows: most rows of a batch; with a large budget, batches of so many rows of like length.
        lockstep: batches in a step that have the same kinds of media: the world size, or a multiple of all world
            sizes that the run may have. None mixes kinds. Steps that stay mixed, since fewer rows of their kinds are
            left than a step has batches, are the epoch's last ones.

    Raises:
        ValueError: a row is longer than the budget, or the world size does not divide `lockstep`.
    """

    def __init__(
        self,
        dataset: ShardDataset,
        max_tokens: int,
        *,
        pad_to_multiple_of: int = 1,
        window: int = 4096,
        max_rows: int | None = None,
        lockstep: int | None = None,
    ) -> None:
        self._dataset, self._multiple, self._window = dataset, pad_to_multiple_of, window
        self.max_tokens, self._max_rows, self._lockstep = max_tokens, max_rows, lockstep
        if lockstep is not None and lockstep % dataset.world_size:
            raise ValueError(f"lockstep {lockstep} is not a multiple of the world size {dataset.world_size}")
        self._kinds = dataset.kinds() if lockstep is not None else None
        lengths = -(-dataset.lengths() // pad_to_multiple_of) * pad_to_multiple_of
        self._lengths: NDArray[np.int32] = lengths.astype(np.int32)
        if len(lengths) and lengths.max() > max_tokens:
            raise ValueError(
                f"row {int(lengths.argmax())} has {int(lengths.max())} tokens, more than max_tokens {max_tokens}: "
                "raise it, or tokenize with a smaller `max_length`"
            )

    @property
    def fingerprint(self) -> str:
        """The dataset's, and what decides the batches; what a State is checked against."""
        further = "".join(f" {each}" for each in (self._max_rows, self._lockstep) if each is not None)
        return f"{self._dataset.fingerprint} {self.max_tokens} tokens/{self._multiple} by {self._window}{further}"

    def __len__(self) -> int:
        """Batches of this rank that are left in the epoch."""
        cursor = self._dataset.cursor
        return sum(1 for _ in self.steps(cursor.epoch, cursor.start))

    def __iter__(self) -> Iterator[list[Pick]]:
        self._dataset.cursor.begin()
        return _Batches(self, self._dataset)

    def set_epoch(self, epoch: int) -> None:
        """See `ShardDataset.set_epoch`."""
        self._dataset.set_epoch(epoch)

    def batches(self, epoch: int) -> Iterator[Batch]:
        """Yield the positions of each batch of an epoch, of all ranks."""
        dataset, waiting = self._dataset, dict[int, list[Batch]]()
        for number, start in enumerate(range(0, dataset.count(epoch), self._window)):
            rows = dataset.rows_at(epoch, start, start + self._window)
            seeds = np.random.SeedSequence(dataset.seed, spawn_key=(epoch, 3, number))
            draws = np.random.PCG64(seeds)
            if self._kinds is None:
                yield from _shuffled(self._batches_of(rows, np.arange(len(rows)), start), draws)
            else:
                yield from _steps(self._by_kind(rows, start, draws, waiting), draws)
        if self._lockstep is not None:
            yield from _last_steps(waiting, self._lockstep)

    def _batches_of(self, rows: NDArray[np.int64], chosen: NDArray[np.int64], start: int) -> list[Batch]:
        """Cut the chosen of a window's rows into batches of like length."""
        lengths = self._lengths[rows[chosen]]
        order = chosen[np.argsort(lengths, kind="stable")]
        cuts = _cut(self._lengths[rows[order]], self.max_tokens, self._max_rows)
        return [start + order[begin:end] for begin, end in pairwise(cuts)]

    def _by_kind(
        self, rows: NDArray[np.int64], start: int, draws: np.random.PCG64, waiting: dict[int, list[Batch]]
    ) -> list[list[Batch]]:
        """Return the whole steps of a window; what is left of each kind waits."""
        assert self._kinds is not None
        assert self._lockstep is not None
        kinds, steps = self._kinds[rows], []
        for kind in np.unique(kinds).tolist():
            here = _shuffled(self._batches_of(rows, np.flatnonzero(kinds == kind), start), draws)
            together = waiting.pop(kind, []) + here
            end = len(together) // self._lockstep * self._lockstep
            steps += [together[at : at + self._lockstep] for at in range(0, end, self._lockstep)]
            waiting[kind] = together[end:]
        return steps

    def steps(self, epoch: int, consumed: int) -> Iterator[tuple[Batch, int]]:
        """Yield (this rank's batch, rows consumed by all ranks after the step), after `consumed` rows.

        Raises:
            StoreError: no batch ends there.
        """
        world, batches = self._dataset.world_size, self.batches(epoch)
        taken = 0
        while taken < consumed and (batch := next(batches, None)) is not None:
            taken += len(batch)
        if taken != consumed:
            raise StoreError(f"no batch of {self.max_tokens} tokens ends after {consumed} rows", _OTHER_BATCHES)
        while step := list(islice(batches, world)):
            taken += sum(map(len, step))
            if len(step) < world:
                if self._dataset.remainder == "drop":
                    return
                step += islice(cycle(self.batches(epoch)), world - len(step))
            yield step[self._dataset.rank], taken

    def state(self, batches: int) -> State:
        """Return where the run stands, for a plain DataLoader.

        Args:
            batches: that this rank took since this iteration of the epoch began.
        """
        cursor = self._dataset.cursor
        taken = [consumed for _, consumed in islice(self.steps(cursor.epoch, cursor.start), batches)]
        return self.state_at(cursor.epoch, taken[-1] if taken else cursor.start)

    def state_at(self, epoch: int, consumed: int) -> State:
        """Return the state after `consumed` rows of an epoch."""
        return State(fingerprint=self.fingerprint, seed=self._dataset.seed, epoch=epoch, consumed=consumed)

    def resume(self, state: State) -> None:
        """Go where `state` says.

        Raises:
            StoreError: the state is of another store, seed or budget.
        """
        state.check(self.fingerprint, self._dataset.seed)
        cursor = self._dataset.cursor
        cursor.move(state.epoch, state.consumed)
        cursor.finished = next(self.steps(state.epoch, state.consumed), None) is None


_OTHER_BATCHES = "resume with the sampler that saved the state: TokenBudget counts rows by its own batches"


class _Batches(Iterator[list[Pick]]):
    """The batches left of the current epoch."""

    def __init__(self, sampler: TokenBudget, dataset: ShardDataset) -> None:
        self._sampler, self._dataset = sampler, dataset
        self._begin()

    def _begin(self) -> None:
        cursor = self._dataset.cursor
        self._epoch, self._consumed = cursor.epoch, cursor.start
        self._steps = self._sampler.steps(self._epoch, self._consumed)

    def __next__(self) -> list[Pick]:
        step = next(self._steps, None)
        if step is None:
            if self._dataset.epoch == self._epoch:
                self._dataset.cursor.finished = True
            raise StopIteration
        batch, self._consumed = step
        return [Pick(int(position), self._dataset.row_at(self._epoch, int(position))) for position in batch]

    def state_dict(self) -> dict[str, Any]:
        """Called by StatefulDataLoader after each batch it draws."""
        return self._sampler.state_at(self._epoch, self._consumed).to_json()

    def load_state_dict(self, data: dict[str, Any]) -> None:
        """Called by StatefulDataLoader before its first batch."""
        self._sampler.resume(State.from_json(data))
        self._begin()


def _shuffled(batches: list[Batch], draws: np.random.PCG64) -> list[Batch]:
    return [batches[at] for at in np.argsort(draws.random_raw(len(batches)), kind="stable")]


def _steps(steps: list[list[Batch]], draws: np.random.PCG64) -> Iterator[Batch]:
    for at in np.argsort(draws.random_raw(len(steps)), kind="stable"):
        yield from steps[at]


def _last_steps(waiting: dict[int, list[Batch]], size: int) -> Iterator[Batch]:
    """Yield what waits: halved until there are batches for a step of each kind, mixed where rows are too few."""
    mixed: list[Batch] = []
    for kind in sorted(waiting):
        batches = waiting[kind]
        if sum(map(len, batches)) < size:
            mixed += batches
            continue
        while len(batches) < size:
            largest = max(range(len(batches)), key=lambda at: len(batches[at]))
            rows = batches.pop(largest)
            batches += [rows[: len(rows) // 2], rows[len(rows) // 2 :]]
        yield from batches
    yield from mixed


def _cut(lengths: NDArray[np.int32], budget: int, most: int | None = None) -> list[int]:
    """Cut ascending lengths into runs with (rows x longest) <= budget; return where runs begin, and the end.

    Each run takes as many as fit: rows x longest grows with each row, so the last one that fits is found by bisection.
    """
    cuts = [0]
    while cuts[-1] < len(lengths):
        rest = lengths[cuts[-1] : cuts[-1] + min(budget, most or budget)]
        cost = rest.astype(np.int64) * np.arange(1, len(rest) + 1)
        cuts.append(cuts[-1] + int(np.searchsorted(cost, budget, side="right")))
    return cuts
