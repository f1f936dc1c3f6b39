"""Measure the packing plan: 10 million lengths, then 1 million beside a plain best-fit-decreasing.

    python scripts/bench_pack.py            about 3 seconds, 350 MiB
    python scripts/bench_pack.py --small    a smoke run

The plain algorithm places one document at a time: a heap of bins per residual and a sorted list of the
residuals in use. It gets its lengths as a list of Python integers; making that list is not counted.
"""

from __future__ import annotations

import argparse
import time
from bisect import bisect_left, insort
from heapq import heappop, heappush

import numpy as np
from numpy.typing import NDArray

from vlm_prep.pack.bins import Bins, best_fit_decreasing

SHORTEST = 20


def draw_lengths(n: int, capacity: int, seed: int) -> NDArray[np.int32]:
    """Draw (n,) int32 document lengths, log-normal around 500 tokens, cut to 20..capacity."""
    lengths = np.random.default_rng(seed).lognormal(mean=6.2, sigma=1.1, size=n)
    return np.clip(lengths, SHORTEST, capacity).astype(np.int32)


def heap_best_fit_decreasing(lengths: list[int], capacity: int) -> list[list[int]]:
    """Place documents of 1..capacity tokens one by one and return the document indices of each bin."""
    bins: list[list[int]] = []
    by_residual: dict[int, list[int]] = {}
    residuals: list[int] = []  # the keys of by_residual, ascending
    for document in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        length = lengths[document]
        at = bisect_left(residuals, length)
        if at == len(residuals):
            number, residual = len(bins), capacity
            bins.append([])
        else:
            residual = residuals[at]
            number = heappop(by_residual[residual])
            if not by_residual[residual]:
                del by_residual[residual], residuals[at]
        bins[number].append(document)
        if residual > length:
            if residual - length not in by_residual:
                by_residual[residual - length] = []
                insort(residuals, residual - length)
            heappush(by_residual[residual - length], number)
    return bins


def timed_plan(lengths: NDArray[np.int32], capacity: int) -> tuple[Bins, float]:
    """Plan the bins and return them with the seconds it took."""
    begin = time.perf_counter()
    bins = best_fit_decreasing(lengths, capacity)
    return bins, time.perf_counter() - begin


def report(name: str, n: int, seconds: float, n_bins: int, fill: float) -> None:
    """Print one line of figures."""
    print(f"{name:<26} {n:>12,} lengths  {seconds:>8.3f} s  {n_bins:>10,} bins  fill {fill:.6%}", flush=True)


def main() -> None:
    """Parse the command line and print the figures."""
    parser = argparse.ArgumentParser(description="Measure the packing plan against a plain algorithm.")
    parser.add_argument("--small", action="store_true", help="100,000 and 20,000 lengths, a smoke run")
    parser.add_argument("--capacity", type=int, default=8192, help="tokens in a bin (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the lengths (default: %(default)s)")
    options = parser.parse_args()
    if options.capacity < SHORTEST:
        parser.error(f"--capacity is at least {SHORTEST}")
    many, few = (100_000, 20_000) if options.small else (10_000_000, 1_000_000)

    bins, seconds = timed_plan(draw_lengths(many, options.capacity, options.seed), options.capacity)
    report("vlm-prep", many, seconds, bins.n_bins, bins.fill)

    lengths = draw_lengths(few, options.capacity, options.seed + 1)
    bins, seconds = timed_plan(lengths, options.capacity)
    report("vlm-prep", few, seconds, bins.n_bins, bins.fill)

    as_list = lengths.tolist()
    begin = time.perf_counter()
    plain = heap_best_fit_decreasing(as_list, options.capacity)
    plain_seconds = time.perf_counter() - begin
    plain_fill = sum(as_list) / (len(plain) * options.capacity)
    report("plain best-fit-decreasing", few, plain_seconds, len(plain), plain_fill)
    print(f"ratio {plain_seconds / seconds:.1f}, bins {bins.n_bins - len(plain):+d}")


if __name__ == "__main__":
    main()
