"""Samples in memory as a source of rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from vlm_prep.core.records import Rejected, Sample


@dataclass(frozen=True)
class Rows:
    """Samples in memory, see `ingest.source.Samples`."""

    samples: tuple[Sample, ...]
    origin: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.samples)

    def read(self, start: int, stop: int) -> Iterator[Sample | Rejected]:
        yield from self.samples[start:stop]

    def reject(self, number: int, stage: str, reason: str, message: str) -> Rejected:
        sample = self.samples[number]
        return Rejected(
            sample_id=sample.sample_id,
            dataset=sample.dataset,
            source=sample.source,
            line=sample.line,
            stage=stage,
            reason=reason,
            message=message,
        )

    def numbers(self, sample_ids: Iterable[str]) -> dict[str, int]:
        found = {sample.sample_id: number for number, sample in enumerate(self.samples)}
        return {sample_id: found[sample_id] for sample_id in sample_ids}

    def identity(self) -> dict[str, Any]:
        return {"rows": [repr(sample) for sample in self.samples]}

    @property
    def data_files(self) -> frozenset[str]:
        return frozenset()

    def first_rows(self) -> list[dict[str, Any]]:
        return []

    def describe(self) -> list[dict[str, Any]]:
        return [{"name": "rows", "rows": len(self.samples)}]
