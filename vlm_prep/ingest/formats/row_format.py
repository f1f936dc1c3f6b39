"""The format of one row in a file whose rows have several: conversations, questions with answers, speech.

The data set's format is that of its first row. A row without the column that it needs is read in another form, if it
has that one's columns and the user named neither the format nor such a column: nothing else can be meant.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from vlm_prep.core.errors import Reject, RejectReason
from vlm_prep.core.visible import excerpt
from vlm_prep.ingest.formats.common import Row
from vlm_prep.ingest.formats.noticed import Noticed, is_empty
from vlm_prep.ingest.spec import ASR_AUDIO, COLUMN_NAMES, MEDIA_COLUMN_ALIASES, QUERY_COLUMNS, DatasetSpec, Format

_PAIRS: Final[tuple[Mapping[str, str], ...]] = (
    {role: COLUMN_NAMES[role][0] for role in ("instruction", "output")},
    QUERY_COLUMNS,
)
_NEEDED: Final = {"alpaca": "instruction", "texts": "texts", "completion": "completion", "asr": "text"}
"""Format → the column without which a row is not of it; of others it is the messages."""
_BESIDE: Final = frozenset((*MEDIA_COLUMN_ALIASES, "tools", "system", "id", "input", "history"))
"""Roles of columns that rows of several forms have."""


def spec_of_row(row: Row, spec: DatasetSpec, noticed: Noticed) -> DatasetSpec:
    """Return how a row is read: as the data set's first, or in another form."""
    needed = _needed(spec)
    if spec.is_given_format or spec.format == "mapping" or not spec.given_columns <= _BESIDE:
        return spec
    if needed != "messages":
        _require_no_messages(row, needed, spec, noticed)
    if isinstance(first := row.get(spec.column_names(needed)[0]), list | str) and first:
        return spec  # as most are
    if any(not is_empty(row.get(name)) for name in spec.column_names(needed)):
        return spec
    found = _other(row, spec)
    if found is not spec:
        noticed.note("read_other_format")
    return found


def _needed(spec: DatasetSpec) -> str:
    return _NEEDED.get(spec.format or "", "messages")


def _require_no_messages(row: Row, needed: str, spec: DatasetSpec, noticed: Noticed) -> None:
    """Refuse a row that is a conversation, too: had it been its file's first, it would be read as that.

    Raises:
        Reject: BAD_ROW.
    """
    own = spec.column_names(needed)[0]
    for name in COLUMN_NAMES["messages"]:
        if not row.get(name) or name in noticed.ignored or not isinstance(row[name], list) or is_empty(row.get(own)):
            continue
        both = f"{own!r} ({excerpt(row[own])}) and {name!r} ({excerpt(row[name])})"
        how = f"`format` says how all rows are read, `ignore_keys={name}` reads the row without"
        raise Reject(RejectReason.BAD_ROW, f"the columns {both} are two conversations; {how}")


def _other(row: Row, spec: DatasetSpec) -> DatasetSpec:
    """Return the one other way in which a row can be read; the data set's own where there is none, or are several."""
    forms = _forms(row)
    if not forms:
        own = spec.column_names(_needed(spec))[0] in row  # an empty text in its own column is what it says
        forms = [form for form in _forms(row, or_empty=True) if not (own and form[0] == spec.format)]
    has_prompts = (spec.system_prompt, spec.user_prompt) != (None, None)
    return spec if len(forms) != 1 or has_prompts else _made(spec, *forms[0])


def _forms(row: Row, *, or_empty: bool = False) -> list[tuple[Format, Mapping[str, str]]]:
    """Return the forms that a row has the columns of, `or_empty` of a question or its answer alone."""

    def has(*names: str) -> bool:
        empty = [name for name in names if is_empty(row.get(name))]
        return not empty or (or_empty and len(empty) < len(names) and all(row.get(name) == "" for name in empty))

    forms: list[tuple[Format, Mapping[str, str]]] = [("alpaca", each) for each in _PAIRS if has(*each.values())]
    told = [row[name] for name in COLUMN_NAMES["messages"] if has(name)]
    forms += (("messages" if _has_parts(each) else "sharegpt", {}) for each in told)
    if has("texts") and isinstance(row["texts"], list):
        forms.append(("texts", {}))
    if has("prompt", "completion"):
        forms.append(("completion", {}))
    if any(map(has, ASR_AUDIO)) and any(map(has, COLUMN_NAMES["text"])):
        forms.append(("asr", {}))
    return forms


def _made(spec: DatasetSpec, kind: Format, columns: Mapping[str, str]) -> DatasetSpec:
    key = kind, tuple(columns.values())
    found = spec.other_forms.get(key)
    if found is None:
        own = {role: name for role, name in spec.columns.items() if role in spec.given_columns}
        found = spec.other_forms[key] = replace(spec, format=kind, columns={**own, **columns})
    return found


def _has_parts(turns: Any) -> bool:
    return isinstance(turns, list) and any(
        isinstance(turn, dict) and isinstance(turn.get("content"), list) for turn in turns
    )
