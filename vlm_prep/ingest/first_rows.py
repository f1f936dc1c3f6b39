"""What the first rows of a source say before a run: what is rejected, what nobody reads, and whether to start at all.

A source whose shape is not the one that was asked for would reject its rows one by one, a million times. It is found
here: `check_shape` stops where none of the first rows can be read, and names the columns that exist, what they seem to
be and the setting that reads them. `survey` is what `--dry-run` shows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from vlm_prep.core.errors import InputError, RejectReason
from vlm_prep.core.fingerprint import canonical_json
from vlm_prep.core.records import Rejected
from vlm_prep.core.visible import excerpt
from vlm_prep.ingest.derived.tar_rows import MEDIA_ENDINGS
from vlm_prep.ingest.formats.common import type_name
from vlm_prep.ingest.formats.noticed import ROW_KEYS_WITH_MEANING, looks_like_media
from vlm_prep.ingest.mapping.proposal import NOTHING_ASKED, proposed
from vlm_prep.ingest.row_source import RowSource
from vlm_prep.ingest.spec import ASR_AUDIO_COLUMNS, COLUMN_NAMES, DEFAULT_TAGS, FROM_VALUE_TAGS, MEDIA_COLUMN_ALIASES
from vlm_prep.ingest.unread_keys import Unread, count_unread

FIRST_ROWS: Final = 256
_SHAPE: Final = frozenset((RejectReason.MISSING_COLUMN.value, RejectReason.BAD_ROW.value, RejectReason.BAD_JSON.value))
_SAID: Final = 12
_PICTURES: Final = (*COLUMN_NAMES["images"], *MEDIA_COLUMN_ALIASES["images"])
_QUESTIONS: Final = ("question", "prompt", "problem", "query", "instruction", "input")
_ANSWERS: Final = ("answer", "completion", "solution", "response", "output", "caption", "text")

_PREFERENCES: Final = "It is preference data, which also says what not to answer."
_BESIDE: Final = ("input", "context", "passage")
"""Columns of what a question is about."""


@dataclass
class FirstRows:
    """What reading the first rows of a data set gave; no media file was opened."""

    dataset: str
    rows: int = 0
    rejects: Counter[str] = field(default_factory=Counter)
    examples: dict[str, Rejected] = field(default_factory=dict)
    """The first reject of each reason."""
    notes: Counter[str] = field(default_factory=Counter)
    unread: Unread = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return {
            "dataset": self.dataset,
            "rows": self.rows,
            "rejected": {
                reason: {"rows": count, "first": f"line {self.examples[reason].line}: {self.examples[reason].message}"}
                for reason, count in self.rejects.most_common()
            },
            "notes": dict(self.notes.most_common()),
            "unread_keys": self.unread.get(self.dataset, {}),
        }


def survey(source: RowSource, rows: int = FIRST_ROWS) -> FirstRows:
    """Read the first rows of a data set."""
    found = FirstRows(source.spec.name)
    for result in source.read(0, rows):
        found.rows += 1
        if isinstance(result, Rejected):
            found.rejects[result.reason] += 1
            found.examples.setdefault(result.reason, result)
        else:
            found.notes.update(result.notes)
            count_unread(found.unread, found.dataset, result.unread)
    return found


def check_shape(source: RowSource) -> None:
    """Stop where none of the first rows of a data set can be read.

    Raises:
        InputError: with the columns that there are, and the setting that reads them.
    """
    found = survey(source)
    if not found.rows or found.rejects.total() < found.rows or not _SHAPE & found.rejects.keys():
        return
    reason = found.rejects.most_common(1)[0][0]
    if not found.rejects.keys() <= _SHAPE or (found.rows == 1 and reason != RejectReason.MISSING_COLUMN):
        return  # one damaged row says nothing about a shape
    first, spec = found.examples[reason], source.spec
    row = source.first_object()
    which = "the only row" if found.rows == 1 else f"none of the first {found.rows:,} rows"
    fault = "cannot be read" if found.rows == 1 else "can be read"
    raise InputError(
        f"dataset {spec.name!r}: {which} of {spec.file_name} {fault}; line {first.line}: {reason}: {first.message}",
        None if row is None else " ".join((described(row), *suggestions(row))),
    )


def described(row: dict[str, Any]) -> str:
    """Return the columns of a row with what they hold."""
    columns = [f"{excerpt(name)} ({_kind(value)})" for name, value in list(row.items())[:_SAID]]
    more = f", and {len(row) - _SAID} more" if len(row) > _SAID else ""
    return f"Its rows have: {', '.join(columns)}{more}."


def suggestions(row: dict[str, Any]) -> list[str]:
    """Return the settings that would read a row of this shape."""
    if {"role", "content"} <= row.keys() or {"from", "value"} <= row.keys():
        return ['Its rows are messages: put the list of a conversation into an object, as {"messages": [...]}.']
    if "chosen" in row:
        return _of_preferences(row)
    if {"root", "annotation"} <= row.keys():  # InternVL's list of sets
        entry = '{"NAME": {"file_name": ANNOTATION, "media_dir": ROOT, "sample_ratio": REPEAT_TIME}}'
        return [f"It is InternVL's list of sets, which a meta JSON says as {entry} (docs/sources.md)."]
    if "preferred_output" in row and isinstance(row.get("input"), dict) and "messages" in row["input"]:  # OpenAI's
        turns = '{"turns":[{"conversation":"input.messages"},{"conversation":"preferred_output"}]}'
        return [f"{_PREFERENCES} The mapping {turns} trains what was preferred alone."]
    if not {"better_response_id", "better_response"}.isdisjoint(row):
        return [f"{_PREFERENCES} Write the better answer of each into a column of its own."]
    for name, value in row.items():
        if _is_conversation(value) and name not in ROW_KEYS_WITH_MEANING:
            return [f"`columns=messages={name}` reads the conversation."]
    sounds = [name for name in ASR_AUDIO_COLUMNS if name in row and _named_kind(row[name]) in (None, "audio")]
    if sounds and any(name in row for name in COLUMN_NAMES["text"]):
        return ["`format=asr` reads audio files and their transcripts."]
    question = next((name for name in _QUESTIONS if name in row), None)
    answer = next((name for name in _ANSWERS if isinstance(row.get(name), str)), None)
    picture = next((name for name in row if name in _PICTURES or _named_kind(row[name]) == "image"), None)
    if picture and answer:
        asked = f"{{{question}}}" if question else "Describe this image."
        turns = f"`turns` 'user=<image>{asked}' and 'assistant={{{answer}}}'"
        named = "" if picture in (*_PICTURES, "file_name") else f"`columns=images={picture}` and "
        return [f"{named}{turns} make a conversation of each row (docs/sources.md, Any table)."]
    if question and answer and not any(map(looks_like_media, row.values())):
        beside = next((name for name in _BESIDE if isinstance(row.get(name), str) and name != question), None)
        also = f"`columns=input={beside}` and " if beside else ""
        columns = f"`columns=instruction={question}`, {also}`columns=output={answer}`"
        return [f"`format=alpaca` with {columns} reads them as one exchange."]
    nested = next((name for name, value in row.items() if isinstance(value, list) and _holds_rows(value)), None)
    if nested:
        return [f"`rows_key={nested}` reads the rows under {nested!r}."]
    mapping = proposed(row)
    if mapping is None or mapping["turns"][0].get("user") == [NOTHING_ASKED]:
        return []
    written = canonical_json(mapping).decode()
    return [f"This mapping may read them, and `vlm-prep init` writes it down: {written}."]


def _named_kind(value: Any) -> str | None:
    """Return the kind of a media by its name's ending; None for anything else."""
    return MEDIA_ENDINGS.get(value.lower().rpartition(".")[2]) if isinstance(value, str) else None


def _of_preferences(row: dict[str, Any]) -> list[str]:
    """What reads a row of preference data as one of what was chosen."""
    others = " and ".join(f"`ignore_keys={name}`" for name in ("chosen", "rejected") if name in row)
    prompt = next((name for name in _QUESTIONS if name in row), None)
    how = "`columns=messages=chosen`"
    if prompt == "prompt":
        how = "`format=completion` and `columns=completion=chosen`"
    elif prompt is not None:
        how = f"`format=alpaca`, `columns=instruction={prompt}` and `columns=output=chosen`"
    return [f"{_PREFERENCES} {how}, with {others}, train what was chosen alone."]


def _kind(value: Any) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return f"a list of objects with {', '.join(map(excerpt, list(value[0])[:4]))}"
    return (
        type_name(value)
        if isinstance(value, list | dict) or value is None
        else f"{type_name(value)}, {excerpt(value, 40)}"
    )


def _is_conversation(value: Any) -> bool:
    if not isinstance(value, list) or not value or not isinstance(value[0], dict):
        return False
    return any({tags["role_tag"], tags["content_tag"]} <= value[0].keys() for tags in (DEFAULT_TAGS, FROM_VALUE_TAGS))


def _holds_rows(value: Sequence[Any]) -> bool:
    return bool(value) and isinstance(value[0], dict) and any(map(_is_conversation, value[0].values()))
