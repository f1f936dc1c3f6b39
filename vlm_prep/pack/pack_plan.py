"""The plan of a packed store: which documents share a pack, and which rank gets which pack in which step.

Lengths are exact, so bins are best-fit-decreasing over the whole store (`bins`, with several capacities
`capacities`); packs are then dealt to ranks in steps of the same kinds of media and near-equal cost (`lockstep`). The
plan depends on the store and the settings alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vlm_prep.core.errors import InputError
from vlm_prep.core.settings import PackConfig
from vlm_prep.pack.capacities import lower_bounds, pack_within
from vlm_prep.pack.cost import read_cost
from vlm_prep.pack.demands import Demands, demands_of
from vlm_prep.pack.lockstep import Deal, Dealer, by_pack, step_numbers
from vlm_prep.shards.reader import Store

Rows = NDArray[np.int64]
PLAN_SPLIT = "plan"
"""The folder of the plan's shards, where the packs themselves are not written."""
_RANDOM_SEED = 0
"""Of the random deal that the steps are compared with."""


def rank_split(rank: int) -> str:
    """Return the folder of a rank's shards."""
    return f"rank_{rank:05d}"


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
    """Documents that exceed a pack; they are rejected."""
    too_long_in: list[str] = field(default_factory=list)
    """What of a pack each of them exceeds: tokens, patches, media, audio_ms."""
    numbers: dict[str, Any] = field(default_factory=dict)
    """What the manifest says of the plan: lower bounds, and of its steps mixed ones, cost, exchanges."""

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


def make_plan(store: Store, config: PackConfig) -> Plan:
    """Plan the packs of a tokenized store.

    Raises:
        InputError: `lockstep` is strict and some steps cannot be.
    """
    demands = demands_of(store)
    names, limited, capacities = demands.limited(config)
    bins = pack_within(limited, capacities)
    packs = [bins.bin_rows(number) for number in range(bins.n_bins)]
    cost = read_cost(config.cost).of(demands)
    dealer = Dealer(limited, capacities, demands.kinds, cost, config.world_size, mend=config.lockstep != "off")
    deal = dealer.deal(packs)
    if config.lockstep == "strict":
        _require_lockstep(deal, config)
    rows = np.concatenate([*deal.packs, np.empty(0, np.int64)]).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum([len(pack) for pack in deal.packs])]).astype(np.int64)
    fits = np.setdiff1d(np.arange(len(limited)), bins.too_long, assume_unique=True)
    bounds = lower_bounds(limited[fits], capacities)
    excess = limited[bins.too_long] > np.asarray(capacities)
    return Plan(
        rows=rows,
        offsets=offsets,
        world_size=config.world_size,
        pack_length=config.pack_length,
        tokens=bins.tokens,
        too_long=bins.too_long,
        too_long_in=[names[int(each)] for each in excess.argmax(axis=1)],
        numbers={
            "lower_bounds": dict(zip(names, bounds, strict=True)),
            "steps": _steps(deal, demands, cost, config.world_size),
        },
    )


def _require_lockstep(deal: Deal, config: PackConfig) -> None:
    last = len(deal.packs) % config.world_size
    if deal.mixed_steps or last:
        what = f"{deal.mixed_steps} steps in which ranks differ in kinds of media" if deal.mixed_steps else ""
        partial = f"a last step of {last} packs" if last else ""
        raise InputError(
            f"lockstep strict: {len(deal.packs)} packs for {config.world_size} ranks leave "
            + " and ".join(filter(None, (what, partial))),
            "pack with lockstep balance and train with stand-in media (PackedCollate(..., dummy=True)); or choose "
            "another world size or a larger pack length",
        )


def _steps(deal: Deal, demands: Demands, cost: NDArray[np.float64], world_size: int) -> dict[str, Any]:
    """Return numbers of the steps, beside those of a random deal of the same packs."""
    kinds, costs = by_pack(demands.kinds, deal.packs, np.bitwise_or), by_pack(cost, deal.packs, np.add)
    found = step_numbers(kinds, costs, world_size)
    if world_size > 1:
        draws = np.random.PCG64(_RANDOM_SEED).random_raw(len(costs))
        random = np.argsort(draws, kind="stable")
        found["random_deal"] = step_numbers(kinds[random], costs[random], world_size)
    return {**found, "exchanged": deal.exchanged, "split": deal.split, "levelled": deal.levelled}


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
