"""Mixes: in which order the rows of several datasets follow each other, drawn by shares.

The draw is that of `datasets.interleave_datasets`: blocks of 1000 numbers of numpy's default_rng(seed), each dataset
read from its beginning again when it is at its end, until every dataset (all_exhausted) or the first one
(first_exhausted) has given each of its rows. So a mix has the rows that the library's own has, in that order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, cast, get_args

import numpy as np
from numpy.typing import NDArray

from vlm_prep.core.errors import InputError
from vlm_prep.core.records import Sample
from vlm_prep.core.settings import MixStop
from vlm_prep.core.visible import excerpt
from vlm_prep.ingest.row_source import RowSource
from vlm_prep.ingest.sampling import occurrences
from vlm_prep.ingest.spec import did_you_mean

SEED: Final = 42
_BLOCK: Final = 1000
_KEYS: Final = ("shares", "stop", "seed", "limit", "only_readable")


@dataclass(frozen=True, kw_only=True)
class Mix:
    """How datasets are mixed."""

    shares: tuple[float, ...]
    """Of each dataset; they sum up to 1."""
    names: tuple[str, ...] = ()
    """The datasets in the order in which their shares are written, on which the draw depends."""
    stop: MixStop = "all_exhausted"
    seed: int = SEED
    limit: int | None = None
    """Most rows of the mix."""
    only_readable: bool = False
    """Rows that are rejects by themselves are no part of the draw: all rows are read once to tell them, and they come
    last."""

    def to_json(self) -> dict[str, Any]:
        """Return what the order depends on."""
        found = {"shares": list(self.shares), "stop": self.stop, "seed": self.seed}
        return (
            found
            | ({"limit": self.limit} if self.limit else {})
            | ({"only_readable": True} if self.only_readable else {})
        )


def read_mix(where: str, written: Any, flags: Mapping[str, Any], names: Sequence[str]) -> Mix | None:
    """Return how the datasets of a source are mixed, None where nothing is said of it.

    Args:
        where: what messages begin with.
        written: under `mix` in a meta JSON or a preset.
        flags: mix, mix_stop and mix_seed, which come first.
        names: the datasets.

    Raises:
        InputError: it cannot be used.
    """
    if written is None and not flags:
        return None
    said: dict[str, Any] = dict(written or {})
    for key in said:
        if key not in _KEYS:
            raise InputError(f"{where}: mix: unknown key {excerpt(key)}", f"It may have: {', '.join(_KEYS)}.")
    said |= {
        key: flags[name]
        for key, name in (("shares", "mix"), ("stop", "mix_stop"), ("seed", "mix_seed"))
        if name in flags
    }
    shares = said.get("shares")
    if not isinstance(shares, Mapping) or not shares:
        raise InputError(f"{where}: a mix without shares", "Say one of each dataset: `mix` talks=0.8 and text=0.2.")
    for name in shares:
        if name not in names:
            raise InputError(
                f"{where}: mix: no dataset {excerpt(name)}",
                f"There are: {', '.join(names)}.{did_you_mean(str(name), names)}",
            )
    names = [*shares, *(name for name in names if name not in shares)]
    values = [shares.get(name, 0) for name in names]
    if not all(isinstance(each, int | float) and 0 < each < math.inf for each in values):
        raise InputError(
            f"{where}: mix: each dataset needs a share above 0, found {dict(zip(names, values, strict=True))}",
            "Leave a dataset out by `datasets`.",
        )
    stop, seed, limit = said.get("stop", "all_exhausted"), said.get("seed", SEED), said.get("limit")
    if stop not in get_args(MixStop):
        raise InputError(f"{where}: mix: stop is {excerpt(stop)}", f"It is one of {', '.join(get_args(MixStop))}.")
    if not isinstance(seed, int) or not (limit is None or (isinstance(limit, int) and limit > 0)):
        raise InputError(f"{where}: mix: seed and limit are whole numbers, found {excerpt(seed)} and {excerpt(limit)}")
    total = sum(values)
    return Mix(
        shares=tuple(float(each) for each in values)
        if abs(total - 1) < 1e-9
        else tuple(each / total for each in values),
        names=tuple(names),
        stop=cast(MixStop, stop),
        seed=seed,
        limit=limit,
        only_readable=said.get("only_readable") is True,
    )


def draw_order(lengths: Sequence[int], mix: Mix) -> NDArray[np.int64]:
    """Return which dataset each row of a mix is of, int64 of shape (rows,).

    Args:
        lengths: rows of each dataset, above 0.
        mix: how they are mixed.
    """
    random = np.random.default_rng(mix.seed)
    left = np.array(lengths, dtype=np.int64)
    blocks: list[NDArray[np.int64]] = []
    while True:
        block = random.choice(len(lengths), size=_BLOCK, p=mix.shares).astype(np.int64)
        ends = [_nth(block == source, int(left[source])) for source in range(len(lengths))]
        left = left - np.bincount(block, minlength=len(lengths))
        blocks.append(block)
        if mix.stop == "first_exhausted" and any(end is not None for end in ends):
            end = min(end for end in ends if end is not None)
        elif mix.stop == "all_exhausted" and bool((left <= 0).all()):
            end = max(end for end in ends if end is not None)
        else:
            continue
        blocks[-1] = block[: end + 1]
        return np.concatenate(blocks)


def _nth(found: NDArray[np.bool_], count: int) -> int | None:
    """Return the place of the count-th True; None where there are fewer, or none was left to find."""
    if count <= 0:
        return None
    places = np.flatnonzero(found)
    return int(places[count - 1]) if len(places) >= count else None


def mixed(sources: Sequence[RowSource], mix: Mix) -> tuple[tuple[RowSource, ...], NDArray[np.int64]]:
    """Return sources whose picks are those that a mix takes of them, and the source of each row.

    Raises:
        InputError: a dataset has no rows that can be drawn.
    """
    chosen, rest = [], []
    for source in sources:
        readable = _readable(source) if mix.only_readable else np.ones(len(source), np.bool_)
        if not readable.any():
            raise InputError(
                f"dataset {source.spec.name!r}: no row of {source.spec.file_name} can be mixed",
                "Leave it out by `datasets`.",
            )
        chosen.append(source.picks[readable])
        rest.append(source.picks[~readable])
    order = draw_order([len(each) for each in chosen], mix)[: mix.limit]
    taken = []
    for number, (source, picks, others) in enumerate(zip(sources, chosen, rest, strict=True)):
        drawn = picks[np.arange(int((order == number).sum())) % len(picks)]
        picks = np.concatenate([drawn, others]) if mix.limit is None else drawn
        taken.append(replace(source, picks=picks, repeats=occurrences(picks)))
    if mix.limit is None:
        order = np.concatenate([order, *(np.full(len(each), number, np.int64) for number, each in enumerate(rest))])
    return tuple(taken), order


def _readable(source: RowSource) -> NDArray[np.bool_]:
    return np.fromiter((isinstance(each, Sample) for each in source.read(0, len(source))), np.bool_, len(source))
