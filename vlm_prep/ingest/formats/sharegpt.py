"""ShareGPT rows: turns of plain text, media in columns of their own, tags in the text where they stand.

The rules are NeMo Automodel's where it loses nothing. Where that reader does in silence (blanks and line ends around
tags and at the ends of user text, unknown roles, surplus media, tool turns), this one keeps it or rejects the row: text
is verbatim, so an indented question stays indented. Tags in system and tool turns are media as well; in
an assistant turn they stay text, since an answer may well be about the tag itself.
"""

from __future__ import annotations

from vlm_prep.core.records import Sample
from vlm_prep.ingest.formats.common import Row, required_column
from vlm_prep.ingest.formats.conversation import RowPlace, build_sample
from vlm_prep.ingest.formats.noticed import Noticed
from vlm_prep.ingest.formats.row_turns import dialect_of
from vlm_prep.ingest.spec import DatasetSpec


def to_sample(row: Row, spec: DatasetSpec, place: RowPlace, noticed: Noticed) -> Sample:
    """Turn a ShareGPT row into a Sample.

    Raises:
        Reject: the row cannot be used.
    """
    turns = required_column(row, spec, "messages", noticed)
    return build_sample(turns, row, spec, dialect_of(spec), place, noticed, ("messages",))
