"""OpenAI and Hugging Face messages: content is a list of typed parts, or a plain string.

Texts are verbatim and `<image>` in a part is text, because here a part says what it is. Only a plain string in a row
that has a media column is read as in ShareGPT: there is no other way to say where the media stands. So is a row of
plain strings alone, unless the user named this format: the file's first row does not say what its others are.
Media comes from the part itself, or, for a bare `{"type": "image"}`, from the next entry of the column.
"""

from __future__ import annotations

from typing import Any

from vlm_prep.core.records import Sample
from vlm_prep.ingest.formats.common import Row, required_column
from vlm_prep.ingest.formats.conversation import RowPlace, build_sample
from vlm_prep.ingest.formats.media_columns import has_media_column
from vlm_prep.ingest.formats.noticed import Noticed
from vlm_prep.ingest.formats.row_turns import dialect_of
from vlm_prep.ingest.spec import DatasetSpec


def to_sample(row: Row, spec: DatasetSpec, place: RowPlace, noticed: Noticed) -> Sample:
    """Turn a row of messages into a Sample.

    Raises:
        Reject: the row cannot be used.
    """
    turns = required_column(row, spec, "messages", noticed)
    has_tags = has_media_column(row, spec) or not (spec.is_given_format or _has_parts(turns, spec))
    dialect = dialect_of(spec, tags_in_text=has_tags)
    return build_sample(turns, row, spec, dialect, place, noticed, ("messages",))


def _has_parts(turns: Any, spec: DatasetSpec) -> bool:
    """Whether the content of a message is a list or an object."""
    return isinstance(turns, list) and any(
        isinstance(turn.get(key), list | dict) for turn in turns if isinstance(turn, dict) for key in spec.content_keys
    )
