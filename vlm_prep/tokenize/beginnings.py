"""Beginnings of a conversation: where it may be cut, and which media stand in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vlm_prep.core.records import Media, Message, Sample


def cuts(messages: Sequence[Message], limit: int, turn_ends: dict[int, int]) -> list[int]:
    """Return the assistant messages after which the conversation may be cut, longest first.

    Those whose end lies past the limit even before placeholders are expanded are left out.
    """
    answers = [index for index, message in enumerate(messages[:-1]) if message["role"] == "assistant"]
    return [index for index in reversed(answers) if turn_ends.get(index, 0) <= limit]


def media_of(sample: Sample, messages: Sequence[Message], whole: int) -> tuple[Media, ...]:
    """Return the media of a beginning of the conversation; of the whole one all, so that none is lost unseen."""
    return sample.media if len(messages) == whole else sample.media[: _media_count(messages)]


def _media_count(messages: Sequence[Message]) -> int:
    return sum(
        is_media_part(part)
        for message in messages
        if isinstance(message["content"], list)
        for part in message["content"]
    )


def is_media_part(part: Mapping[str, Any]) -> bool:
    """Whether a part of a message's content stands for a media."""
    return part.get("type") in ("image", "video", "audio")
