"""The rows of data files by number, see `source.Samples`: one dataset after the other, or mixed."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlm_prep.core.records import Rejected, Sample
from vlm_prep.ingest.first_rows import survey
from vlm_prep.ingest.interleave import Mix
from vlm_prep.ingest.row_source import RowSource


@dataclass(frozen=True)
class RawSamples:
    """The rows of one or more data files, one dataset after the other."""

    sources: tuple[RowSource, ...]
    origin: dict[str, Any] = field(default_factory=dict, compare=False)
    """How to open them again, see `open_samples`."""

    def __len__(self) -> int:
        return sum(len(source) for source in self.sources)

    def read(self, start: int, stop: int) -> Iterator[Sample | Rejected]:
        """See `Samples.read`."""
        begins = np.cumsum([0, *(len(source) for source in self.sources)]).tolist()
        number = bisect_right(begins, start) - 1
        while start < stop:
            end = min(stop, begins[number + 1])
            yield from self.sources[number].read(start - begins[number], end - begins[number])
            start, number = end, number + 1

    def locate(self, number: int) -> tuple[RowSource, int]:
        """Return a number's data set, and its place in it."""
        begins = np.cumsum([0, *(len(source) for source in self.sources)]).tolist()
        place = bisect_right(begins, number) - 1
        return self.sources[place], number - begins[place]

    def reject(self, number: int, stage: str, reason: str, message: str) -> Rejected:
        """See `Samples.reject`."""
        source, place = self.locate(number)
        return source.reject(place, stage, reason, message)

    def numbers(self, sample_ids: Iterable[str]) -> dict[str, int]:
        """See `Samples.numbers`."""
        wanted, found, begin = set(sample_ids), {}, 0
        for source in self.sources:
            for place in source.places(wanted):
                found[source.sample_id(place)] = begin + place
            begin += len(source)
        return found

    def identity(self) -> dict[str, Any]:
        """See `Samples.identity`."""
        return {"datasets": [{**source.describe(), "xxh3": source.content_digest()} for source in self.sources]}

    def describe(self) -> list[dict[str, Any]]:
        """See `Samples.describe`."""
        return [source.describe() for source in self.sources]

    @property
    def data_files(self) -> frozenset[str]:
        """See `Samples.data_files`."""
        return frozenset(path for source in self.sources for path in source.data_files)

    def first_rows(self) -> list[dict[str, Any]]:
        """See `Samples.first_rows`."""
        return [survey(source).to_json() for source in self.sources]


@dataclass(frozen=True)
class MixedSamples(RawSamples):
    """The rows of several datasets in the order of a mix; each source's picks are taken one after the other."""

    mix: Mix | None = None
    order: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64), compare=False)
    """(rows,) number of each row's source."""

    def __len__(self) -> int:
        return len(self.order)

    @cached_property
    def _places(self) -> NDArray[np.int64]:
        """(rows,) place of each row among its source's picks."""
        places = np.empty(len(self.order), np.int64)
        for number in range(len(self.sources)):
            own = self.order == number
            places[own] = np.arange(int(own.sum()))
        return places

    def read(self, start: int, stop: int) -> Iterator[Sample | Rejected]:
        """See `Samples.read`."""
        order, places = self.order[start:stop], self._places[start:stop]
        readers: dict[int, Iterator[Sample | Rejected]] = {}
        for number in np.unique(order).tolist():
            own = places[order == number]
            readers[number] = self.sources[number].read(int(own[0]), int(own[-1]) + 1)
        for number in order.tolist():
            yield next(readers[number])

    def locate(self, number: int) -> tuple[RowSource, int]:
        """Return a number's data set, and its place in it."""
        return self.sources[int(self.order[number])], int(self._places[number])

    def numbers(self, sample_ids: Iterable[str]) -> dict[str, int]:
        """See `Samples.numbers`."""
        wanted = set(sample_ids)
        found: dict[str, int] = {}
        for index, source in enumerate(self.sources):
            places = source.places(wanted)
            if places:
                own = np.flatnonzero(self.order == index)
                found.update((source.sample_id(place), int(own[place])) for place in places if place < len(own))
        return found

    def identity(self) -> dict[str, Any]:
        """See `Samples.identity`."""
        return {**super().identity(), "mix": None if self.mix is None else self.mix.to_json(), "rows": len(self)}
