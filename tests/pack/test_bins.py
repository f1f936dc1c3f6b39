"""best_fit_decreasing packs bin for bin like the plain algorithm, which is spelled out here."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence

import numpy as np
import pytest

from vlm_prep.pack.bins import Bins, best_fit_decreasing


def plain_best_fit_decreasing(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """One document at a time, longest first, into the tightest bin; of equally tight bins the earliest."""
    open_bins: list[tuple[int, int, int]] = []  # residual, turn, bin
    bins: list[list[int]] = []
    by_length = sorted((i for i, n in enumerate(lengths) if n <= capacity), key=lambda i: (-lengths[i], i))
    for turn, document in enumerate(by_length):
        length = lengths[document]
        at = bisect_left(open_bins, (length, -1, -1))
        if at == len(open_bins):
            bins.append([document])
            insort(open_bins, (capacity - length, turn, len(bins) - 1))
        else:
            residual, _, number = open_bins.pop(at)
            bins[number].append(document)
            insort(open_bins, (residual - length, turn, number))
    return bins


def as_lists(bins: Bins) -> list[list[int]]:
    return [bins.bin_rows(i).tolist() for i in range(bins.n_bins)]


def draw(rng: np.random.Generator, kind: str, n: int, capacity: int) -> np.ndarray:
    if kind == "uniform":
        return rng.integers(1, capacity + 1, n)
    if kind == "lognormal":
        return np.clip(np.exp(rng.normal(np.log(capacity) * 0.6, 1.0, n)), 1, capacity).astype(np.int64)
    if kind == "few distinct":
        return rng.choice(rng.integers(1, capacity + 1, 4), n)
    if kind == "short":
        return rng.integers(1, max(2, capacity // 8), n)
    if kind == "some too long":
        return rng.integers(1, 2 * capacity + 1, n)
    raise ValueError(kind)


@pytest.mark.parametrize("kind", ["uniform", "lognormal", "few distinct", "short", "some too long"])
@pytest.mark.parametrize("capacity", [1, 2, 7, 10, 64, 1000, 1023, 1024, 4096])
def test_random_lengths_pack_like_the_plain_algorithm(kind: str, capacity: int) -> None:
    rng = np.random.default_rng([capacity, len(kind)])
    for _ in range(12):
        lengths = draw(rng, kind, int(rng.integers(0, 300)), capacity)
        bins = best_fit_decreasing(lengths, capacity)
        assert as_lists(bins) == plain_best_fit_decreasing(lengths.tolist(), capacity)


@pytest.mark.parametrize(
    ("lengths", "capacity"),
    [
        pytest.param([6, 6, 6, 3, 3, 2, 2], 10, id="the module's example"),
        pytest.param([5] * 101, 5, id="each fills a bin"),
        pytest.param([3] * 100, 10, id="all equal with a remainder"),
        pytest.param([3] * 99, 9, id="all equal exact fits"),
        pytest.param(list(range(51, 101)), 100, id="all above half"),
        pytest.param([50] * 7, 100, id="all exactly half"),
        pytest.param([1] * 1000, 64, id="ones"),
        pytest.param([60] * 10 + [1] * 1000, 64, id="ones after long ones"),
        pytest.param([7, 3, 6, 4, 5, 5, 9, 1, 8, 2], 10, id="exact pairs"),
        pytest.param([5, 3, 4, 4, 2], 10, id="a tie between bins of other contents"),
        pytest.param([2**k for k in range(11)] * 5, 1024, id="powers of two"),
        pytest.param([1023, 1024, 1025, 2047, 2048, 1, 1] * 3, 2048, id="edges of the bitmask's words"),
        pytest.param([70_000, 65_536, 65_535, 1, 4_464, 61_072] * 4, 131_072, id="more than 16 bits"),
    ],
)
def test_adversarial_lengths_pack_like_the_plain_algorithm(lengths: list[int], capacity: int) -> None:
    bins = best_fit_decreasing(np.array(lengths), capacity)
    assert as_lists(bins) == plain_best_fit_decreasing(lengths, capacity)


@pytest.mark.parametrize("capacity", [65_534, 65_535, 65_536, 300_000])
def test_sorting_is_exact_where_lengths_need_a_second_16_bit_digit(capacity: int) -> None:
    lengths = np.random.default_rng(capacity).integers(1, capacity + 100, 2000)
    bins = best_fit_decreasing(lengths, capacity)
    assert as_lists(bins) == plain_best_fit_decreasing(lengths.tolist(), capacity)


def test_200_000_documents_pack_like_the_plain_algorithm() -> None:
    lengths = np.clip(np.random.default_rng(5).lognormal(6.2, 1.1, 200_000), 20, 8192).astype(np.int32)
    bins = best_fit_decreasing(lengths, 8192)
    expected = plain_best_fit_decreasing(lengths.tolist(), 8192)
    assert bins.n_bins == len(expected)
    assert as_lists(bins) == expected


def test_documents_are_laid_out_alike_when_they_span_several_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = np.random.default_rng(6).integers(1, 30, 5000)
    whole = best_fit_decreasing(lengths, 64)
    monkeypatch.setattr("vlm_prep.pack.bins._CHUNK", 37)
    assert np.array_equal(best_fit_decreasing(lengths, 64).rows, whole.rows)


@pytest.mark.parametrize("seed", range(20))
def test_every_document_is_in_one_bin_or_too_long_and_no_bin_overflows(seed: int) -> None:
    rng = np.random.default_rng(seed)
    capacity = int(rng.integers(1, 500))
    lengths = rng.integers(1, int(1.2 * capacity) + 2, int(rng.integers(1, 2000)))
    bins = best_fit_decreasing(lengths, capacity)

    everything = np.concatenate([bins.rows, bins.too_long])
    assert np.array_equal(np.sort(everything), np.arange(len(lengths)))
    assert np.array_equal(bins.too_long, np.flatnonzero(lengths > capacity))
    loads = [int(lengths[bins.bin_rows(i)].sum()) for i in range(bins.n_bins)]
    assert all(0 < load <= capacity for load in loads)
    assert bins.tokens == sum(loads)
    # two bins never fit into one: the later was opened because the earlier had no room for its first document
    assert bins.n_bins < 2 or sum(sorted(loads)[:2]) > capacity


def test_documents_stand_in_a_bin_from_the_longest_to_the_shortest_equal_ones_by_index() -> None:
    lengths = np.array([2, 5, 2, 3, 5, 2, 1])
    assert as_lists(best_fit_decreasing(lengths, 20)) == [[1, 4, 3, 0, 2, 5, 6]]


def test_the_dtype_of_the_lengths_changes_nothing() -> None:
    lengths = np.random.default_rng(7).integers(1, 128, 500)
    expected = as_lists(best_fit_decreasing(lengths, 100_000))
    for dtype in (np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64):
        assert as_lists(best_fit_decreasing(lengths.astype(dtype), 100_000)) == expected


def test_the_same_lengths_give_the_same_bytes_and_stay_untouched() -> None:
    lengths = np.random.default_rng(8).integers(1, 900, 3000)
    before = lengths.copy()
    one, two = best_fit_decreasing(lengths, 1000), best_fit_decreasing(lengths, 1000)
    assert one.rows.tobytes() == two.rows.tobytes()
    assert one.offsets.tobytes() == two.offsets.tobytes()
    assert np.array_equal(lengths, before)


def test_no_documents_make_no_bins() -> None:
    bins = best_fit_decreasing(np.array([], dtype=np.int32), 8)
    assert (bins.n_bins, bins.tokens, bins.fill, len(bins.rows), len(bins.too_long)) == (0, 0, 0.0, 0, 0)
    assert bins.offsets.tolist() == [0]


def test_one_document_makes_one_bin() -> None:
    bins = best_fit_decreasing(np.array([6]), 8)
    assert (as_lists(bins), bins.tokens, bins.fill) == ([[0]], 6, 0.75)
    assert all(array.dtype == np.int64 for array in (bins.rows, bins.offsets, bins.too_long))


def test_documents_longer_than_a_bin_are_named_and_not_packed() -> None:
    bins = best_fit_decreasing(np.array([9, 3, 8, 100, 5]), 8)
    assert bins.too_long.tolist() == [0, 3]
    assert as_lists(bins) == [[2], [4, 1]]
    assert (bins.tokens, bins.fill) == (16, 1.0)


def test_only_too_long_documents_make_no_bins() -> None:
    bins = best_fit_decreasing(np.array([9, 10]), 8)
    assert (bins.n_bins, bins.too_long.tolist()) == (0, [0, 1])


def test_a_bin_that_does_not_exist_is_an_index_error() -> None:
    bins = best_fit_decreasing(np.array([1, 2]), 8)
    for i in (-1, 1):
        with pytest.raises(IndexError, match=f"bin {i} of 1"):
            bins.bin_rows(i)


@pytest.mark.parametrize(
    ("lengths", "capacity", "message"),
    [
        (np.array([4, 0, 2]), 8, "document 1 has 0 tokens"),
        (np.array([4, 2, -3]), 8, "document 2 has -3 tokens"),
        (np.array([4, 2]), 0, "capacity is 0"),
        (np.array([4.0, 2.0]), 8, "not 1-D float64"),
        (np.array([[4, 2]]), 8, "not 2-D int64"),
        (np.array([4, 2], dtype=np.uint64), 8, "not 1-D uint64"),
    ],
)
def test_unusable_input_is_refused_by_name(lengths: np.ndarray, capacity: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        best_fit_decreasing(lengths, capacity)
