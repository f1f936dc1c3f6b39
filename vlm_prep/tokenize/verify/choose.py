"""Which rows are compared with the real processor, and the proof that lands in the manifest.

A row is chosen by a hash of its sample_id, so the choice is the same for any number of workers; on top of that come the
first rows of each kind of media until eight of the kind were compared (or all there are), and the first rows of each
shape (`shapes`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import xxhash

from vlm_prep.core.errors import ExactnessError, Reject, RejectReason
from vlm_prep.core.processor_record import ProcessorRecord
from vlm_prep.processors.payload.stored_video import has_sound
from vlm_prep.tokenize.verify.real_processor import Oracle, Row

ROWS_PER_KIND = 8
SHAPES_PER_KIND = 8
"""Comparisons of new shapes that a plan reckons with for each kind of media: data sets of photographs have 5 to 15."""
_SEED = 0x766C6D
LABELS = "labels:twice"
UNREADABLE = "media:unreadable"
REFUSED = (
    RejectReason.PROCESSOR_ERROR,
    RejectReason.PROCESSOR_DIFFERS,
    RejectReason.ASPECT_RATIO,
    RejectReason.LABELS_UNDECIDABLE,
)
"""Reasons of rows that the real processor raises on or makes otherwise, or whose mask is not certain; others are media
that do not decode."""


def is_chosen(sample_id: str, fraction: float) -> bool:
    """Whether a row belongs to the compared share."""
    return xxhash.xxh3_64_intdigest(sample_id.encode(), seed=_SEED) < fraction * 2**64


def media_kind(media: Sequence[Mapping[str, Any]]) -> str:
    """Return "text", "image", "video", "video with sound", "frame list", "audio" or a sum of them."""
    return "+".join(sorted({_kind(item) for item in media})) or "text"


def _kind(item: Mapping[str, Any]) -> str:
    if item["frame_list"]:
        return "frame list"
    return "video with sound" if has_sound(item) else str(item["kind"])


def check_row(oracle: Oracle, row: Row) -> Counter[str]:
    """Compare one row; return what to count: `unreadable`, or the row's kind and `labels` if they were compared.

    A header that reads and pixels that do not are a fault of the row and no difference: training would stop at it, so
    the user is told (`--check-media decode` rejects such rows beforehand).

    Raises:
        ExactnessError: it differs, with the differences.
        Reject: the real processor cannot take the row; processor_differs, when it makes another of it and the family is
            the generic one (`asking`); labels_undecidable, when its labels come out otherwise when they are found a
            second way.
    """
    try:
        compared = oracle.compare(row)
    except Reject as reject:
        if reject.reason in REFUSED:
            raise
        return Counter({UNREADABLE: 1})
    if compared.differences and compared.labels:
        # the ids are the processor's: what is uncertain is this row's mask, and a mask is never guessed
        raise Reject(
            RejectReason.LABELS_UNDECIDABLE,
            f"its labels, found in two ways, differ ({'; '.join(compared.differences)})",
        )
    if compared.differences:
        if oracle.may_ask:
            raise Reject(
                RejectReason.PROCESSOR_DIFFERS,
                f"the real processor makes another row of it: {'; '.join(compared.differences)}",
            )
        lines = "\n  ".join(compared.differences)
        raise ExactnessError(
            f"{row['sample_id']} differs from the real processor:\n  {lines}",
            "nothing of this run should be trained on; please report it with the row and the processor's name",
        )
    return Counter({media_kind(row["media"]): 1, **({LABELS: 1} if compared.labels else {})})


def proof(
    checked: Iterable[Mapping[str, int]],
    available: Mapping[str, int],
    runtime: ProcessorRecord,
    fraction: float,
    shapes: Iterable[str],
) -> dict[str, Any]:
    """Return the proof for the manifest.

    Args:
        checked: what was compared, see `check_row`.
        available: rows of each kind.
        runtime: `processor` of the manifest.
        fraction: share of rows that were compared.
        shapes: of all rows, see `shapes`: each was compared before rows of it were believed.
    """
    rows: Counter[str] = Counter()
    for counts in checked:
        rows.update(counts)
    labels, unreadable = rows.pop(LABELS, 0), rows.pop(UNREADABLE, 0)
    identity = runtime["identity"]
    return {
        "against": f"{identity['class']}, transformers {identity['transformers']}",
        "level": runtime["level"],
        "compared": ["input_ids", "labels", "media geometry", "pixels"],
        "fraction": fraction,
        "rows": dict(sorted(rows.items())),
        "of": dict(sorted(available.items())),
        "shapes": sorted(set(shapes)),
        "labels_found_twice": labels,
        "unreadable": unreadable,
        "different": 0,
    }
