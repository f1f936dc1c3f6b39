"""OpenAI and Hugging Face messages: content is a list of typed parts, or a plain string.

Texts are verbatim and `<image>` in a part is text, because here a part says what it is. Only a plain string
in a row that has a media column is read as in ShareGPT; there is no other way to say where the media stands.
Media comes from the part itself, or, for a bare `{"type": "image"}`, from the next entry of the column.
"""

from __future__ import annotations

from vlm_prep.core.records import Sample
from vlm_prep.ingest.formats.common import Row, column, required_column
from vlm_prep.ingest.formats.conversation import Dialect, build_sample
from vlm_prep.ingest.spec import DatasetSpec


def to_sample(row: Row, spec: DatasetSpec, *, sample_id: str, source: str, line: int) -> Sample:
    """Turn a row of messages into a Sample.

    Raises:
        Reject: the row cannot be used.
    """
    dialect = Dialect(
        role_key=spec.tag("role_tag"),
        content_key=spec.tag("content_tag"),
        roles=spec.roles,
        tags_in_text=any(column(row, spec, role) is not None for role in ("images", "videos", "audios")),
    )
    turns = required_column(row, spec, "messages")
    return build_sample(turns, row, spec, dialect, sample_id=sample_id, source=source, line=line)
