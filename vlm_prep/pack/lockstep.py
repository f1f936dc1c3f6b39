"""Packs to steps, so that no rank waits for another and none waits for ever.

In sharded training (FSDP, ZeRO-3) the ranks gather the weights of an encoder together. A step in which one rank has a
picture and another has none hangs it, and a step costs what its most expensive pack costs. So packs are put into
groups by their kinds of media, ordered by cost, and a step is `world_size` neighbours of a group.

What is left of the groups, fewer than `world_size` packs of each, would make mixed steps. Those packs are given the
kinds that they lack: a document of a pack that has several of a kind changes places with one of theirs, where both
packs keep their capacities. If the packs do not divide by `world_size`, some are split in two: training would have
repeated rows in the last step instead. What cannot be mended is counted (`Deal.mixed_steps`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlm_prep.pack.demands import KINDS

Numbers = NDArray[np.int64]
_MOST_DONORS = 200_000
"""Documents that are looked at for an exchange."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Deal:
    """Packs in the order of their steps: step s is packs s x world_size and the following."""

    packs: list[Numbers]
    """The rows of each pack."""
    mixed_steps: int
    """Steps in which ranks differ in kinds of media; a last step of fewer packs counts when its packs differ."""
    exchanged: int
    """Documents that changed places with another."""
    split: int
    """Packs that were split in two to fill the last step."""


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
        self.exchanged = self.split = 0

    def deal(self, packs: list[Numbers]) -> Deal:
        """Return the packs in steps."""
        packs = list(packs)
        if self.mend and self.world_size > 1 and len(packs) >= self.world_size:
            self._mend(packs)
        return Deal(
            packs=self._steps(packs),
            mixed_steps=self._mixed,
            exchanged=self.exchanged,
            split=self.split,
        )

    def _kinds_of(self, packs: Sequence[Numbers]) -> NDArray[np.uint8]:
        return by_pack(self.kinds, packs, np.bitwise_or)

    def _steps(self, packs: list[Numbers]) -> list[Numbers]:
        kinds, cost = self._kinds_of(packs), by_pack(self.cost, packs, np.add)
        world, whole, left = self.world_size, [], []
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
        groups = [kinds[step] for step in steps[len(steps) - end // world :]] + [kinds[last]]
        self._mixed = sum(len(np.unique(each)) > 1 for each in groups)
        # the most expensive step first: what does not fit into memory is seen at once
        order = np.argsort(-cost[steps].max(axis=1), kind="stable") if len(steps) else np.empty(0, np.int64)
        return [packs[number] for number in np.concatenate([steps[order].reshape(-1), last])]

    def _mend(self, packs: list[Numbers]) -> None:
        """Exchange and split until the groups of each kind divide by the world size, as far as that can be."""
        kinds = self._kinds_of(packs)
        cost = by_pack(self.cost, packs, np.add)
        left: list[int] = []
        for kind in np.unique(kinds):
            members = np.flatnonzero(kinds == kind)
            members = members[np.argsort(-cost[members], kind="stable")]
            left += members[len(members) // self.world_size * self.world_size :].tolist()
        if not left:
            return
        wanted = int(np.bitwise_or.reduce(kinds[left]))
        donors = self._donors(packs, kinds, set(left))
        for number in left:
            for bit in range(len(KINDS)):
                if wanted >> bit & 1 and not int(kinds[number]) >> bit & 1:
                    self._exchange(packs, kinds, number, bit, wanted, donors)
        self._fill_up(packs, kinds, wanted)

    def _donors(self, packs: list[Numbers], kinds: NDArray[np.uint8], left: set[int]) -> tuple[Numbers, Numbers]:
        """Return documents, and their packs, of packs with media and several documents."""
        documents, of, count = [], [], 0
        for number in np.flatnonzero(kinds).tolist():
            if number not in left and len(packs[number]) > 1:
                documents.append(packs[number])
                of.append(np.full(len(packs[number]), number))
                count += len(packs[number])
            if count >= _MOST_DONORS:
                break
        empty = np.empty(0, np.int64)
        return np.concatenate([*documents, empty]).astype(np.int64), np.concatenate([*of, empty]).astype(np.int64)

    def _exchange(
        self,
        packs: list[Numbers],
        kinds: NDArray[np.uint8],
        number: int,
        bit: int,
        wanted: int,
        donors: tuple[Numbers, Numbers],
    ) -> None:
        """Give pack `number` a document with kind `bit` for one of its own; the donor keeps all its kinds."""
        documents, of = donors
        has = (self.kinds[documents] >> bit & 1).astype(bool) & ((self.kinds[documents] & ~np.uint8(wanted)) == 0)
        documents, of = documents[has], of[has]
        if not len(documents):
            return
        room = self.capacities - self.demands[packs[number]].sum(axis=0)
        best: tuple[int, int, int] | None = None
        for own in packs[number].tolist():
            rest = packs[number][packs[number] != own]
            change = self.demands[documents] - self.demands[own]
            fits = (change <= room).all(axis=1)
            for at in np.flatnonzero(fits)[np.argsort(np.abs(change[fits, 0]), kind="stable")][:64].tolist():
                given, donor = int(documents[at]), int(of[at])
                if given not in packs[donor]:
                    continue  # it has moved already
                others = packs[donor][packs[donor] != given]
                mine = np.bitwise_or.reduce(self.kinds[np.append(rest, given)])
                theirs = np.bitwise_or.reduce(self.kinds[np.append(others, own)])
                load = self.demands[np.append(others, own)].sum(axis=0)
                if mine & kinds[number] == kinds[number] and theirs == kinds[donor] and (load <= self.capacities).all():
                    distance = abs(int(change[at, 0]))
                    if best is None or distance < best[0]:
                        best = (distance, own, at)
                    break
        if best is not None:
            _, own, at = best
            given, donor = int(documents[at]), int(of[at])
            packs[number] = np.append(packs[number][packs[number] != own], given)
            packs[donor] = np.append(packs[donor][packs[donor] != given], own)
            kinds[number] |= self.kinds[given]
            self.exchanged += 1

    def _fill_up(self, packs: list[Numbers], kinds: NDArray[np.uint8], wanted: int) -> None:
        """Split packs of the wanted kinds until they divide by the world size, if so many can be split."""
        members = np.flatnonzero(kinds == wanted)
        missing = -len(members) % self.world_size
        halves: list[tuple[int, Numbers, Numbers]] = []
        for number in sorted(members.tolist(), key=lambda each: (-len(packs[each]), each)):
            if len(halves) == missing:
                break
            if two := self._halves(packs[number], wanted):
                halves.append((number, *two))
        if len(halves) == missing:
            for number, first, second in halves:
                packs[number] = first
                packs.append(second)
            self.split += missing

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

    def _kinds_in(self, rows: list[int]) -> int:
        return int(np.bitwise_or.reduce(self.kinds[rows])) if rows else 0


def step_numbers(kinds: NDArray[np.uint8], cost: NDArray[np.float64], world_size: int) -> dict[str, Any]:
    """Return what steps of `world_size` packs in this order look like.

    Args:
        kinds: (packs,) kinds of media.
        cost: (packs,) of training it.
        world_size: packs in a step.

    Returns:
        steps; mixed_steps: those whose packs differ in kinds; cost_spread: median, p99 and max over steps of how much
        cheaper the cheapest pack of a step is than its most expensive one, in 0..1.
    """
    whole = len(kinds) // world_size * world_size
    last = len(kinds) > whole
    by_kind, by_cost = kinds[:whole].reshape(-1, world_size), cost[:whole].reshape(-1, world_size)
    mixed = int((by_kind != by_kind[:, :1]).any(axis=1).sum()) + int(last and len(np.unique(kinds[whole:])) > 1)
    found: dict[str, Any] = {"steps": len(by_kind) + last, "mixed_steps": mixed}
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
