"""Layouts of hub tables in which the turns stand in pairs, and no text says where the media are: they come first.

    texts       the-cauldron, FineVision: images, texts [{user, assistant, source}]
    completion  TRL's prompt-completion: prompt [messages], completion [messages]; the prompt is not trained. Either may
                be a text: then it is the user's, or the assistant's, unless it is JSON of messages (CSV)

Both are written as messages and read by the rules of `conversation`. Media without a placeholder are put before the
first user text, as those data sets' own readers do (Idefics' and TRL's `prepare_multimodal_messages`), and counted.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, Final

from vlm_prep.core.errors import Reject, RejectReason
from vlm_prep.core.records import Sample
from vlm_prep.ingest.formats.common import Row, parsed_json, required_column, shown
from vlm_prep.ingest.formats.conversation import RowPlace, build_sample
from vlm_prep.ingest.formats.noticed import Noticed
from vlm_prep.ingest.formats.row_turns import Dialect, dialect_of
from vlm_prep.ingest.spec import DatasetSpec

_PAIR: Final = Dialect(role_keys=("role",), content_keys=("content",), roles={"user": "user", "assistant": "assistant"})
_MESSAGES: Final = re.compile(r"""\s*+\[?+\s*+\{\s*+["'](?:role|from|content|value)["']\s*+:""")
"""How messages as JSON begin, or one of them."""
_READ_OF_A_PAIR: Final = frozenset(("user", "assistant"))


def texts_to_sample(row: Row, spec: DatasetSpec, place: RowPlace, noticed: Noticed) -> Sample:
    """Turn a row of pairs of texts into a Sample.

    Raises:
        Reject: the row cannot be used.
    """
    pairs = required_column(row, spec, "texts", noticed)
    if not isinstance(pairs, list):
        raise Reject(RejectReason.BAD_TYPE, f"the texts are {shown(pairs)}, not a list of {{user, assistant}}")
    turns: list[Row] = []
    for number, pair in enumerate(pairs, 1):
        if not isinstance(pair, dict) or not pair.keys() >= _READ_OF_A_PAIR:
            what = f"text {number} is {shown(pair)}, not an object with user and assistant"
            raise Reject(RejectReason.BAD_TYPE, what)
        noticed.leave("text", pair, _READ_OF_A_PAIR)
        turns += ({"role": role, "content": pair[role]} for role in ("user", "assistant"))
    return build_sample(turns, row, spec.media_first, _PAIR, place, noticed, ("texts",))


def completion_to_sample(row: Row, spec: DatasetSpec, place: RowPlace, noticed: Noticed) -> Sample:
    """Turn a row of prompt and completion messages into a Sample.

    Raises:
        Reject: the row cannot be used.
    """
    prompt, completion = (_messages(row, spec, role, noticed) for role in ("prompt", "completion"))
    # TRL trains the completion alone: its completion_only_loss
    turns = [{**turn, "train": False} if isinstance(turn, dict) else turn for turn in prompt]
    spec = spec.media_first
    sample = build_sample(turns + completion, row, spec, dialect_of(spec), place, noticed, ("prompt", "completion"))
    messages = [
        {key: value for key, value in message.items() if key != "train" or message["role"] == "assistant"}
        for message in sample.messages
    ]
    return replace(sample, messages=messages)


def _messages(row: Row, spec: DatasetSpec, role: str, noticed: Noticed) -> list[Any]:
    value = required_column(row, spec, role, noticed)
    if isinstance(value, dict):
        return [value]
    if isinstance(value, str) and (told := _told(value, spec, f"the {role} is", noticed)):
        return told
    if isinstance(value, str):
        noticed.note("read_completion_text")
        speaker = "user_tag" if role == "prompt" else "assistant_tag"
        return [{spec.tag("role_tag"): spec.tag(speaker), spec.tag("content_tag"): value}]
    if not isinstance(value, list):
        raise Reject(RejectReason.BAD_TYPE, f"the {role} is {shown(value)}, not a list of messages or a text")
    return value


def _told(written: str, spec: DatasetSpec, what: str, noticed: Noticed) -> list[Any] | None:
    """Return the messages, or the one, that a text is as JSON; None for any other, which may begin as a list does.

    Raises:
        Reject: BAD_JSON or DUPLICATE_KEY, it begins as messages do.
    """
    if not _MESSAGES.match(written):
        return None
    found = parsed_json(written, what, noticed, lenient=spec.lenient_json)
    return found if isinstance(found, list) else [found]
