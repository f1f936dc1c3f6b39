"""In a step all ranks have the same kinds of media and near-equal cost; no document is lost on the way."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from vlm_prep.pack.bins import best_fit_decreasing
from vlm_prep.pack.lockstep import Deal, Dealer, by_pack, step_numbers

CAPACITY = 4096


def deal(
    count: int, world_size: int, *, seed: int = 0, shares: tuple[float, ...] = (0.5, 0.3, 0.1, 0.1), mend: bool = True
) -> tuple[Deal, NDArray[np.int64], NDArray[np.uint8], NDArray[np.float64]]:
    draw = np.random.default_rng(seed)
    tokens = draw.integers(50, 1500, count)
    kinds = draw.choice(np.array([0, 1, 2, 4], np.uint8), count, p=shares)
    cost = tokens + 1e-4 * tokens**2.0
    bins = best_fit_decreasing(tokens, CAPACITY)
    dealer = Dealer(tokens[:, None], [CAPACITY], kinds, cost, world_size, mend=mend)
    return dealer.deal([bins.bin_rows(number) for number in range(bins.n_bins)]), tokens, kinds, cost


@pytest.mark.parametrize("world_size", [1, 2, 3, 8, 16])
@pytest.mark.parametrize("seed", [1, 4])
def test_every_document_stays_in_one_pack_that_holds_it(world_size: int, seed: int) -> None:
    found, tokens, _, _ = deal(2000, world_size, seed=seed)
    assert sorted(np.concatenate(found.packs).tolist()) == list(range(2000))
    assert by_pack(tokens, found.packs, np.add).max() <= CAPACITY


@pytest.mark.parametrize("world_size", [2, 3, 8, 16])
@pytest.mark.parametrize("seed", range(5))
def test_no_step_mixes_kinds_where_documents_can_change_places(world_size: int, seed: int) -> None:
    found, _, kinds, cost = deal(1000 * world_size, world_size, seed=seed)
    per_pack = by_pack(kinds, found.packs, np.bitwise_or)
    assert len(found.packs) % world_size == 0
    assert found.mixed_steps == 0
    assert step_numbers(per_pack, by_pack(cost, found.packs, np.add), world_size)["mixed_steps"] == 0
    assert (per_pack.reshape(-1, world_size) == per_pack.reshape(-1, world_size)[:, :1]).all()


def test_without_mending_what_is_left_of_the_groups_is_mixed_and_counted() -> None:
    found, _, kinds, cost = deal(400, 8, mend=False)
    numbers = step_numbers(by_pack(kinds, found.packs, np.bitwise_or), by_pack(cost, found.packs, np.add), 8)
    assert found.mixed_steps == numbers["mixed_steps"] > 0
    assert found.exchanged == found.split == 0


def test_packs_that_cannot_be_mended_are_counted() -> None:
    # one document each: nothing can change places, nothing can be split
    tokens = np.full(5, 4000)
    dealer = Dealer(tokens[:, None], [CAPACITY], np.array([0, 0, 0, 1, 1], np.uint8), tokens.astype(float), 4)
    found = dealer.deal([np.array([row]) for row in range(5)])
    assert len(found.packs) == 5
    # (0 0 0 1), and the last one with three of these packs again
    numbers = step_numbers(by_pack(dealer.kinds, found.packs, np.bitwise_or), tokens.astype(float), 4)
    assert found.mixed_steps == numbers["mixed_steps"] == 2


def test_a_last_step_that_is_filled_up_with_packs_of_other_kinds_is_counted_and_none_is_split_for_it() -> None:
    # 75 packs of text, and three of one video each, which fills them, for two ranks: one step has to mix them
    tokens = np.array([2000] * 150 + [4000] * 3)
    kinds = np.array([0] * 150 + [2] * 3, np.uint8)
    dealer = Dealer(tokens[:, None], [CAPACITY], kinds, tokens.astype(float), 2)
    packs = [*np.arange(150).reshape(-1, 2), *np.arange(150, 153)[:, None]]
    found = dealer.deal(packs)
    assert (len(found.packs), found.split, found.mixed_steps) == (78, 0, 1)
    # of an odd number the last step is filled up with a pack of the epoch's start, which may be a video
    found = dealer.deal(packs[:-1])
    assert (len(found.packs) % 2, found.mixed_steps) == (0, 0)
    dealer.mend = False
    found = dealer.deal(packs[:-1])
    per_pack = by_pack(kinds, found.packs, np.bitwise_or)
    assert (len(found.packs), found.mixed_steps) == (77, 1)
    assert step_numbers(per_pack, per_pack + 1.0, 2)["mixed_steps"] == 1


@pytest.mark.parametrize("seed", [1, 4])
def test_packs_of_a_small_plan_are_evened_out_by_exchanges(seed: int) -> None:
    """Half the spread, or less, of what sharing each step's documents out by the largest first gives."""
    spreads = []
    for most in (0, 64):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("vlm_prep.pack.even_out._MOST_EXCHANGES", most)
            found, tokens, kinds, cost = deal(60, 4, seed=seed, shares=(0.5, 0.5, 0, 0))
        assert np.array_equal(np.sort(np.concatenate(found.packs)), np.arange(60))
        assert max(tokens[pack].sum() for pack in found.packs) <= CAPACITY
        numbers = step_numbers(by_pack(kinds, found.packs, np.bitwise_or), by_pack(cost, found.packs, np.add), 4)
        spreads.append((numbers["mixed_steps"], numbers["cost_spread"]["p99"]))
    assert spreads[0][0] == spreads[1][0]
    assert spreads[1][1] < spreads[0][1] / 2


def test_steps_that_stay_uneven_are_evened_out_with_others_of_their_kinds() -> None:
    worst = []
    for mates in (0, 16):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("vlm_prep.pack.even_out._MATES", mates)
            found, tokens, kinds, cost = deal(3000, 8, seed=3, shares=(0.1, 0.5, 0.2, 0.2))
        assert np.array_equal(np.sort(np.concatenate(found.packs)), np.arange(3000))
        assert by_pack(tokens, found.packs, np.add).max() <= CAPACITY
        per_pack = by_pack(kinds, found.packs, np.bitwise_or)
        numbers = step_numbers(per_pack, by_pack(cost, found.packs, np.add), 8)
        assert numbers["mixed_steps"] == 0
        worst.append(numbers["cost_spread"]["p99"])
    assert worst[1] < worst[0]


def test_full_packs_with_a_few_dear_documents_are_evened_out() -> None:
    # one step of two full packs: to even them out the dear document of the first goes for three that are just as long
    tokens = np.array([1832, 2732, 1574, 1010, 1044, 923, 800, 610, 422, 1700, 1500, 1237, 1000])
    cost = tokens + np.array([1900, 2800, *[0] * 3, 900, *[0] * 7]).astype(float)
    packs = [np.arange(5), np.arange(5, 13)]
    assert [tokens[pack].sum() for pack in packs] == [8192, 8192]
    found = Dealer(tokens[:, None], [8192], np.where(cost > tokens, 2, 0).astype(np.uint8), cost, 2).deal(packs)
    costs = by_pack(cost, found.packs, np.add)
    assert by_pack(tokens, found.packs, np.add).max() <= 8192
    assert costs.min() / costs.max() > 0.97


def test_packs_of_a_step_cost_nearly_the_same() -> None:
    found, _, kinds, cost = deal(20_000, 8)
    numbers = step_numbers(by_pack(kinds, found.packs, np.bitwise_or), by_pack(cost, found.packs, np.add), 8)
    assert numbers["cost_spread"]["median"] <= 0.02
    assert numbers["cost_spread"]["p99"] <= 0.05


def test_a_donor_keeps_its_kinds() -> None:
    # the first pack lacks a picture; the only one to give has two
    kinds = np.array([0, 0, 1, 1, 1, 1], np.uint8)
    tokens = np.array([100, 120, 100, 90, 300, 10])
    packs = [np.array([0, 1]), np.array([2, 3]), np.array([4]), np.array([5])]
    found = Dealer(tokens[:, None], [400], kinds, tokens.astype(float), 4).deal(packs)
    assert found.mixed_steps == 0
    assert found.exchanged == 1
