"""Several epochs in one plan: how often each has a row, in which order packs are filled, and what became of it.

A row of weight w is taken floor((e + 1) w + u) - floor(e w + u) times in epoch e, where u in [0, 1) is a hash of its
sample_id: 1.5 is once and, for half of the rows, twice; over all epochs every row is taken w times each, to within one.
It is the same for a row whatever stands beside it, and for all documents of a row.

Packs of the first epoch are those of a plan of one. For the others the rows come in another order, drawn from seed and
epoch: those of one size change places. Where few rows are of one size, sizes are rounded up as far as that costs no
pack and no step of one kind of media.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from numpy.typing import NDArray

from vlm_prep.core.errors import InputError
from vlm_prep.core.fields import did_you_mean
from vlm_prep.core.pack_settings import PackConfig
from vlm_prep.core.sides import own_name
from vlm_prep.pack.mix_filter import kept_table
from vlm_prep.shards.joined import of_rows
from vlm_prep.shards.reader import Store

Rows = NDArray[np.int64]
_MOST_TIMES = 1000
_ALIKE = 16
"""Rows of one size, on average, from which on enough of them change places."""
_GRIDS = (64, 128, 256, 512, 1024, 2048)
"""Parts of a capacity that sizes are rounded up to, the coarsest first."""


def check_epochs(config: PackConfig) -> None:
    """Refuse settings that exclude each other.

    Raises:
        InputError: `epochs` or `sample_weight` with what fixes which rows stand together.
    """
    if config.epochs > 1 and config.pack_order == "source":
        raise InputError("`epochs` with `pack_order=source`: every epoch would have the same packs", "leave one out")
    if config.sample_weight is not None and config.keep_together is not None:
        raise InputError(
            "`sample_weight` with `keep_together`: rows of other weights would stand together", "leave one out"
        )


def times_taken(store: Store, config: PackConfig) -> Rows | None:
    """Return (epochs, rows) how often each epoch has each row; None where that is once.

    Raises:
        InputError: the weight is no number, and no column of numbers that travels with the rows.
    """
    if config.sample_weight is None:
        return None
    weights = of_rows(store, lambda base: _weights(base, str(config.sample_weight)))
    place = of_rows(store, _places)
    ends = np.floor(np.arange(config.epochs + 1)[:, None] * weights + place).astype(np.int64)
    return np.asarray(np.diff(ends, axis=0), np.int64)


def _weights(store: Store, said: str) -> NDArray[np.float64]:
    try:
        weights = np.full(len(store), float(said))
    except ValueError:
        weights = _column(store, said)
    if not ((weights >= 0) & (weights <= _MOST_TIMES)).all():
        raise InputError(
            f"`sample_weight={said}`: expected numbers from 0 to {_MOST_TIMES} for all rows of {store.folder}",
            "1.5 takes each row once, and a half of them twice",
        )
    return weights


def _column(store: Store, name: str) -> NDArray[np.float64]:
    kept = kept_table(store)
    if name not in kept.column_names:
        known = kept.column_names
        raise InputError(
            f"`sample_weight={name}`: {store.folder} has no column {name!r} that travels with its rows",
            f"tokenize with `keep_column={name}`; it has: {', '.join(known) or 'none'}.{did_you_mean(name, known)}",
        )
    column = kept.column(name)
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        raise InputError(f"`sample_weight={name}`: the column holds {column.type}, expected numbers")
    return np.asarray(pc.fill_null(column.cast(pa.float64()), np.nan))


def _places(store: Store) -> NDArray[np.float64]:
    """Return (rows,) u of each row, a multiple of 2**-53 below 1."""
    names = (name for shard in store.shards for name in shard.column("sample_id").to_pylist())
    hashes = (xxhash.xxh3_64_intdigest(own_name(str(name)).encode()) >> 11 for name in names)
    return np.fromiter(hashes, np.float64, len(store)) / 2**53


def in_epoch(members: Rows, times: Rows | None, config: PackConfig, epoch: int) -> Rows:
    """Return units as often as an epoch has them, in its order."""
    if times is not None:
        members = np.repeat(members, times[epoch][members])
    if not epoch:
        return members
    draws = np.random.PCG64(np.random.SeedSequence(config.pack_seed, spawn_key=(epoch,))).random_raw(len(members))
    return members[np.argsort(draws, kind="stable")]


def rounded_up(demands: Rows, capacities: Sequence[int]) -> Iterator[Rows]:
    """Yield demands in coarser and coarser sizes, the coarsest first and at last as they are.

    Args:
        demands: (n, k) of each row, each within the capacities.
        capacities: (k,) of a pack.
    """
    if len(demands) < _ALIKE * len(np.unique(demands[:, 0])):
        for parts in _GRIDS:
            grid = np.maximum(1, np.asarray(capacities) // parts)
            yield np.minimum(-(-demands // grid) * grid, capacities)
    yield demands


def epoch_numbers(epochs: Sequence[Sequence[Rows]], rows: int) -> dict[str, Any]:
    """Return what the manifest says of epochs.

    Args:
        epochs: the rows of each pack of each.
        rows: of the store.

    Returns:
        packs and documents of each epoch; times_taken: {times: rows} over all of them, as texts, rejected rows under
        "0"; mates_again: of the pairs of documents that share a pack in later epochs, the share that did in the first.
    """
    taken = np.bincount(np.concatenate([pack for packs in epochs for pack in packs]), minlength=rows)
    times, counts = np.unique(taken, return_counts=True)
    first = _pack_of(epochs[0], rows)
    again = pairs = 0
    for packs in epochs[1:]:
        of = np.repeat(np.arange(len(packs)), [len(pack) for pack in packs])
        known = first[np.concatenate(packs)]
        _, together = np.unique((of * len(epochs[0]) + known)[known >= 0], return_counts=True)
        again += _pairs(together)
        pairs += _pairs(np.bincount(of))
    return {
        "packs": [len(packs) for packs in epochs],
        "documents": [sum(map(len, packs)) for packs in epochs],
        "times_taken": {str(each): int(count) for each, count in zip(times, counts, strict=True)},
        "mates_again": round(again / pairs, 4) if pairs else 0.0,
    }


def _pack_of(packs: Sequence[Rows], rows: int) -> Rows:
    found = np.full(rows, -1, np.int64)
    for number, pack in enumerate(packs):
        found[pack] = number
    return found


def _pairs(counts: Rows) -> int:
    return int((counts * (counts - 1) // 2).sum())
