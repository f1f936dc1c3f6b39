"""Some of a source's samples, by number: for a look at a source without going through all of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from vlm_prep.core.records import Rejected, Sample
from vlm_prep.ingest.raw_samples import RawSamples
from vlm_prep.ingest.source import IngestedSamples, Samples
from vlm_prep.shards.earlier import Earlier, earlier_of
from vlm_prep.shards.schema import KEPT


@dataclass(frozen=True)
class SomeSamples:
    """The samples `chosen` of `samples`, numbered anew in their order; see `source.Samples`."""

    samples: Samples
    chosen: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.chosen)

    @property
    def origin(self) -> dict[str, Any]:
        """The arguments that open the whole source."""
        return self.samples.origin

    def read(self, start: int, stop: int) -> Iterator[Sample | Rejected]:
        """Yield one output for each number in [start, stop)."""
        for number in self.chosen[start:stop]:
            yield from self.samples.read(number, number + 1)

    def reject(self, number: int, stage: str, reason: str, message: str) -> Rejected:
        """Return the reject of a number."""
        return self.samples.reject(self.chosen[number], stage, reason, message)

    def numbers(self, sample_ids: Iterable[str]) -> dict[str, int]:
        """Return the number of each sample_id."""
        place = {number: at for at, number in enumerate(self.chosen)}
        return {name: place[number] for name, number in self.samples.numbers(sample_ids).items() if number in place}

    def identity(self) -> dict[str, Any]:
        """Return what the samples are made of, and which they are."""
        return {**self.samples.identity(), "chosen": list(self.chosen)}

    def describe(self) -> list[dict[str, Any]]:
        """Return one entry for each dataset of the source."""
        return self.samples.describe()

    @property
    def data_files(self) -> frozenset[str]:
        """Real paths of the files that hold the rows."""
        return self.samples.data_files

    def first_rows(self) -> list[dict[str, Any]]:
        """Return what the first rows of each dataset give."""
        return self.samples.first_rows()


def keeps_columns(samples: Samples) -> bool:
    """Whether rows of a source bring columns of theirs with them, see `kept_columns`."""
    if isinstance(samples, SomeSamples):
        return keeps_columns(samples.samples)
    if isinstance(samples, RawSamples):
        return any(source.spec.kept for source in samples.sources)
    return isinstance(samples, IngestedSamples) and samples.has_column(KEPT)


def earlier_rejects(samples: Samples) -> Earlier:
    """Return what was rejected on the way to a source: by `ingest`, and nothing where rows are read from data files."""
    return earlier_of([samples.store]) if isinstance(samples, IngestedSamples) else Earlier()
