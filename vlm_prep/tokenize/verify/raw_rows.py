"""What a raw row says, read a second way: for rows of the plainest forms, by twenty lines that know no setting.

The comparison with the real processor starts from the conversation that was stored; that it is the row's own is seen
here. Rows of any other form (columns of media, tags in texts, tools, reasoning, options) are not judged.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from vlm_prep.core.errors import ExactnessError, Reject
from vlm_prep.core.records import Encoded, Message
from vlm_prep.ingest.raw_samples import RawSamples
from vlm_prep.ingest.source import Samples
from vlm_prep.tokenize.chat.template import ChatTemplate

_KEYS = ({"role", "content"}, {"from", "value"})
_ROLES = {"human": "user", "gpt": "assistant", "user": "user", "assistant": "assistant", "system": "system"}
_TAGGED = ("<image", "<video", "<audio", "<think", "<tool")


def plain_messages(raw: str) -> list[Message] | None:
    """Return the messages of a raw row as `apply_chat_template` would be given them; None for other forms."""
    try:
        row = json.loads(raw)
    except ValueError:
        return None
    if not isinstance(row, dict) or set(row) - {"id"} not in ({"messages"}, {"conversations"}):
        return None
    messages = row.get("messages", row.get("conversations"))
    if not isinstance(messages, list) or not all(isinstance(each, dict) and set(each) in _KEYS for each in messages):
        return None
    said: list[Message] = []
    for each in messages:
        role, content = each.get("role", each.get("from")), each.get("content", each.get("value"))
        if not isinstance(role, str) or role not in _ROLES or not _is_plain(content):
            return None
        said.append({"role": _ROLES[role], "content": content})
    return said


def _is_plain(content: Any) -> bool:
    if isinstance(content, str):
        return not any(tag in content for tag in _TAGGED)
    return isinstance(content, list) and all(
        isinstance(part, dict) and set(part) == {"type", "text"} and part["type"] == "text" and _is_plain(part["text"])
        for part in content
    )


def require_own_words(samples: Samples, number: int, encoded: Encoded, template: ChatTemplate) -> None:
    """Compare a document with its raw row, if that is plain: what the template makes of both.

    Raises:
        ExactnessError: the stored conversation is not what the row says.
    """
    if not isinstance(samples, RawSamples) or encoded.media or encoded.notes or not template.findings.strings:
        return
    source, place = samples.locate(number)
    spec = source.spec
    if spec.tables or spec.given_tags or spec.given_columns or spec.mapping or spec.encoding or spec.lenient_json:
        return
    if spec.system_prompt is not None or spec.user_prompt is not None:
        return
    said = plain_messages(source.raw(place))
    if said is None:
        return
    stored = json.loads(encoded.conversation)["messages"]
    beginning = said[: len(stored)]
    # transformers' processors hand an empty list to the template in place of an empty text
    given = [{**each, "content": each["content"] or []} for each in beginning]
    if _rendered(template, stored) != (text := _rendered(template, given)) and text is not None:
        raise ExactnessError(
            f"{encoded.sample_id}: the conversation that would be stored is not what its row says:\n  "
            f"stored {json.dumps(stored)[:400]}\n  row    {json.dumps(beginning)[:400]}",
            "nothing of this run should be trained on; please report it with the row",
        )


def _rendered(template: ChatTemplate, messages: Sequence[Message]) -> str | None:
    try:
        return template.render(messages)
    except Reject:
        return None
