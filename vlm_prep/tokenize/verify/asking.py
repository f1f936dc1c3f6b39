"""Rows that the generic family makes otherwise than the real processor: made again by asking it for the whole row.

Nothing is known of a processor of no family but what a few calls showed. Where rows of some shape come out wrong all
the same, the fault is ours and no reason to stop: each such row is noted with the reason `processor_differs`, as rows
are that the processor cannot take (`refusals`), and its task is done again. It is then made of one call with the row's
own text and media, its tensors are stored with it where the parts would not make them again, and it is compared. What
is not equal even so is a reject.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from vlm_prep.core.errors import Reject, RejectReason
from vlm_prep.core.records import Encoded
from vlm_prep.core.stored_media import StoredMedia
from vlm_prep.engine.tasks import Task
from vlm_prep.processors.payload.nested import Nested, kept
from vlm_prep.processors.payload.stored import store_tensor
from vlm_prep.processors.token_types import of_text
from vlm_prep.tokenize.encoder import SampleEncoder
from vlm_prep.tokenize.row_facts import row_of
from vlm_prep.tokenize.verify.choose import check_row
from vlm_prep.tokenize.verify.real_processor import Oracle

DIFFERS = RejectReason.PROCESSOR_DIFFERS
ASKED = "rows_asked_whole"
"""The note of rows that were made so."""


def asked_of(task: Task, refused: Mapping[int, Reject] | None) -> tuple[Task, frozenset[int]]:
    """Return a task without the notes of rows to ask for, and their numbers.

    Args:
        task: the rows.
        refused: rows that were found while it was done.
    """
    noted = {each.row for each in task.poison if each.reason == DIFFERS.value}
    found = {number for number, reject in (refused or {}).items() if reject.reason is DIFFERS}
    others = tuple(each for each in task.poison if each.row not in noted)
    return (replace(task, poison=others) if noted else task), frozenset(noted | found)


class Asking:
    """Makes rows by asking the whole processor.

    Args:
        encoder: the encoder whose rows differ.
        oracle: compares its rows.
    """

    def __init__(self, encoder: SampleEncoder, oracle: Oracle) -> None:
        self.encoder = encoder.asking
        self._oracle = oracle
        kinds = encoder.adapter.kinds
        self._names = {kind: {name for name, _ in encoder.adapter.part_record(kind).outputs.values()} for kind in kinds}

    def settled(self, encoded: Encoded) -> Encoded:
        """Return a document of `encoder` that is equal to what the real processor makes, with its tensors if need be.

        Raises:
            Reject: it is not equal, or the processor cannot take it.
        """
        noted = replace(encoded, notes=(*encoded.notes, ASKED))
        try:
            check_row(self._oracle, row_of(noted))
            return noted
        except Reject as reject:
            if reject.reason is not DIFFERS or not encoded.media:
                raise
            differing = reject
        real = {name: kept(value) for name, value in self._oracle.real(row_of(noted)).items() if not of_text(name)}
        if any(isinstance(value, Nested) for value in real.values()):
            raise differing  # no shard holds lists of tensors
        noted = replace(noted, media=self._with_tensors(encoded.media, real))
        check_row(self._oracle, row_of(noted))
        return noted

    def _with_tensors(self, media: Sequence[StoredMedia], real: Mapping[str, Any]) -> tuple[StoredMedia, ...]:
        """The media with all that the processor made of them, each tensor with the first of its kind."""
        held: list[list[dict[str, Any]]] = [[] for _ in media]
        for name, value in ((name, value) for name, value in real.items() if value is not None):
            kinds = [kind for kind, names in self._names.items() if name in names]
            places = [place for place, item in enumerate(media) if item["kind"] in kinds]
            held[places[0] if places else 0].append(store_tensor(name, value))
        return tuple({**item, "tensors": tensors} for item, tensors in zip(media, held, strict=True))
