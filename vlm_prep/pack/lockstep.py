"""Packs to steps, so that no rank waits for another and none waits for ever.

In sharded training (FSDP, ZeRO-3) the ranks gather the weights of an encoder together. A step in which one rank has a
picture and another has none hangs it, and a step costs what its most expensive pack costs. So packs are put into
groups by their kinds of media, ordered by cost, and a step is `world_size` neighbours of a group.

What is left of the groups, fewer than `world_size` packs of each, would make mixed steps. Those packs are given the
kinds that they lack: a document of a pack that has several of a kind changes places with one of theirs, where both
packs keep their capacities. Where none can, and where packs do not divide by `world_size`, some are split in two:
training would have repeated rows in the last step instead. What cannot be mended is counted (`Deal.mixed_steps`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlm_prep.pack.even_out import Evener
from vlm_prep.shards.media_kinds import KINDS

Numbers = NDArray[np.int64]
_MOST_DONORS = 50_000
"""Packs that are looked at for an exchange."""
_MOST_LOOKED_AT = 64
"""Documents of more and of fewer tokens that are looked at for one document."""
_MOST_TRIES = 64
"""Packs that are tried for each that is left."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Deal:
    """Packs in the order of their steps: step s is packs s x world_size and the following."""

    packs: list[Numbers]
    """The rows of each pack."""
    mixed_steps: int
    """Steps in which ranks differ in kinds of media. A last step of fewer packs counts where there are packs of several
    kinds: training fills it up with packs from the start of the epoch's order, whichever they are."""
    exchanged: int
    """Documents that changed places with another."""
    split: int
    """Packs that were split in two, so that a step has packs of the same kinds, or the last step is whole."""
    levelled: int
    """Steps whose documents were shared out again to level their cost."""


class Dealer:
    """Deals packs into steps.

    Args:
        demands: (n, k) of each row, in the units of `capacities`.
        capacities: (k,) of a pack.
        kinds: (n,) kinds of media of each row, a bit each.
        cost: (n,) of each row.
        world_size: packs in a step.
        mend: whether documents may be exchanged and packs split.
    """

    def __init__(
        self,
        demands: Numbers,
        capacities: Sequence[int],
        kinds: NDArray[np.uint8],
        cost: NDArray[np.float64],
        world_size: int,
        *,
        mend: bool = True,
    ) -> None:
        self.mend = mend
        self.demands, self.capacities = demands, np.asarray(capacities)
        self.kinds, self.cost, self.world_size = kinds, cost, world_size

    def deal(self, packs: list[Numbers]) -> Deal:
        """Return the packs in steps."""
        self._packs = list(packs)
        self._of_pack: NDArray[np.uint8] = by_pack(self.kinds, packs, np.bitwise_or)
        self._donors = [self._find_donors(bit) for bit in range(len(KINDS))]
        self._exchanged = self._split = self._levelled = 0
        order, mixed = self._steps()
        if self.mend and self.world_size > 1 and len(packs) >= self.world_size:
            order, mixed = self._mended(order, mixed)
        if self.mend:
            steps = order[: len(order) // self.world_size * self.world_size].reshape(-1, self.world_size)
            evener = Evener(self.demands, self.capacities, self.kinds, self.cost)
            self._levelled = evener.level(self._packs, self._of_pack, steps)
        return Deal(
            packs=[self._packs[number] for number in order],
            mixed_steps=mixed,
            exchanged=self._exchanged,
            split=self._split,
            levelled=self._levelled,
        )

    def _steps(self) -> tuple[Numbers, int]:
        """Return the packs' numbers step after step, and how many steps are mixed."""
        kinds, cost, world = self._of_pack, by_pack(self.cost, self._packs, np.add), self.world_size
        whole, left = [], []
        for kind in np.unique(kinds):
            members = np.flatnonzero(kinds == kind)
            members = members[np.argsort(-cost[members], kind="stable")]
            end = len(members) // world * world
            whole.append(members[:end].reshape(-1, world))
            left.append(members[end:])
        rest = np.concatenate([*left, np.empty(0, np.int64)]).astype(np.int64)
        end = len(rest) // world * world
        steps = np.concatenate([*whole, rest[:end].reshape(-1, world)]).astype(np.int64)
        last = rest[end:]
        groups = [kinds[step] for step in steps[len(steps) - end // world :]]
        mixed = sum(len(np.unique(each)) > 1 for each in (*groups, *([kinds] if len(last) else [])))
        # the most expensive step first: what does not fit into memory is seen at once
        order = np.argsort(-cost[steps].max(axis=1), kind="stable") if len(steps) else np.empty(0, np.int64)
        return np.concatenate([steps[order].reshape(-1), last]), mixed

    def _mended(self, order: Numbers, mixed: int) -> tuple[Numbers, int]:
        """Return the steps of mended packs and how many are mixed; those there are where mending makes it no better."""
        before, of_pack = list(self._packs), self._of_pack.copy()
        self._mend()
        mended = self._steps()
        if self._faults(*mended) < self._faults(order, mixed):
            return mended
        self._packs, self._of_pack = before, of_pack
        self._exchanged = self._split = 0
        return order, mixed

    def _faults(self, order: Numbers, mixed: int) -> tuple[int, int, bool]:
        """Return the mixed steps, all steps, and whether the last one is of fewer packs."""
        steps, partial = divmod(len(order), self.world_size)
        return mixed, steps + bool(partial), bool(partial)

    def _mend(self) -> None:
        """Exchange and split until the groups of each kind divide by the world size, as far as that can be."""
        found, counts = np.unique(self._of_pack, return_counts=True)
        left = {int(kind): int(count) % self.world_size for kind, count in zip(found, counts, strict=True)}
        if not any(left.values()):
            return
        wanted = int(np.bitwise_or.reduce([kind for kind, count in left.items() if count]))
        for kind, count in left.items():
            if kind == wanted:
                continue
            for number in self._members(kind)[: _MOST_TRIES * count]:
                count -= bool(count) and self._convert(number, wanted)
            missing = -count % self.world_size
            splits = self._splits(kind, missing)
            if len(splits) == missing:
                self._apply(splits)
        self._fill_up(wanted)

    def _members(self, kind: int) -> list[int]:
        """Return the packs of a kind; those of many documents, which have more to give, first."""
        members: list[int] = np.flatnonzero(self._of_pack == kind).tolist()
        return sorted(members, key=lambda each: (-len(self._packs[each]), each))

    def _find_donors(self, bit: int) -> tuple[Numbers, Numbers, Numbers]:
        """Return documents with kind `bit` of packs of several, their packs, and their tokens, which ascend."""
        having = np.flatnonzero(self._of_pack >> bit & 1).tolist()
        several = [number for number in having if len(self._packs[number]) > 1][:_MOST_DONORS]
        of = np.repeat(np.asarray(several, np.int64), [len(self._packs[number]) for number in several])
        parts = [self._packs[number] for number in several]
        documents = np.concatenate([*parts, np.empty(0, np.int64)]).astype(np.int64)
        has = np.flatnonzero(self.kinds[documents] >> bit & 1)
        has = has[np.argsort(self.demands[documents[has], 0], kind="stable")]
        return documents[has], of[has], self.demands[documents[has], 0]

    def _convert(self, number: int, wanted: int, keep: Collection[int] = ()) -> bool:
        """Give pack `number` all wanted kinds; where that cannot be leave all packs, and those of `keep` always."""
        before: dict[int, Numbers] = {}
        for bit in range(len(KINDS)):
            if wanted >> bit & 1 and not self._kinds_in(self._packs[number]) >> bit & 1:
                found = self._exchange(number, bit, wanted, keep)
                if found is None:
                    for each, rows in before.items():
                        self._packs[each] = rows
                    return False
                donor, own, given = found
                for each, gone, new in ((number, own, given), (donor, given, own)):
                    before.setdefault(each, self._packs[each])
                    self._packs[each] = np.append(self._packs[each][self._packs[each] != gone], new)
        self._exchanged += len(before) - 1
        self._of_pack[number] = wanted
        return True

    def _exchange(self, number: int, bit: int, wanted: int, keep: Collection[int]) -> tuple[int, int, int] | None:
        """Return which donor gives which document (last) with kind `bit` for which of pack `number`; None if none can.

        The donor keeps its kinds, the pack those it has, both their capacities; of all such the one nearest in tokens.
        """
        documents, of, tokens = self._donors[bit]
        pack = self._packs[number]
        room = self.capacities - self.demands[pack].sum(axis=0)
        has_now = self._kinds_in(pack)
        best: tuple[int, int, int, int] | None = None
        for own in pack.tolist():
            at = int(np.searchsorted(tokens, self.demands[own, 0]))
            near = slice(max(0, at - _MOST_LOOKED_AT), at + _MOST_LOOKED_AT)
            change = self.demands[documents[near]] - self.demands[own]
            fits = np.flatnonzero((change <= room).all(axis=1)) + near.start
            for place in fits[np.argsort(np.abs(tokens[fits] - self.demands[own, 0]), kind="stable")].tolist():
                given, donor = int(documents[place]), int(of[place])
                if donor == number or donor in keep or self.kinds[given] & ~np.uint8(wanted):
                    continue
                if given not in self._packs[donor]:
                    continue  # it has moved already
                mine = np.append(pack[pack != own], given)
                theirs = np.append(self._packs[donor][self._packs[donor] != given], own)
                keeps = self._kinds_in(mine) & has_now == has_now and self._kinds_in(theirs) == self._of_pack[donor]
                if keeps and (self.demands[theirs].sum(axis=0) <= self.capacities).all():
                    distance = abs(int(tokens[place] - self.demands[own, 0]))
                    best = min(filter(None, (best, (distance, donor, own, given))))
                    break
        return None if best is None else best[1:]

    def _fill_up(self, wanted: int) -> None:
        """Make as many packs of the wanted kinds as divide by the world size, if that can be.

        Each that is missing is a half of one of them; or a pack of other kinds is given the wanted ones, and another
        of those is split in its place.
        """
        missing = -int((self._of_pack == wanted).sum()) % self.world_size
        plan = self._splits(wanted, missing)
        for kind in sorted({int(kind) for kind in self._of_pack} - {wanted}):
            if len(plan) == missing:
                break
            splits = self._splits(kind, missing - len(plan))
            keep = {number for number, _, _ in (*plan, *splits)}
            given = 0
            for number in self._members(kind)[: _MOST_TRIES * self.world_size]:
                if given < len(splits) and number not in keep:
                    given += self._convert(number, wanted, keep)
            plan += splits[:given]
        if len(plan) == missing:
            self._apply(plan)

    def _splits(self, kind: int, most: int) -> list[tuple[int, Numbers, Numbers]]:
        """Return up to `most` packs of a kind that can be split, with their halves."""
        found: list[tuple[int, Numbers, Numbers]] = []
        for number in self._members(kind):
            if len(found) == most:
                break
            if two := self._halves(self._packs[number], kind):
                found.append((number, *two))
        return found

    def _apply(self, splits: list[tuple[int, Numbers, Numbers]]) -> None:
        for number, first, second in splits:
            self._packs[number] = first
            self._packs.append(second)
            self._of_pack = np.append(self._of_pack, self._of_pack[number])
        self._split += len(splits)

    def _halves(self, pack: Numbers, wanted: int) -> tuple[Numbers, Numbers] | None:
        """Return a pack in two that have all its kinds, of about equal cost; None where that cannot be."""
        first: list[int] = []
        second: list[int] = []
        # documents with the most kinds first: each half needs them all
        for row in sorted(pack.tolist(), key=lambda each: (-int(self.kinds[each]).bit_count(), -self.cost[each], each)):
            lacks = [wanted & ~self._kinds_in(half) for half in (first, second)]
            gains = [int(self.kinds[row]) & lack for lack in lacks]
            cost = [float(self.cost[half].sum()) for half in (first, second)]
            (first if (-gains[0].bit_count(), cost[0]) <= (-gains[1].bit_count(), cost[1]) else second).append(row)
        if not first or not second or self._kinds_in(first) != wanted or self._kinds_in(second) != wanted:
            return None
        return np.asarray(first, np.int64), np.asarray(second, np.int64)

    def _kinds_in(self, rows: Numbers | list[int]) -> int:
        return int(np.bitwise_or.reduce(self.kinds[rows])) if len(rows) else 0


def step_numbers(
    kinds: NDArray[np.uint8], cost: NDArray[np.float64], world_size: int, epochs: Sequence[int] = ()
) -> dict[str, Any]:
    """Return what steps of `world_size` packs in this order look like.

    Args:
        kinds: (packs,) kinds of media.
        cost: (packs,) of training it.
        world_size: packs in a step.
        epochs: packs of each epoch, whose steps begin anew; one of all by default.

    Returns:
        steps; mixed_steps: those whose packs differ in kinds, see `Deal.mixed_steps`; cost_spread: median, p99 and max
        over steps of how much cheaper the cheapest pack of a step is than its most expensive one, in 0..1.
    """
    ends = np.cumsum(epochs or [len(kinds)])
    starts = [0, *ends[:-1].tolist()]
    of_whole = [slice(start, end - (end - start) % world_size) for start, end in zip(starts, ends, strict=True)]
    # of an epoch whose last step is not whole all kinds: training fills it up with some of them
    lasts = [kinds[whole.start : end] for whole, end in zip(of_whole, ends, strict=True) if whole.stop < end]
    by_kind, by_cost = (
        np.concatenate([values[whole].reshape(-1, world_size) for whole in of_whole]) for values in (kinds, cost)
    )
    mixed = int((by_kind != by_kind[:, :1]).any(axis=1).sum()) + sum(len(np.unique(last)) > 1 for last in lasts)
    found: dict[str, Any] = {"steps": len(by_kind) + len(lasts), "mixed_steps": mixed}
    if len(by_cost):
        spread = 1 - by_cost.min(axis=1) / by_cost.max(axis=1)
        values = [np.quantile(spread, 0.5), np.quantile(spread, 0.99), spread.max()]
        found["cost_spread"] = {
            name: round(float(value), 4) for name, value in zip(("median", "p99", "max"), values, strict=True)
        }
    return found


def by_pack(values: NDArray[Any], packs: Sequence[Numbers], join: np.ufunc) -> NDArray[Any]:
    """Return (packs,) a sum (or union) over the rows of each pack."""
    if not packs:
        return np.empty(0, values.dtype)
    starts = np.concatenate([[0], np.cumsum([len(pack) for pack in packs])[:-1]])
    found: NDArray[Any] = join.reduceat(values[np.concatenate(packs)], starts)
    return found
