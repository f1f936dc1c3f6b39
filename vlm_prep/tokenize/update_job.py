"""Tokenizing rows of which the store that is updated has some: these are copied, with their new sample_ids, or encoded
again with their media as the store knows them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from vlm_prep.core.errors import Reject, RejectReason
from vlm_prep.core.records import Encoded, Sample
from vlm_prep.shards.reader import Store
from vlm_prep.shards.row_ledger import COMPARED
from vlm_prep.shards.schema import KEPT, LOSS_WEIGHTS, RESCUE
from vlm_prep.tokenize.known_media import KnownMedia, KnownRow
from vlm_prep.tokenize.probe_rows import RowProbe
from vlm_prep.tokenize.row_facts import CopiedDocument
from vlm_prep.tokenize.tokenize_job import TokenizeJob
from vlm_prep.tokenize.verify.choose import LABELS, UNREADABLE, media_kind


@dataclass(frozen=True, kw_only=True)
class CopiedRow:
    """What the store knows of a row of the source."""

    first: int
    """Number in the store of its first document."""
    documents: int
    notes: tuple[str, ...] = ()
    compared: int = 0
    reject: tuple[str, str] | None = None
    """(reason, message) of a row that was rejected."""


@dataclass
class UpdateJob(TokenizeJob):
    """Tokenizes rows, and copies those that a store has.

    Args:
        folder: the store.
        rows: {number in the source: what the store knows of it} of rows that are copied.
        media: of rows that are not, and whose media are as they were, see `KnownMedia`.
    """

    folder: Path = field(kw_only=True)
    rows: Mapping[int, CopiedRow] = field(kw_only=True, repr=False)
    media: Mapping[str, KnownRow] = field(kw_only=True, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "folder": self.folder, "rows": self.rows, "media": self.media}

    def stored(self, number: int, sample: Sample) -> Sequence[Encoded] | None:
        """See `TokenizeJob.stored`.

        Raises:
            Reject: the store rejected the row.
        """
        known = self.rows.get(number)
        if known is None:
            return None
        if known.reject is not None:
            reason, message = known.reject
            raise Reject(RejectReason(reason), message)
        return list(self._copied(known, sample))

    @cached_property
    def _media(self) -> RowProbe:
        return KnownMedia(self.config, self.samples.data_files, self.folder, self.media)

    @cached_property
    def _store(self) -> Store:
        return Store(self.folder, stage="tokenize")

    def _copied(self, known: CopiedRow, sample: Sample) -> Iterator[Encoded]:
        for place in range(known.documents):
            row = self._store.row(known.first + place)
            suffix = f"~{place + 1}" if known.documents > 1 else ""
            name = sample.sample_id + suffix
            row = {RESCUE: "", **row, "sample_id": name, KEPT: sample.kept}
            compared: Counter[str] = Counter()
            if known.compared and COMPARED[known.compared] == "unreadable":
                compared[UNREADABLE] = 1
            elif known.compared:
                compared[media_kind(row["media"])] = 1
                compared.update({LABELS: 1} if COMPARED[known.compared] == "media and labels" else {})
            yield CopiedDocument(
                sample_id=name,
                dataset=sample.dataset,
                input_ids=row["input_ids"],
                labels=row["labels"],
                loss_weights=row.get(LOSS_WEIGHTS),
                document=place + 1,
                notes=known.notes if place == 0 else (),
                media=tuple(row["media"]),
                kept=sample.kept,
                rescue=row.get(RESCUE, ""),
                conversation=row["conversation"].encode(),
                row=row,
                compared=compared,
            )
