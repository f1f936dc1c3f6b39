"""The plan of a packed store: which documents share a pack, and which rank gets which pack in which step.

Lengths are exact, so bins are best-fit-decreasing over the whole store (`bins`, with several capacities
`capacities`), over rows or over those that belong together (`units`); packs are then dealt to ranks in steps of the
same kinds of media and near-equal cost (`lockstep`). The plan depends on the store and the settings alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vlm_prep.core.errors import InputError, StoreError
from vlm_prep.core.pack_settings import PackConfig
from vlm_prep.pack.capacities import pack_within
from vlm_prep.pack.cost import read_cost
from vlm_prep.pack.demands import Demands, demands_of, frame_counts
from vlm_prep.pack.epochs import check_epochs, epoch_numbers, in_epoch, rounded_up, times_taken
from vlm_prep.pack.lockstep import Deal, Dealer, by_pack, step_numbers
from vlm_prep.pack.lower_bounds import lower_bounds
from vlm_prep.pack.units import in_order, units_of
from vlm_prep.processors.backbone import Backbone
from vlm_prep.processors.kinds_apart import AUDIO, BOTH, VIDEO, sides_of
from vlm_prep.shards.joined import PickedStore
from vlm_prep.shards.reader import Store

Rows = NDArray[np.int64]
PLAN_SPLIT = "plan"
"""The folder of the plan's shards, where the packs themselves are not written."""
UNKNOWN = Backbone()
KINDS_APART = "kinds"
"""In `Plan.too_long_in`: kinds of media that the model cannot read in one batch."""
_RANDOM_SEED = 0
"""Of the random deal that the steps are compared with."""


def rank_split(rank: int) -> str:
    """Return the folder of a rank's shards."""
    return f"rank_{rank:05d}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Asked:
    """What each unit asks of a pack and of a step, see `units`."""

    demands: Rows
    """(units, k) in the units of the capacities."""
    kinds: NDArray[np.uint8]
    """(units,) kinds of media, a bit each."""
    cost: NDArray[np.float64]
    """(units,)"""

    def of(self, members: Rows) -> Asked:
        """Return some units."""
        return Asked(demands=self.demands[members], kinds=self.kinds[members], cost=self.cost[members])


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
    """Tokens in all packs, without padding."""
    room: int
    """Tokens that all packs could hold."""
    too_long: Rows
    """Documents that exceed a pack; they are rejected."""
    too_long_in: list[str] = field(default_factory=list)
    """What of a pack each of them exceeds: tokens, patches, media, audio_ms."""
    numbers: dict[str, Any] = field(default_factory=dict)
    """What the manifest says of the plan: lower bounds, and of its steps mixed ones, cost, exchanges; its epochs, if
    there are several or rows have weights."""
    documents: int = 0
    """Documents that were asked for: each row as often as the epochs have it, rejected ones once."""

    @property
    def n_packs(self) -> int:
        """Number of packs."""
        return len(self.offsets) - 1

    @property
    def fill(self) -> float:
        """Share of the packs' room that is used."""
        return self.tokens / self.room if self.n_packs else 0.0

    def pack(self, number: int) -> Rows:
        """Return the documents of pack `number`."""
        return self.rows[self.offsets[number] : self.offsets[number + 1]]

    def packs_of(self, rank: int) -> range:
        """Return the pack numbers of a rank, in step order."""
        return range(rank, self.n_packs, self.world_size)


def make_plan(
    store: Store, config: PackConfig, backbone: Backbone = UNKNOWN, model: Mapping[str, Any] | None = None
) -> Plan:
    """Plan the packs of a tokenized store; of a mix its rows are numbered as those of its stores, one after the other.

    Args:
        store: the documents.
        config: settings.
        backbone: of the model: what it cannot read in one batch is in no pack together.
        model: its config.json, where it is known: what a row costs is counted from it.

    Raises:
        InputError: `lockstep` is strict and some steps cannot be, or a setting does not fit the store.
        StoreError: its sound, or videos of unequal numbers of frames, are nothing that the model takes together.
    """
    check_epochs(config)
    demands, units = demands_of(store), units_of(store, config.keep_together)
    _require_alike(store, demands, backbone)
    times = times_taken(store, config)
    names, limited, capacities = demands.limited(config)
    coefficients, counted = read_cost(config.cost, model)
    cost = coefficients.of(demands)
    asked = Asked(demands=units.summed(limited), kinds=units.joined(demands.kinds), cost=units.summed(cost))
    sides = units.joined(sides_of(demands.kinds, backbone))
    torn = sides == BOTH
    too_large = np.flatnonzero((asked.demands > capacities).any(axis=1) | torn)
    groups = list(_by_length(asked.demands, too_large, sides, config))
    dealt_units, room, numbers = _deal_epochs(asked, groups, times, names, capacities, config)
    epochs = [[units.rows_of(pack) for pack in dealt] for dealt in dealt_units]
    packs = [pack for dealt in epochs for pack in dealt]
    steps = _steps(epochs, demands, cost, config.world_size)
    if config.lockstep == "strict":
        for dealt in epochs:
            _require_lockstep(steps["mixed_steps"], len(dealt), config)
    rows = np.concatenate([*packs, np.empty(0, np.int64)]).astype(np.int64)
    too_long = np.sort(units.rows_of(too_large))
    fit = np.setdiff1d(np.arange(len(demands.tokens)), too_long, assume_unique=True)
    documents = len(too_long) + (config.epochs * len(fit) if times is None else int(times[:, fit].sum()))
    excess = asked.demands[units.of[too_long]] > np.asarray(capacities)
    plan = Plan(
        rows=rows,
        offsets=np.concatenate([[0], np.cumsum([len(pack) for pack in packs])]).astype(np.int64),
        world_size=config.world_size,
        pack_length=config.pack_length,
        tokens=int(demands.tokens[rows].sum()),
        room=room,
        too_long=too_long,
        documents=documents,
        too_long_in=[
            names[int(most)] if each.any() else KINDS_APART
            for each, most in zip(excess, excess.argmax(axis=1), strict=True)
        ],
        numbers={
            "cost": {**asdict(coefficients), "of": counted},
            "lower_bounds": {name: numbers[name] for name in names},
            "steps": {**steps, **{name: numbers[name] for name in ("exchanged", "split", "levelled")}},
            **(
                {"epochs": epoch_numbers(epochs, len(demands.tokens))} if config.epochs > 1 or times is not None else {}
            ),
        },
    )
    if isinstance(store, PickedStore):
        return replace(plan, rows=store.index[plan.rows], too_long=store.index[plan.too_long])
    return plan


def _deal_epochs(
    asked: Asked,
    groups: Sequence[tuple[int, Rows]],
    times: Rows | None,
    names: Sequence[str],
    capacities: Sequence[int],
    config: PackConfig,
) -> tuple[list[list[Rows]], int, Counter[str]]:
    """Return the packs of each epoch as units, those that fill no step last; the room of all; and what dealing took.

    Args:
        asked: of all units.
        groups: the units of each length of packs.
        times: how often each epoch has each row; None for once.
        names: of the capacities.
        capacities: of a pack.
        config: settings.
    """
    epochs: list[list[Rows]] = []
    firsts: list[tuple[int, int]] = []
    room, numbers = 0, Counter[str]()
    for epoch in range(config.epochs):
        whole: list[Rows] = []
        last: list[Rows] = []
        for group, (length, each) in enumerate(groups):
            members = in_epoch(each, times, config, epoch)
            part, limits = asked.of(members), [length, *capacities[1:]]
            if not epoch:
                deal = _deal(part, part.demands, limits, config)
                firsts.append((deal.mixed_steps, len(deal.packs)))
            else:
                deal = _dealt_otherwise(part, limits, config, firsts[group] if times is None else None)
            packs = [members[pack] for pack in deal.packs]
            end = len(packs) // config.world_size * config.world_size
            whole, last, room = whole + packs[:end], last + packs[end:], room + length * len(packs)
            numbers.update(exchanged=deal.exchanged, split=deal.split, levelled=deal.levelled)
            numbers.update(dict(zip(names, lower_bounds(part.demands, limits), strict=True)))
        epochs.append([*whole, *last])
    return epochs, room, numbers


def _require_alike(store: Store, demands: Demands, backbone: Backbone) -> None:
    """Refuse documents whose media cannot meet in a pack."""
    if backbone.unpackable_sound is not None and (demands.kinds & AUDIO).any():
        raise StoreError(
            f"{store.folder}: {backbone.name} {backbone.unpackable_sound}",
            "pack the rows without sound by themselves (a mix with a filter), and do not pack the others",
        )
    if backbone.stacks_videos and (demands.kinds & VIDEO).any() and len(counts := frame_counts(store)) > 1:
        raise StoreError(
            f"{store.folder}: {backbone.name} takes as many frames of each video of a pack, and these have "
            f"{', '.join(map(str, counts[:8]))}{', ...' * (len(counts) > 8)}",
            "tokenize with as many of each (`video_sampling: uniform:N`), or do not pack it",
        )


def _by_length(
    demands: Rows, too_large: Rows, sides: NDArray[np.uint8], config: PackConfig
) -> Iterator[tuple[int, Rows]]:
    """Yield each length of packs, the longest first, with the units that are too long for the next shorter one; those
    that the model cannot read in one batch apart."""
    fits = np.setdiff1d(np.arange(len(demands)), too_large, assume_unique=True)
    lengths = [0, *sorted(length for length in set(config.shorter_packs or ()) if length < config.pack_length)]
    for shorter, length in reversed(list(pairwise([*lengths, config.pack_length]))):
        members = fits[(demands[fits, 0] > shorter) & (demands[fits, 0] <= length)]
        for group in (members[sides[members] != 2], members[sides[members] == 2]):
            if len(group):
                yield length, group


def _deal(asked: Asked, sizes: Rows, capacities: Sequence[int], config: PackConfig) -> Deal:
    """Return the packs of one length in steps; `sizes` are the demands, or what they are rounded up to."""
    if config.pack_order == "source":
        packs = in_order(asked.demands, capacities)
        return Deal(packs=packs, mixed_steps=0, exchanged=0, split=0, levelled=0)
    bins = pack_within(sizes, capacities)
    mend = config.lockstep != "off"
    dealer = Dealer(asked.demands, capacities, asked.kinds, asked.cost, config.world_size, mend=mend)
    return dealer.deal([bins.bin_rows(number) for number in range(bins.n_bins)])


def _dealt_otherwise(
    asked: Asked, capacities: Sequence[int], config: PackConfig, wanted: tuple[int, int] | None
) -> Deal:
    """Return a deal of a later epoch: the most unlike one with as few mixed steps and packs as wanted, else the best.

    `wanted` are the numbers of the first epoch; None, where epochs have other rows, those of the rows as they are.
    """
    found: list[tuple[tuple[int, int], Deal]] = []
    for sizes in rounded_up(asked.demands, capacities):
        deal = _deal(asked, sizes, capacities, config)
        found.append(((deal.mixed_steps, len(deal.packs)), deal))
        if wanted is not None and found[-1][0] <= wanted:
            return deal
    at_least = found[-1][0] if wanted is None else min(numbers for numbers, _ in found)
    return next(deal for numbers, deal in found if numbers <= at_least)


def _require_lockstep(mixed: int, packs: int, config: PackConfig) -> None:
    last = packs % config.world_size
    if mixed or last:
        what = f"{mixed} steps in which ranks differ in kinds of media" if mixed else ""
        partial = f"a last step of {last} packs" if last else ""
        raise InputError(
            f"lockstep strict: {packs} packs for {config.world_size} ranks leave "
            + " and ".join(filter(None, (what, partial))),
            "pack with lockstep balance and train with stand-in media (PackedCollate(..., dummy=True)); or choose "
            "another world size or a larger pack length",
        )


def _steps(epochs: list[list[Rows]], demands: Demands, cost: NDArray[np.float64], world_size: int) -> dict[str, Any]:
    """Return numbers of the steps, beside those of a random deal of the same packs."""
    packs, sizes = [pack for each in epochs for pack in each], [len(each) for each in epochs]
    kinds, costs = by_pack(demands.kinds, packs, np.bitwise_or), by_pack(cost, packs, np.add)
    found = step_numbers(kinds, costs, world_size, sizes)
    if world_size > 1:
        draws = np.random.PCG64(_RANDOM_SEED).random_raw(len(costs))
        random = np.lexsort((draws, np.repeat(np.arange(len(sizes)), sizes)))
        found["random_deal"] = step_numbers(kinds[random], costs[random], world_size, sizes)
    return found


def plan_table(plan: Plan) -> pa.Table:
    """Return the plan as a table: pack_id, rank, rows (document rows of the tokenized store)."""
    numbers = np.arange(plan.n_packs, dtype=np.int64)
    rows = pa.ListArray.from_arrays(pa.array(plan.offsets.astype(np.int32)), pa.array(plan.rows))
    packs = plan.numbers.get("epochs", {}).get("packs", [plan.n_packs])
    columns: dict[str, Any] = {
        "pack_id": pa.array(numbers),
        **({"epoch": pa.array(np.repeat(np.arange(len(packs)), packs).astype(np.int32))} if len(packs) > 1 else {}),
        "rank": pa.array((numbers % plan.world_size).astype(np.int32)),
        "rows": rows,
    }
    return pa.table(columns)
