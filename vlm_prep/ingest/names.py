"""The names a user may write for formats, columns and tags, checked and brought to one spelling.

Used by `meta` for entries and flags alike. `where` begins every message: the dataset the name was written
for.
"""

from __future__ import annotations

import codecs
import math
import re
from collections.abc import Collection, Mapping
from typing import Any

from vlm_prep.core.errors import InputError
from vlm_prep.ingest.format_packages import outside_names
from vlm_prep.ingest.mapping.compiled import compiled
from vlm_prep.ingest.spec import (
    COLUMN_ALIASES,
    COLUMN_NAMES,
    DEFAULT_TAGS,
    FORMATS,
    MEDIA_COLUMN_ALIASES,
    TAG_ALIASES,
    did_you_mean,
)


def check_format(where: str, format: str | None) -> str | None:
    """Return a format's name.

    Raises:
        InputError: it is none of `FORMATS` and of no installed package.
    """
    if format is not None and format not in FORMATS and format not in (more := outside_names()):
        known = (*FORMATS, *more)
        hint = f"Formats: {', '.join(known)}; leave it out to have it detected.{did_you_mean(format, known)}"
        raise InputError(f"{where}: unknown format {format!r}", hint)
    return format


def check_mapping(where: str, format: str | None, mapping: str | None, columns: Collection[str]) -> None:
    """Check that a format by mapping has one, and that all columns that are named beside a mapping are read.

    Args:
        where: what messages begin with.
        format: what the user says.
        mapping: as canonical JSON.
        columns: the roles that the user names columns for.

    Raises:
        InputError: there is none, or the mapping itself says where such a column stands.
    """
    if mapping is None:
        if format == "mapping":
            hint = "Give `mapping` or `turns`; see docs/sources.md."
            raise InputError(f"{where}: format mapping needs a mapping", hint)
        return
    for role in columns:
        if role in compiled(mapping).media:
            what = f"{where}: the mapping and `columns` both say where {role} are"
            raise InputError(what, "Leave one of them out.")
        if role not in MEDIA_COLUMN_ALIASES and role != "id":
            what = f"{where}: columns.{role} is not read beside a mapping, which names its texts itself"
            raise InputError(what, '`turns` say others, for example: "assistant={caption}"; see docs/sources.md.')


def check_columns(where: str, columns: Mapping[str, str]) -> dict[str, str]:
    """Return column role → row key, with aliases replaced.

    Raises:
        InputError: a role does not exist or is given twice, or a key is empty.
    """
    return _check_names(f"{where}: columns", columns, known=COLUMN_NAMES, aliases=COLUMN_ALIASES)


def check_tags(where: str, tags: Mapping[str, str]) -> dict[str, str]:
    """Return tag → value, with aliases replaced.

    Raises:
        InputError: a tag does not exist or is given twice, or one value stands for two roles.
    """
    checked = _check_names(f"{where}: tags", tags, known=DEFAULT_TAGS, aliases=TAG_ALIASES)
    require_distinct_tags(where, checked)
    return checked


def require_distinct_tags(where: str, tags: Mapping[str, str]) -> None:
    """Check that role and content are two keys, and each role has its own value.

    Raises:
        InputError: two tags share a value.
    """
    seen: dict[tuple[bool, str], str] = {}
    for tag, value in tags.items():
        place = (tag in ("role_tag", "content_tag"), value)
        if place in seen:
            raise InputError(f"{where}: tags: {seen[place]} and {tag} are both {value!r}", "Give each its own.")
        seen[place] = tag


def check_choice(where: str, name: str, written: str | None, choices: tuple[str, ...]) -> Any:
    """Return one of a setting's choices, the first where none is written.

    Raises:
        InputError: it is none of them.
    """
    if written is not None and written not in choices:
        raise InputError(f"{where}: {name} is {written!r}", f"It is one of {', '.join(choices)}.")
    return written or choices[0]


def check_encoding(where: str, encoding: str | None) -> str | None:
    """Return the name of an encoding.

    Raises:
        InputError: Python knows none of this name.
    """
    if encoding is None:
        return None
    try:
        return codecs.lookup(encoding).name
    except LookupError as error:
        raise InputError(f"{where}: unknown encoding {encoding!r}", "Names are Python's: gbk, latin-1, ...") from error


def check_ratio(where: str, ratio: float) -> float:
    """Return a sample ratio.

    Raises:
        InputError: it is not a finite number above 0.
    """
    if not (math.isfinite(ratio) and ratio > 0):
        hint = "It must be a number above 0: 1 takes every row once, 0.5 half of them, 2 each twice."
        raise InputError(f"{where}: sample_ratio is {ratio}", hint)
    return float(ratio)


def check_durations(where: str, shortest: float | None, longest: float | None) -> None:
    """Check bounds of durations in seconds.

    Raises:
        InputError: one is negative or not finite, or no duration lies between them.
    """
    for name, value in (("min_duration", shortest), ("max_duration", longest)):
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise InputError(f"{where}: {name} is {value}", "It must be a number of seconds, 0 or above.")
    if shortest is not None and longest is not None and shortest > longest:
        raise InputError(
            f"{where}: min_duration {shortest:g} is more than max_duration {longest:g}", "No audio is both."
        )


def check_prompt(where: str, name: str, prompt: str | None) -> str | None:
    """Return a prompt, verbatim; None for a blank one.

    Raises:
        InputError: it holds a placeholder; the audio's place is after the prompt.
    """
    if prompt is None or not prompt.strip():
        return None
    if tag := re.search(r"<(image|video|audio)>", prompt, re.IGNORECASE):
        raise InputError(f"{where}: {name} holds {tag.group()}", "Leave it out: the audio comes after the prompt.")
    return prompt


def _check_names(
    where: str, names: Mapping[str, str], *, known: Mapping[str, object], aliases: Mapping[str, str]
) -> dict[str, str]:
    checked: dict[str, str] = {}
    for written, value in names.items():
        name = aliases.get(written, written)
        if name not in known:
            allowed = [*known, *aliases]
            raise InputError(
                f"{where}: unknown name {written!r}",
                f"Names: {', '.join(allowed)}.{did_you_mean(written, allowed)}",
            )
        if name in checked:
            raise InputError(f"{where}: {written!r} is another name for {name!r}, which is given too")
        if not value:
            raise InputError(f"{where}: {written!r} is empty", "Leave it out to use the usual name.")
        checked[name] = value
    return checked
