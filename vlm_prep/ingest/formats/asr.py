"""Speech recognition rows: an audio file and its transcript → one exchange.

    system    the system prompt, where there is one
    user      the user prompt, where there is one, then the audio
    assistant the transcript, verbatim

The prompts are the dataset's (`--system-prompt`, `--user-prompt`) and a blank one counts as none: NeMo Automodel's
four cases. That reader drops rows without words in silence; here each is a reject.
"""

from __future__ import annotations

from dataclasses import replace

from vlm_prep.core.errors import Reject, RejectReason
from vlm_prep.core.records import Media, Message, Sample
from vlm_prep.ingest.formats.common import Row, required_column, text
from vlm_prep.ingest.formats.conversation import RowPlace, require_storable
from vlm_prep.ingest.formats.entries import SEGMENT_ENDS, SEGMENT_STARTS, column_entries, segment_of
from vlm_prep.ingest.formats.media_tags import Part
from vlm_prep.ingest.formats.noticed import Noticed, is_empty, is_nan
from vlm_prep.ingest.spec import ASR_AUDIO_COLUMNS, DatasetSpec
from vlm_prep.media.files import split_uri


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
    names = (spec.columns["audios"],) if "audios" in spec.columns else ASR_AUDIO_COLUMNS
    name = next((name for name in names if not (row.get(name) is None or is_nan(row[name]))), None)
    if name is None:
        has = ", ".join(repr(key) for key in list(row)[:20]) or "nothing"
        wanted = " or ".join(repr(each) for each in names)
        raise Reject(RejectReason.MISSING_COLUMN, f"no audio in {wanted} (columns.audio); the row has {has}")
    noticed.leave("row", row, {name, *spec.column_names("text"), "id", *SEGMENT_STARTS, *SEGMENT_ENDS, "duration"})
    entries = column_entries(row[name], "audio", spec.media_dir)
    if len(entries) != 1:
        raise Reject(RejectReason.MEDIA_COUNT_MISMATCH, f"{len(entries)} audio files for one transcript")
    return _part_of_file(row, entries[0])


def _part_of_file(row: Row, audio: Media) -> Media:
    """Return the part of its file that a row's columns name. Bytes in a cell are the part already, and there the
    columns say where it was cut from."""
    if split_uri(audio.uris[0])[1] is not None:
        return audio
    start, end = segment_of(row, "the row")
    if (start, end) == (None, None):
        return audio
    if (audio.start, audio.end) not in ((None, None), (start, end)):
        raise Reject(RejectReason.BAD_MEDIA_ENTRY, "the row and its audio entry name two parts of the file")
    return replace(audio, start=start, end=end)
