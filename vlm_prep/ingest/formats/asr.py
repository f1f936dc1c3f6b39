"""Speech recognition rows: an audio file and its transcript → one exchange.

    system    the system prompt, where there is one
    user      the user prompt, where there is one, then the audio
    assistant the transcript, verbatim

The prompts are the dataset's (`--system-prompt`, `--user-prompt`) and a blank one counts as none: NeMo Automodel's
four cases. That reader drops rows without words in silence; here each is a reject.
"""

from __future__ import annotations

from vlm_prep.core.errors import Reject, RejectReason
from vlm_prep.core.records import Media, Message, Sample
from vlm_prep.ingest.embedded import EmbeddedBytes
from vlm_prep.ingest.formats.common import Row, required_column, text
from vlm_prep.ingest.formats.conversation import RowPlace, require_storable
from vlm_prep.ingest.formats.entries import column_entries
from vlm_prep.ingest.formats.media_tags import Part
from vlm_prep.ingest.formats.noticed import Noticed, is_empty
from vlm_prep.ingest.formats.row_parts import SEGMENT_KEYS, part_of_row
from vlm_prep.ingest.spec import ASR_AUDIO, ASR_AUDIO_COLUMNS, DatasetSpec


def to_sample(row: Row, spec: DatasetSpec, place: RowPlace, noticed: Noticed) -> Sample:
    """Turn a row of audio and transcript into a Sample.

    Raises:
        Reject: the row cannot be used.
    """
    audio = _audio(row, spec, noticed)
    transcript = required_column(row, spec, "text", noticed)
    if is_empty(transcript) or not text(transcript, "the transcript").strip():
        raise Reject(RejectReason.EMPTY_TRANSCRIPT, "the transcript is empty; there is nothing to train on")
    asked = [*([_part(spec.user_prompt)] if spec.user_prompt else []), {"type": "audio"}]
    messages: list[Message] = [
        {"role": "user", "content": asked},
        {"role": "assistant", "content": [_part(transcript)]},
    ]
    if spec.system_prompt:
        messages.insert(0, {"role": "system", "content": [_part(spec.system_prompt)]})
    require_storable(messages, None, [audio])
    return Sample(
        sample_id=place.sample_id,
        dataset=spec.name,
        source=place.source,
        line=place.line,
        messages=messages,
        media=(audio,),
        notes=tuple(sorted(noticed.notes)),
        unread=noticed.unread,
    )


def _part(written: str) -> Part:
    return {"type": "text", "text": str(written)}


def _audio(row: Row, spec: DatasetSpec, noticed: Noticed) -> Media:
    found = (spec.columns["audios"],) if "audios" in spec.columns else ASR_AUDIO_COLUMNS
    # a file of several exports has several names of it
    names = found if "audios" in spec.given_columns else tuple(dict.fromkeys((*found, *ASR_AUDIO)))
    name = next((name for name in names if not is_empty(row.get(name))), None)
    if name is None and (empty := next((each for each in names if each in row), None)):
        raise Reject(RejectReason.MISSING_MEDIA, f"the audio in {empty!r} is null or empty (columns.audio)")
    if name is None:
        has = ", ".join(repr(key) for key in list(row)[:20]) or "nothing"
        wanted = " or ".join(repr(each) for each in names)
        raise Reject(RejectReason.MISSING_COLUMN, f"no audio in {wanted} (columns.audio); the row has {has}")
    value = row[name]
    is_bytes = isinstance(value.get("bytes") if isinstance(value, dict) else value, EmbeddedBytes)
    named = ASR_AUDIO_COLUMNS if is_bytes else ()  # beside bytes a path is their name
    if name != found[0] and "audios" in spec.columns:
        noticed.note("read_media_columns")
    noticed.leave("row", row, {name, *named, *spec.column_names("text"), "id", *SEGMENT_KEYS})
    entries = column_entries(value, "audio", spec.media_dir)
    if len(entries) != 1:
        raise Reject(RejectReason.MEDIA_COUNT_MISMATCH, f"{len(entries)} audio files for one transcript")
    return part_of_row(row, entries, noticed, length_alone=True)[0]
