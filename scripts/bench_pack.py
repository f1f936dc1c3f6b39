"""Measure the plan of packs beside the ways of others, on the same lengths, and the deal into steps.

    python scripts/bench_pack.py            about two minutes, 2 GiB
    python scripts/bench_pack.py --small    a smoke run

Others, one document at a time: best-fit-decreasing with a heap of bins per residual; the greedy knapsack of NeMo
Automodel (longest first into the emptiest bin, else a new one); first-fit in the order of the data, as in TRL's and
axolotl's packers. They get their lengths as a list of Python integers; making that list is not counted. Seconds are
those of the CPU.
"""

from __future__ import annotations

import argparse
import heapq
import resource
import time
from bisect import bisect_left, insort
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlm_prep.pack.bins import best_fit_decreasing, plan_moves
from vlm_prep.pack.capacities import pack_within
from vlm_prep.pack.lockstep import Dealer, by_pack, step_numbers
from vlm_prep.pack.lower_bounds import fewest_bins, lower_bounds

SHORTEST = 20
PATCHES_PER_TOKEN = 4


def draw_lengths(n: int, capacity: int, seed: int) -> NDArray[np.int32]:
    """Draw (n,) int32 document lengths, log-normal around 500 tokens, cut to 20..capacity."""
    lengths = np.random.default_rng(seed).lognormal(mean=6.2, sigma=1.1, size=n)
    return np.clip(lengths, SHORTEST, capacity).astype(np.int32)


def draw_mixed(n: int, capacity: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Draw (n, 2) tokens and patches, and (n,) kinds: 3 rows in 10 are text, 1 a video, 1 an audio, the others one
    picture of 64 to 1,500 tokens.
    """
    draw = np.random.default_rng(seed)
    text = np.clip(draw.lognormal(5.5, 1.0, n), SHORTEST, capacity // 4)
    kinds = draw.choice(np.array([0, 1, 2, 4], np.uint8), n, p=(0.3, 0.5, 0.1, 0.1))
    media = np.where((kinds == 1) | (kinds == 2), draw.integers(8, 40, n) * draw.integers(8, 40, n), 0)
    tokens = np.minimum(text + media, capacity)
    return np.stack([tokens, PATCHES_PER_TOKEN * media], axis=1).astype(np.int64), kinds


def heap_best_fit_decreasing(lengths: list[int], capacity: int) -> tuple[int, int]:
    """Place documents of 1..capacity tokens one by one; return how many bins there are, and documents in them."""
    bins, placed = 0, 0
    by_residual: dict[int, int] = {}
    residuals: list[int] = []  # the keys of by_residual, ascending
    for length in sorted(lengths, reverse=True):
        at = bisect_left(residuals, length)
        if at == len(residuals):
            residual, bins = capacity, bins + 1
        else:
            residual = residuals[at]
            by_residual[residual] -= 1
            if not by_residual[residual]:
                del by_residual[residual], residuals[at]
        if residual > length:
            if residual - length not in by_residual:
                by_residual[residual - length] = 0
                insort(residuals, residual - length)
            by_residual[residual - length] += 1
        placed += 1
    return bins, placed


def greedy_knapsack(lengths: list[int], capacity: int) -> tuple[int, int]:
    """Put each document, longest first, into the emptiest bin if it fits there; return as the first does."""
    loads: list[int] = []
    placed = 0
    for length in sorted(lengths, reverse=True):
        if loads and loads[0] + length <= capacity:
            heapq.heapreplace(loads, loads[0] + length)
        else:
            heapq.heappush(loads, length)
        placed += 1
    return len(loads), placed


def first_fit(lengths: list[int], capacity: int) -> tuple[int, int]:
    """Put each document, in the order of the data, into the first bin that has room; return as the first does."""
    size = 1 << max(1, len(lengths) - 1).bit_length()
    most = [0] * size + [capacity] * size  # a tree of the largest room below each node; leaves are bins
    for node in range(size - 1, 0, -1):
        most[node] = capacity
    used = placed = 0
    for length in lengths:
        node = 1
        while node < size:
            node = 2 * node if most[2 * node] >= length else 2 * node + 1
        used = max(used, node - size + 1)
        most[node] -= length
        while node > 1:
            node //= 2
            most[node] = max(most[2 * node], most[2 * node + 1])
        placed += 1
    return used, placed


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """Return what `work` returns, and the CPU seconds it took."""
    begin = time.process_time()
    return work(), time.process_time() - begin


def report(name: str, n: int, seconds: float, n_bins: int, least: int, lost: int) -> None:
    """Print one line of figures; `lost` rows of `n` are in no pack."""
    figures = f"{n:>13,} rows {seconds:>8.3f} CPU s {n_bins:>11,} packs  {least / n_bins:8.4%} of the bound"
    print(f"{name:<34} {figures}, {lost:,} rows lost", flush=True)


def one_capacity(many: int, few: int, capacity: int, seed: int) -> None:
    """Tokens alone: ours, and the others on fewer rows."""
    lengths = draw_lengths(many, capacity, seed)
    bins, seconds = timed(lambda: best_fit_decreasing(lengths, capacity))
    report("vlm-prep", many, seconds, bins.n_bins, fewest_bins(lengths, capacity), many - len(bins.rows))
    lengths = draw_lengths(few, capacity, seed + 1)
    least = fewest_bins(lengths, capacity)
    bins, ours = timed(lambda: best_fit_decreasing(lengths, capacity))
    report("vlm-prep", few, ours, bins.n_bins, least, few - len(bins.rows))
    as_list = lengths.tolist()
    others = {
        "plain best-fit-decreasing": heap_best_fit_decreasing,
        "greedy knapsack": greedy_knapsack,
        "first-fit": first_fit,
    }
    for name, way in others.items():
        (count, placed), seconds = timed(lambda way=way: way(as_list, capacity))  # type: ignore[misc]
        report(f"{name} ({seconds / ours:.0f}x ours)", few, seconds, count, least, few - placed)


def histogram_alone(count: int, capacity: int, seed: int) -> None:
    """So many lengths, of which only the histogram is kept."""

    def plan() -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
        histogram = np.zeros(capacity + 1, np.int64)
        chunk = draw_lengths(min(count, 10_000_000), capacity, seed)
        for start in range(0, count, len(chunk)):
            histogram += np.bincount(chunk[: count - start], minlength=capacity + 1)
        return histogram, *plan_moves(histogram)

    (histogram, moves, n_bins), seconds = timed(plan)
    least = -(-int(histogram @ np.arange(capacity + 1)) // capacity)
    report("vlm-prep, histogram", count, seconds, n_bins, least, count - int(moves[:, 1] @ moves[:, 2]))


def several_capacities(n: int, capacity: int, seed: int) -> None:
    """Tokens and patches, patches looser and looser, and media and documents besides."""
    demands, kinds = draw_mixed(n, capacity, seed)
    demands = np.stack([*demands.T, kinds > 0, np.ones(n, np.int64)], axis=1)
    for others in ((12_000,), (16_000,), (24_000,), (20_000, 7), (20_000, 9, 40), (20_000, 9, 24), (20_000, 9, 16)):
        capacities, of = (capacity, *others), np.ascontiguousarray(demands[:, : 1 + len(others)])
        bins, seconds = timed(lambda capacities=capacities, of=of: pack_within(of, capacities))  # type: ignore[misc]
        bounds = lower_bounds(of[bins.rows], capacities)
        name = "tokens, " + "/".join(f"{each:,}" for each in others)
        report(name, n, seconds, bins.n_bins, max(bounds), n - len(bins.rows))
        names = ("tokens", "patches", "media", "documents")
        by = ", ".join(f"{bound:,} by {name}" for name, bound in zip(names, bounds, strict=False))
        print(f"{'':<34} at least {by}")


def steps(n: int, capacity: int, seed: int) -> None:
    """Packs of tokens and patches in steps of 8 ranks."""
    demands, kinds = draw_mixed(n, capacity, seed)
    capacities = (capacity, 24_000)
    bins = pack_within(demands, capacities)
    packs = [bins.bin_rows(number) for number in range(bins.n_bins)]
    cost = demands[:, 0] + 1.3e-5 * demands[:, 0] ** 2.0 + 0.09 * demands[:, 1]
    deal, seconds = timed(lambda: Dealer(demands, capacities, kinds, cost, 8).deal(packs))
    for name, order in (("dealt in lockstep", deal.packs), ("in the order of the bins", packs)):
        numbers = step_numbers(by_pack(kinds, order, np.bitwise_or), by_pack(cost, order, np.add), 8)
        spread = numbers["cost_spread"]
        print(
            f"{name:<34} {numbers['steps']:,} steps of 8 ranks, {numbers['mixed_steps']:,} mixed, cost of a step's "
            f"packs differs by {spread['median']:.2%} (median), {spread['p99']:.2%} (p99)"
        )
    mended = f"{deal.exchanged} documents exchanged, {deal.split} packs split, {deal.levelled} steps levelled"
    print(f"{'':<34} {seconds:.2f} CPU s, {mended}")


def main() -> None:
    """Parse the command line and print the figures."""
    parser = argparse.ArgumentParser(description="Measure the plan of packs beside the ways of others.")
    parser.add_argument("--small", action="store_true", help="100,000 and 20,000 lengths, a smoke run")
    parser.add_argument("--capacity", type=int, default=8192, help="tokens in a pack (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the lengths (default: %(default)s)")
    options = parser.parse_args()
    if options.capacity < SHORTEST:
        parser.error(f"--capacity is at least {SHORTEST}")
    many, few, mixed, most = (
        (100_000, 20_000, 20_000, 1_000_000) if options.small else (10_000_000, 1_000_000, 1_000_000, 1_000_000_000)
    )
    one_capacity(many, few, options.capacity, options.seed)
    histogram_alone(most, options.capacity, options.seed)
    several_capacities(many, options.capacity, options.seed)
    steps(mixed, options.capacity, options.seed)
    print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MiB at most")


if __name__ == "__main__":
    main()
