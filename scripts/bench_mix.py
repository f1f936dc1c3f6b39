"""Measure weighing and packing a mix anew: what is drawn of stores of 10 million rows together, and its packs planned.

    python scripts/bench_mix.py --rows 10000000

Lengths are synthetic: a plan reads of a store no more than they and the kinds of media; reading them from list offsets
is left out (`vlm-prep pack` of a store takes it, too).
"""

from __future__ import annotations

import argparse
import time
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from vlm_prep.core.pack_settings import PackConfig
from vlm_prep.pack import pack_plan
from vlm_prep.pack.demands import Demands
from vlm_prep.pack.mix_rows import draw
from vlm_prep.pack.units import single_rows


def main() -> None:
    """Draw, plan, and print the seconds of both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--pack-length", type=int, default=8192)
    parser.add_argument("--world-size", type=int, default=8)
    asked = parser.parse_args()
    numbers = np.random.default_rng(0)
    rows = asked.rows
    lengths = np.clip(numbers.lognormal(6.2, 0.9, rows), 16, asked.pack_length).astype(np.int64)
    images = (numbers.random(rows) < 0.5).astype(np.int64)
    whole = Demands(
        tokens=lengths, patches=images * 1024, media=images, audio_ms=images * 0, kinds=images.astype(np.uint8)
    )
    began = time.perf_counter()
    halves = np.array_split(np.arange(rows, dtype=np.int64), 2)
    shares = zip(halves, (0.7, 0.3), strict=True)
    index = np.concatenate([draw(half, round(rows * share), str(share)) for half, share in shares])
    drawn = time.perf_counter()
    taken = Demands(**{name: getattr(whole, name)[index] for name in vars(whole)})
    vars(pack_plan)["demands_of"] = lambda store: taken
    vars(pack_plan)["units_of"] = lambda store, column: single_rows(len(taken.tokens))
    config = PackConfig(pack_length=asked.pack_length, world_size=asked.world_size, layout="index")
    plan = pack_plan.make_plan(cast(Any, SimpleNamespace()), config)
    planned = time.perf_counter()
    print(f"{rows:,} rows: drawn in {drawn - began:.1f} s, planned in {planned - drawn:.1f} s: {plan.n_packs:,} packs")


if __name__ == "__main__":
    main()
