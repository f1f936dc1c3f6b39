"""A media column that says by which tag of the text each media stands, as MiniCPM-V's does.

    {"image": {"<image_00>": "a.png", "<image_01>": "b.png"}, "conversations": [... "<image_01> or <image_00>?" ...]}

The tags of prompts become the usual ones and the column a list in their order. Each name must be in a text; a tag that
is there twice is the same media twice; one of their form that is no name has no media.
"""

from __future__ import annotations

import re
from typing import Any

from vlm_prep.core.errors import Reject, RejectReason
from vlm_prep.core.visible import excerpt
from vlm_prep.ingest.formats.common import Row
from vlm_prep.ingest.formats.media_columns import MEDIA_ROLES
from vlm_prep.ingest.formats.noticed import Noticed
from vlm_prep.ingest.spec import DatasetSpec

_NAME = re.compile(r"<[^<>]+>")
_NUMBER = re.compile(r"\d+")


def by_name(turns: list[Any], row: Row, spec: DatasetSpec, noticed: Noticed) -> tuple[list[Any], Row]:
    """Return the messages and the row with usual tags and lists in place of named ones.

    Raises:
        Reject: MEDIA_COUNT_MISMATCH, a name that no prompt has, or a tag of their form that is no name.
    """
    if not any(isinstance(value, dict) for value in row.values()):
        return turns, row  # as most are
    for kind, role in MEDIA_ROLES.items():
        for column in spec.media_names[role]:
            named = row.get(column)
            if not isinstance(named, dict) or not named or not all(_NAME.fullmatch(str(key)) for key in named):
                continue
            asked: list[str] = []
            turns = [_with_usual_tags(turn, named, f"<{kind}>", asked, spec) for turn in turns]
            if unused := [tag for tag in named if tag not in asked]:
                names = ", ".join(map(excerpt, unused))
                message = f"the column {column!r} gives media for {names}, which no text but an answer has"
                raise Reject(RejectReason.MEDIA_COUNT_MISMATCH, message)
            if others := [tag for tag in asked if tag not in named]:
                has = ", ".join(map(excerpt, named))
                message = f"a text has {excerpt(others[0])}, and the column {column!r} gives media for {has} alone"
                raise Reject(RejectReason.MEDIA_COUNT_MISMATCH, message)
            row = {**row, column: [named[tag] for tag in asked]}
            noticed.note("read_named_tags")
    return turns, row


def _with_usual_tags(turn: Any, named: dict[str, Any], usual: str, asked: list[str], spec: DatasetSpec) -> Any:
    if not isinstance(turn, dict) or any(spec.roles.get(str(turn.get(key))) == "assistant" for key in spec.role_keys):
        return turn
    tags = re.compile("|".join(sorted({_NUMBER.sub(r"\\d+", re.escape(name)) for name in named})))
    found: list[str] = []

    def said(tag: re.Match[str]) -> str:
        found.append(tag[0])
        return usual

    texts = {key: turn[key] for key in spec.content_keys if isinstance(turn.get(key), str)}
    for key, written in texts.items():  # two keys say the same, or the row is rejected for it
        found.clear()
        turn = {**turn, key: tags.sub(said, written)}
    asked += found
    return turn
