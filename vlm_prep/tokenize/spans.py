"""Which characters of the rendered text are trained.

Trained is what the assistant said and the token that ends its turn, nothing else. Two ways find it, both by structure:

- by marks (`template.render_marked`): the places of the texts of an assistant message, from the first to the last,
  and the turn end that must follow. For messages that are text and nothing else.
- turn by turn: the conversation rendered up to the message with the generation prompt, and up to and including it; the
  first must be a prefix of the second and the second of the whole (prefix stability). For messages with tool
  calls, reasoning or media, and for templates that change contents.

Where neither holds, the row is rejected: a mask is never guessed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from vlm_prep.core.errors import Reject, RejectReason
from vlm_prep.core.types import Message
from vlm_prep.tokenize.template import ChatTemplate, Rendered

TrainOn = Literal["assistant", "last"]
Span = tuple[int, int]


def trained_messages(messages: Sequence[Message], train_on: TrainOn) -> list[int]:
    """Return the indices of the assistant messages to train: all or the last, less those with `train: false`."""
    answers = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    if train_on == "last":
        answers = answers[-1:]
    return [index for index in answers if messages[index].get("train", True)]


def trained_spans(
    template: ChatTemplate,
    rendered: Rendered,
    messages: Sequence[Message],
    tools: Sequence[dict[str, Any]] | None,
    wanted: Sequence[int],
) -> list[Span]:
    """Return the character spans of the rendered text that are trained, in order.

    Args:
        template: renders prefixes where marks are not enough.
        rendered: the whole conversation.
        messages: as rendered.
        tools: as rendered.
        wanted: indices of the messages to train.

    Raises:
        Reject: labels_undecidable.
    """
    return [
        _span_by_marks(template, rendered, messages, index)
        or span_by_prefix(template, rendered.text, messages, tools, index)
        for index in wanted
    ]


def _only_text(message: Message) -> bool:
    if message.get("tool_calls") or message.get("reasoning_content") is not None:
        return False
    content = message["content"]
    return isinstance(content, str) or (bool(content) and all("text" in part for part in content))


def _span_by_marks(
    template: ChatTemplate, rendered: Rendered, messages: Sequence[Message], index: int
) -> Span | None:
    """The span of a message of text only, or None where its texts are not rendered once each, one after the other."""
    message, places = messages[index], rendered.places
    if places is None or not _only_text(message):
        return None
    found = [number for number, place in enumerate(places) if place.message == index]
    parts = 1 if isinstance(message["content"], str) else len(message["content"])
    if len(found) != parts or found[-1] - found[0] + 1 != parts:
        return None
    start, end = places[found[0]].start, places[found[-1]].end
    return start, _after_turn_end(rendered.text, end, template.facts.turn_end)


def _after_turn_end(text: str, end: int, turn_end: str) -> int:
    """The end of the turn, with its end token where the template wrote one (a last turn may stay open)."""
    return end + len(turn_end) if turn_end and text.startswith(turn_end, end) else end


def span_by_prefix(
    template: ChatTemplate,
    text: str,
    messages: Sequence[Message],
    tools: Sequence[dict[str, Any]] | None,
    index: int,
) -> Span:
    """Return the span of message `index` from renders of the conversation's prefixes.

    Raises:
        Reject: labels_undecidable, when the template writes a turn differently once others follow.
    """
    opened = template.render(messages[:index], tools, add_generation_prompt=True) if index else ""
    closed = template.render(messages[: index + 1], tools)
    header = template.facts.header
    if not index or not closed.startswith(opened):
        before = template.render(messages[:index], tools) if index else ""
        position = closed.find(header, len(before)) if closed.startswith(before) and header else -1
        if position < 0:
            raise _undecidable(index)
        opened = closed[: position + len(header)]
    end = len(closed)
    turn_end = template.facts.turn_end
    if turn_end:
        position = closed.rfind(turn_end, len(opened))
        end = position + len(turn_end) if position >= 0 else end
        if position >= 0 and closed[end:].strip():
            raise _undecidable(index)
    if not text.startswith(closed[:end]):
        raise _undecidable(index)
    return len(opened), end


def _undecidable(index: int) -> Reject:
    return Reject(
        RejectReason.LABELS_UNDECIDABLE,
        f"the chat template writes message {index} differently when others follow, so its mask cannot be decided",
    )
