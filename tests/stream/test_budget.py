"""Batches by tokens: within the budget, every row once, the same number for all ranks, resumable anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

from vlm_prep.core.errors import StoreError
from vlm_prep.stream import PadCollate, ShardDataset, State, TokenBudget

BUDGET = 64
ROWS = 60


@pytest.fixture
def path(stores: Any, make_sample: Any) -> Path:
    """60 rows of 1 to 40 tokens."""
    lengths = np.random.default_rng(0).integers(1, 41, ROWS)
    return Path(stores.tokenized([make_sample(number, int(length)) for number, length in enumerate(lengths)]))


def sampler_for(path: Path, rank: int = 0, world: int = 1, **options: Any) -> TokenBudget:
    return TokenBudget(ShardDataset(path, rank, world, **options), BUDGET, window=16)


def rows_of(sampler: TokenBudget) -> list[list[int]]:
    """The store rows of each batch of an epoch."""
    return [[pick.row for pick in batch] for batch in sampler]


def all_ranks(path: Path, world: int, **options: Any) -> list[list[int]]:
    """The batches of an epoch put together from all ranks."""
    ranks = [rows_of(sampler_for(path, rank, world, **options)) for rank in range(world)]
    assert len({len(rank) for rank in ranks}) == 1
    return [batch for step in zip(*ranks, strict=True) for batch in step]


def test_a_batch_with_its_padding_stays_within_the_budget(path: Path) -> None:
    dataset = ShardDataset(path)
    sampler = TokenBudget(dataset, BUDGET, pad_to_multiple_of=8)
    collate = PadCollate(shift=False, pad_to_multiple_of=8)
    loader = DataLoader(dataset, batch_sampler=sampler, collate_fn=collate)
    sizes = [batch["input_ids"].numel() for batch in loader]
    assert 0 < max(sizes) <= BUDGET


def test_batches_are_as_full_as_their_lengths_allow(path: Path) -> None:
    lengths = ShardDataset(path).lengths()
    batches = rows_of(TokenBudget(ShardDataset(path), 400, window=ROWS))
    fill = sum(lengths[batch].sum() for batch in batches) / (len(batches) * 400)
    assert fill > 0.75


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_every_row_comes_once_and_padding_repeats_the_first_batches(path: Path, world: int) -> None:
    alone, together = all_ranks(path, 1), all_ranks(path, world)
    assert sorted(row for batch in alone for row in batch) == list(range(ROWS))
    assert together[: len(alone)] == alone
    assert together[len(alone) :] == alone[: len(together) - len(alone)]
    assert len(together) - len(alone) < world


def test_dropping_leaves_out_less_than_a_step(path: Path) -> None:
    alone = all_ranks(path, 1)
    assert all_ranks(path, 4, remainder="drop") == alone[: len(alone) // 4 * 4]


def test_the_length_is_the_number_of_batches(path: Path) -> None:
    for rank in range(3):
        sampler = sampler_for(path, rank, 3)
        assert len(sampler) == len(rows_of(sampler))


def test_epochs_and_seeds_batch_differently(path: Path) -> None:
    sampler = sampler_for(path)
    first, second = rows_of(sampler), rows_of(sampler)
    assert first != second
    assert rows_of(sampler_for(path, seed=1)) != first
    assert rows_of(sampler_for(path, epoch=1)) == second


@pytest.mark.parametrize("old", [1, 2, 3])
@pytest.mark.parametrize("new", [1, 2, 4])
def test_a_run_goes_on_on_another_world_size(path: Path, old: int, new: int) -> None:
    alone = all_ranks(path, 1)
    saved = sampler_for(path, 0, old).state(batches=3).to_json()
    ranks = []
    for rank in range(new):
        sampler = sampler_for(path, rank, new)
        sampler.resume(State.from_json(saved))
        ranks.append(rows_of(sampler))
    rest = [batch for step in zip(*ranks, strict=True) for batch in step]
    left = alone[3 * old :]
    assert rest[: len(left)] == left
    assert len(rest) - len(left) < new


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("steps", [0, 1, 5])
def test_a_stateful_loader_goes_on_in_its_epoch(path: Path, workers: int, steps: int) -> None:
    def loader() -> Any:
        dataset = ShardDataset(path, epoch=1)
        return StatefulDataLoader(
            dataset, batch_sampler=TokenBudget(dataset, BUDGET, window=16), num_workers=workers, collate_fn=_ids
        )

    whole = list(loader())
    first = loader()
    batches = iter(first)
    trained = [next(batches) for _ in range(steps)]
    resumed = loader()
    resumed.load_state_dict(first.state_dict())
    assert trained + list(resumed) == whole


def _ids(items: list[dict[str, Any]]) -> list[str]:
    return [item["sample_id"] for item in items]


def test_a_state_at_the_end_leaves_nothing_of_the_epoch(path: Path) -> None:
    sampler = sampler_for(path, 0, 2)
    sampler.resume(sampler.state(batches=len(sampler)))
    assert (len(sampler), rows_of(sampler)) == (0, rows_of(sampler_for(path, 0, 2, epoch=1)))


def test_states_of_another_budget_are_refused(path: Path) -> None:
    state = sampler_for(path).state(batches=2)
    with pytest.raises(StoreError, match="tokens"):
        TokenBudget(ShardDataset(path), BUDGET * 2, window=16).resume(state)
    with pytest.raises(StoreError, match="another store"):
        ShardDataset(path).resume(state)


def test_a_row_longer_than_the_budget_is_refused(path: Path) -> None:
    with pytest.raises(ValueError, match="more than max_tokens 8"):
        TokenBudget(ShardDataset(path), 8)


def test_packs_have_lengths_in_all_layouts(stores: Any) -> None:
    source = stores.tokenized(24)
    for path in (stores.ranks(12, 4), stores.index(12, 4, source)):
        dataset = ShardDataset(path, shuffle=False)
        assert dataset.lengths().tolist() == [len(dataset[index]["input_ids"]) for index in range(12)]


@pytest.fixture
def mixed(tokenized: Path) -> Path:
    """40 rows: text, pictures, videos, both."""
    return tokenized


def in_lockstep(path: Path, rank: int = 0, world: int = 1, **options: Any) -> TokenBudget:
    return TokenBudget(ShardDataset(path, rank, world, **options), 1600, window=16, max_rows=3, lockstep=2)


@pytest.mark.parametrize("epoch", [0, 1])
def test_in_lockstep_the_batches_of_a_step_have_the_same_kinds_of_media(mixed: Path, epoch: int) -> None:
    kinds = ShardDataset(mixed).kinds()
    first, second = (rows_of(in_lockstep(mixed, rank, 2, epoch=epoch)) for rank in range(2))
    of_ranks = [[set(kinds[batch].tolist()) for batch in rank] for rank in (first, second)]
    whole = [pair for pair in zip(*of_ranks, strict=True) if pair[0] == pair[1] and len(pair[0]) == 1]
    assert len(first) - len(whole) <= 1  # one row with picture and video is alone of its kind
    assert {row for batch in (*first, *second) for row in batch} == set(range(len(kinds)))


def test_in_lockstep_every_row_comes_once_and_no_batch_has_more_rows_than_asked(mixed: Path) -> None:
    batches = rows_of(in_lockstep(mixed))
    assert sorted(row for batch in batches for row in batch) == list(range(40))
    assert max(map(len, batches)) <= 3


def test_in_lockstep_a_run_goes_on_on_another_world_size(mixed: Path) -> None:
    alone = rows_of(in_lockstep(mixed))
    saved = in_lockstep(mixed, 0, 2).state(batches=3).to_json()
    resumed = in_lockstep(mixed)
    resumed.resume(State.from_json(saved))
    assert rows_of(resumed) == alone[6:]


def test_a_world_size_that_does_not_divide_the_step_is_refused(mixed: Path) -> None:
    with pytest.raises(ValueError, match="lockstep 2 is not a multiple of the world size 3"):
        in_lockstep(mixed, 0, 3)


def test_kinds_of_packs_are_those_of_their_media(packed: Path, packed_index: Path) -> None:
    names = ("image", "video", "audio")
    for path in (packed, packed_index):
        dataset = ShardDataset(path, shuffle=False)
        kinds = dataset.kinds()
        for row in range(len(kinds)):
            item = dataset[row]
            wanted = sum(1 << bit for bit, name in enumerate(names) if item.get(f"n_{name}s", 0))
            assert kinds[row] == wanted
