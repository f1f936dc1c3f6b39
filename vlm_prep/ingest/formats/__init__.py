"""One parsed row → Sample, or a Reject that says what is wrong with the row.

Pure functions: no media file is opened, and nothing but `Reject` is raised whatever the row holds. In reading
order:

    sharegpt      turns with text; <image> and <video> in the text stand for the media columns' entries
    messages      OpenAI and Hugging Face messages, whose content is a list of typed parts
    alpaca        instruction, input, output, history: written as messages, then read as sharegpt
    pairs         hub tables of user and assistant texts, or of prompt and completion
    asr           an audio file and its transcript
    by_package    rows of a format from outside (`ingest.format_packages`)
    by_mapping    any table, by a mapping that says what its columns are (`ingest.mapping`)
    letter_case   keys in other letter case
    row_format    the format of a row in a file whose rows have several
    conversation  what the first three share: a row's messages, in any of the spellings → Sample
    row_turns     one message
    message_media media beside the text of their message
    usual_turns   messages as the APIs of Anthropic and Gemini write them, before they are read
    langchain     messages as LangChain writes them
    content_parts content that is a list of typed parts
    media_tags    which media stands where, and that the counts agree
    media_columns the row's media columns
    media_words   columns that are media by what they hold
    spelt_tags    numbered placeholders, and other models'
    named_tags    a media column that says by which tag each media stands
    entries       one entry of a media column → Media
    entry_options which options of an entry are refused, and the part of its file that it names
    row_parts     the part of a file that the row itself names
    tool_calls    tool schemas and tool calls
    common        columns of a row, types, and per-message options
    noticed       what is noticed on the way: unread keys, other spellings
"""

from __future__ import annotations

from typing import Any

from vlm_prep.core.errors import Reject, RejectReason
from vlm_prep.core.records import Sample
from vlm_prep.ingest.formats import alpaca, asr, by_mapping, by_package, messages, pairs, sharegpt
from vlm_prep.ingest.formats.common import shown
from vlm_prep.ingest.formats.conversation import RowPlace
from vlm_prep.ingest.formats.letter_case import KEY_CASE, row_of_usual_case
from vlm_prep.ingest.formats.media_words import with_media_words
from vlm_prep.ingest.formats.noticed import Noticed
from vlm_prep.ingest.formats.row_format import spec_of_row
from vlm_prep.ingest.formats.usual_turns import of_gemini
from vlm_prep.ingest.spec import DatasetSpec

__all__ = ["to_sample"]

_CONVERT = {
    "sharegpt": sharegpt.to_sample,
    "messages": messages.to_sample,
    "alpaca": alpaca.to_sample,
    "texts": pairs.texts_to_sample,
    "completion": pairs.completion_to_sample,
    "asr": asr.to_sample,
    "mapping": by_mapping.to_sample,
}


_BOXES = frozenset(("objects",))
"""Columns of boxes that tokenize reads where they travel with their rows, see `tokenize.boxes`."""


def to_sample(row: object, spec: DatasetSpec, *, sample_id: str, source: str, line: int) -> Sample:
    """Turn a parsed row into a Sample by the rules of the dataset's format.

    Raises:
        Reject: the row cannot be used, with its code and what to change.
    """
    place, noticed = (
        RowPlace(sample_id=sample_id, source=source, line=line),
        Noticed(frozenset(spec.ignore_keys) | _BOXES.intersection(spec.kept)),
    )
    if spec.is_outside and isinstance(row, dict):
        return by_package.to_sample(row, spec, place, noticed)
    if _is_conversation(row) and not spec.is_outside:
        noticed.note("read_bare_messages")
        row = {"messages": row}
    if not isinstance(row, dict):
        raise Reject(RejectReason.BAD_ROW, f"the row is {shown(row)}, not an object")
    fields: dict[str, Any] = of_gemini(usual := row_of_usual_case(row, spec))
    if usual is not row:
        noticed.note(KEY_CASE)
    spec = spec_of_row(fields, spec, noticed)
    fields = with_media_words(fields, spec, noticed)
    return _CONVERT[spec.format or "sharegpt"](fields, spec, place, noticed)


def _is_conversation(row: object) -> bool:
    """Whether a row is its messages themselves, in no column."""
    return (
        isinstance(row, list)
        and bool(row)
        and all(isinstance(each, dict) and not {"role", "from"}.isdisjoint(each) for each in row)
    )
