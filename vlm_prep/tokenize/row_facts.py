"""What a task tells of its rows one by one, for the store's record of them (`shards.row_ledger`).

In a task's record, arrays stand in base 64, so that a hundred million rows are two gigabytes of text and not of
Python's numbers. (Python's base 85 is a fifth shorter, and took 3 µs a row of each update.)
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlm_prep.core.records import Encoded, Sample
from vlm_prep.engine.tasks import Record, Task
from vlm_prep.ingest.row_digests import row_digests, sample_ids
from vlm_prep.ingest.source import Samples
from vlm_prep.media.file_state import Stats, state_of
from vlm_prep.media.gathered import OF_GATHERED
from vlm_prep.media.places import READ_OTHERWISE
from vlm_prep.shards.row_ledger import COMPARED, NO_FILES, UNKNOWN, RowLedger, TaskAccounts, joined_lists
from vlm_prep.shards.schema import BOXES, KEPT, RESCUE
from vlm_prep.tokenize.verify.choose import LABELS, UNREADABLE

ROWS = "rows"
"""Where a record's facts hold them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CopiedDocument(Encoded):
    """A document as a store has it."""

    row: Mapping[str, Any]
    """Its columns."""
    compared: Counter[str]
    """What to count of its comparison, which was made when it was written first."""


def row_of(encoded: Encoded) -> dict[str, Any]:
    """Return the columns of a tokenized store for an encoded sample."""
    if isinstance(encoded, CopiedDocument):
        return dict(encoded.row)
    return {
        "sample_id": encoded.sample_id,
        "dataset": encoded.dataset,
        "input_ids": encoded.input_ids,
        "labels": encoded.labels,
        **({} if encoded.loss_weights is None else {"loss_weights": encoded.loss_weights}),
        **encoded.geometry,
        "media": encoded.media,
        "conversation": encoded.conversation.decode(),
        KEPT: encoded.kept,
        RESCUE: encoded.rescue,
        BOXES: encoded.boxes,
    }


@dataclass
class RowFacts:
    """What is known of the rows of a task.

    Args:
        own: real paths of the source's data files.
    """

    own: frozenset[str] = frozenset()
    _known: Stats = field(default_factory=dict)
    _states: dict[int, int] = field(default_factory=dict)
    _documents: Counter[int] = field(default_factory=Counter)
    _compared: dict[int, int] = field(default_factory=dict)
    _uris: dict[int, list[str]] = field(default_factory=dict)
    _files: dict[int, list[str]] = field(default_factory=dict)
    _notes: dict[int, list[str]] = field(default_factory=dict)

    def begins(self, number: int, sample: Sample) -> None:
        """Look at the media files of a row, before they are read."""
        uris = [uri for media in sample.media for uri in media.uris]
        self._uris[number] = uris
        self._states[number] = state_of(uris, self.own, self._known)

    def rejects(self, number: int) -> None:
        """Note that a row was rejected."""
        uris = self._uris.pop(number, [])
        if self._states.get(number, NO_FILES) != NO_FILES:
            self._files[number] = uris

    def writes(self, number: int, encoded: Encoded) -> None:
        """Note a document of a row."""
        self._documents[number] += 1
        if encoded.document == 1 and encoded.notes:
            self._notes[number] = list(encoded.notes)
        uris = self._uris.pop(number, None)
        stored = [str(file["uri"]) for item in encoded.media for file in item["files"]]
        gathered = OF_GATHERED in encoded.notes and READ_OTHERWISE not in encoded.notes
        if uris and gathered and len(stored) == len(uris):
            # which files of media stores they are is looked up again; whether these are the same, their shards tell
            self._files[number] = uris
            self._states[number] = state_of(stored, self.own, self._known)
        elif READ_OTHERWISE in encoded.notes or (uris is not None and encoded.document == 1 and stored != uris):
            # the files that were read are others than the row names: which these would be today is found by reading it
            self._states[number] = UNKNOWN

    def was_compared(self, number: int, counts: Mapping[str, int]) -> None:
        """Note that a document of a row was compared with the real processor."""
        if not counts:
            return
        name = "unreadable" if counts.get(UNREADABLE) else "media and labels" if counts.get(LABELS) else "media"
        self._compared[number] = COMPARED.index(name)

    def to_json(self, task: Task) -> dict[str, Any]:
        """Return it for the task's record."""
        place = {number: at for at, number in enumerate(task.numbers)}
        return {
            "states": _text([self._states.get(number, NO_FILES) for number in task.numbers], np.int64),
            "documents": _text([self._documents[number] for number in task.numbers], np.int32),
            "compared": _text([self._compared.get(number, 0) for number in task.numbers], np.int8),
            "files": {str(place[number]): uris for number, uris in self._files.items()},
            "notes": {str(place[number]): notes for number, notes in self._notes.items()},
        }


def _text(values: Sequence[int] | NDArray[np.int64], dtype: Any) -> str:
    return base64.b64encode(np.asarray(values, dtype).tobytes()).decode()


def _array(text: str, dtype: Any) -> NDArray[np.int64]:
    return np.frombuffer(base64.b64decode(text), dtype).astype(np.int64)


def facts_json(ledger: RowLedger, start: int, stop: int) -> dict[str, Any]:
    """Return what `RowFacts.to_json` returned for rows [start, stop) of a store."""
    rows = range(start, stop)
    return {
        "states": _text(ledger.states[start:stop], np.int64),
        "documents": _text(ledger.documents[start:stop], np.int32),
        "compared": _text(ledger.compared[start:stop], np.int8),
        "files": {str(row - start): files for row in rows if (files := ledger.files[row])},
        "notes": {str(row - start): notes for row in rows if (notes := ledger.notes[row])},
    }


def ledger_of(records: Sequence[Record], digests: NDArray[np.uint8], sample_ids: Sequence[str]) -> RowLedger | None:
    """Return the record of a store's rows; None where a task knows nothing of its own (another version made it).

    Args:
        records: of all tasks, in order.
        digests: of all rows.
        sample_ids: of all rows.
    """
    found = [record.facts.get(ROWS) for record in records]
    if not all(found):
        return None
    parts = [each for each in found if each]
    documents = [_array(part["documents"], np.int32) for part in parts]
    begins = np.cumsum([0, *(len(each) for each in documents)]).tolist()
    rows = begins[-1]
    if not rows == len(digests) == len(sample_ids):
        return None
    lists: dict[str, dict[int, list[str]]] = {"files": {}, "notes": {}}
    for part, begin in zip(parts, begins, strict=False):
        for name, known in lists.items():
            known |= {int(place) + begin: value for place, value in part[name].items()}
    return RowLedger(
        digests=digests,
        sample_ids=list(sample_ids),
        documents=np.concatenate(documents),
        states=np.concatenate([_array(part["states"], np.int64) for part in parts]),
        compared=np.concatenate([_array(part["compared"], np.int8) for part in parts]),
        files=joined_lists(lists["files"], rows),
        notes=joined_lists(lists["notes"], rows),
        tasks=tuple(
            TaskAccounts(rows=len(own), shards=len(record.shards), counts=record.counts, facts=facts)
            for own, record, facts in zip(documents, records, _accounts(records), strict=True)
        ),
    )


def _accounts(records: Sequence[Record]) -> list[dict[str, Any]]:
    """The facts of each task without its rows.

    Which rows a worker found equal on its way depends on what else it had done; at the end of a run the first row of
    each of its shapes was compared, by whomever (`verify.refusals`).
    """
    accounts, seen = [], set[str]()
    for record in records:
        facts = {name: value for name, value in record.facts.items() if name != ROWS}
        firsts = facts.get("firsts", {})
        equal = sorted({number for shape, number in firsts.items() if shape not in seen})
        seen |= set(firsts)
        accounts.append({**facts, "equal": equal} if "equal" in facts else facts)
    return accounts


def write_ledger(
    samples: Samples,
    identity: Mapping[str, Any],
    records: Sequence[Record],
    folder: Path,
    known: tuple[NDArray[np.uint8], Sequence[str]] | None = None,
) -> dict[str, Any] | None:
    """Write the record of a store's rows; return what origin.json says of it.

    Args:
        samples: the source.
        identity: of the samples when the run began.
        records: of all tasks.
        folder: where it is written.
        known: digests and sample_ids of all rows.

    None, and nothing written, where the source cannot tell its rows apart, or is not what it was when the run began: a
    digest would be of another row than the one that was tokenized.
    """
    digests, ids = (row_digests(samples), None) if known is None else known
    if digests is None or samples.identity() != identity:
        return None
    ledger = ledger_of(records, digests, sample_ids(samples) if ids is None else ids)
    return None if ledger is None else ledger.write(folder)
