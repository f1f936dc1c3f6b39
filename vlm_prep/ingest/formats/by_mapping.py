"""Rows of any table, by a mapping (`ingest.mapping`): it makes messages and names media, the rest is as for all rows.

A column that the mapping does not read is counted like any key that nobody reads. Seconds beside a video or audio
(`start`, `offset`, ...) that it does not name still reject the row, since the media would be taken whole.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

from vlm_prep.core.records import Sample
from vlm_prep.ingest.formats.common import Row
from vlm_prep.ingest.formats.conversation import RowPlace, build_sample
from vlm_prep.ingest.formats.entry_options import RATE_KEYS
from vlm_prep.ingest.formats.media_columns import MEDIA_ROLES
from vlm_prep.ingest.formats.noticed import SEGMENT_KEYS_WITH_MEANING, Noticed
from vlm_prep.ingest.formats.row_parts import SEGMENT_KEYS
from vlm_prep.ingest.formats.row_turns import Dialect
from vlm_prep.ingest.mapping.compiled import compiled
from vlm_prep.ingest.mapping.turn_rules import ROLES, Turn
from vlm_prep.ingest.spec import DatasetSpec

_DIALECT: Final = Dialect(
    role_keys=("role",), content_keys=("content",), roles={role: role for role in ROLES}, tags_in_text=False
)

_CARRIED: Final = frozenset((*SEGMENT_KEYS_WITH_MEANING, "duration", *RATE_KEYS))
"""Keys of a row that say something of its media, whatever the mapping says."""


def to_sample(row: Row, spec: DatasetSpec, place: RowPlace, noticed: Noticed) -> Sample:
    """Turn a row into a Sample by the data set's mapping.

    Raises:
        Reject: the row has not what the mapping says, or it cannot be used.
    """
    mapping, mapped = compiled(spec.mapping or ""), spec.mapped
    found = mapping.apply(row, place.sample_id, lenient=spec.lenient_json)
    noticed.notes |= found.notes
    made: Row = {}
    for role, names in mapped.media_names.items():
        made |= {role: found.media[role]} if role in found.media else {name: row[name] for name in names if name in row}
    if mapping.shared:
        made = _shared(made, found.turns, mapped)
    made |= {key: row[key] for key in row if key in _CARRIED and key not in mapping.names}
    if found.tools is not None:
        made["tools"] = found.tools
    sample = build_sample(found.turns, made, mapped, _DIALECT, place, noticed, ())
    parts = any(each.start is not None or each.end is not None for each in sample.media)
    read = spec.keys_mapped | SEGMENT_KEYS if parts else spec.keys_mapped
    noticed.leave("row", row, read.union(RATE_KEYS) if any(each.fps for each in sample.media) else read)
    return sample


def _shared(made: Row, turns: list[Turn], spec: DatasetSpec) -> Row:
    """Return the columns with one media as often as tags ask for it."""
    asked = Counter(part["type"] for turn in turns for part in turn["content"] if len(part) == 1)
    for kind, role in MEDIA_ROLES.items():
        for name in {role, *spec.media_names[role]} & made.keys():
            value: Any = made[name]
            alone = value if isinstance(value, list) else [value]
            if len(alone) == 1 and alone[0] is not None and asked[kind] > 1:
                made[name] = alone * asked[kind]
    return made
