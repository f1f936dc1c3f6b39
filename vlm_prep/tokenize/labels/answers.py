"""What may be amiss with a row's answers: they say nothing, or the template leaves their media out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vlm_prep.core.errors import InputError, Reject, RejectReason
from vlm_prep.core.records import Message
from vlm_prep.core.settings import EmptyAnswers, TokenizeConfig
from vlm_prep.tokenize.chat.template import ChatTemplate
from vlm_prep.tokenize.labels.spans import is_media_alone, weight_of

if TYPE_CHECKING:
    from vlm_prep.processors.adapter import Adapter
    from vlm_prep.tokenize.coordinates import PlacedChar
    from vlm_prep.tokenize.labels.documents import Document

EMPTY_ANSWERS = "empty_answers"
"""Note of a row with a trained answer that says nothing: of it the end token, and its blanks, are trained."""


def require_own_labels(config: TokenizeConfig, adapter: Adapter) -> None:
    """Refuse settings by which the tokens or labels of a processor that labels answers itself would be others.

    Raises:
        InputError: there are such.
    """
    setting = "token_hook" if config.token_hook is not None else "train_on=all" if config.train_on == "all" else None
    if adapter.answer_types is not None and setting is not None:
        raise InputError(
            f"`{setting}`: {type(adapter.hf).__name__} says itself which tokens are a row's answer, by labels and "
            f"{adapter.answer_types}",
            "leave it out",
        )


def answer_at(adapter: Adapter, trained: Sequence[PlacedChar]) -> PlacedChar | None:
    """Return where a row's answer begins, whose processor tokenizes it by itself; None for other processors.

    Args:
        adapter: of the processor.
        trained: edges of what is trained.
    """
    return min(trained, default=None) if adapter.answer_types is not None else None


def empty_answers(messages: Sequence[Message], wanted: Sequence[int], policy: EmptyAnswers) -> tuple[str, ...]:
    """Return the note of a row that trains an answer which says nothing.

    Raises:
        Reject: empty_answer, where the policy is to reject.
    """
    empty = [index for index in wanted if is_empty(messages[index]) and weight_of(messages[index]) > 0]
    if empty and policy == "reject":
        raise Reject(
            RejectReason.EMPTY_ANSWER,
            f"message {empty[0] + 1} is an answer that says nothing: its end alone would be "
            "trained, with what blanks it has (`empty_answers=keep` trains it)",
        )
    return (EMPTY_ANSWERS,) if empty else ()


def is_empty(message: Message) -> bool:
    """Whether a message holds nothing but blanks: no text, media, reasoning or calls."""
    if message.get("tool_calls") or (message.get("reasoning_content") or "").strip():
        return False
    content = message["content"]
    return not (content.strip() if isinstance(content, str) else any(part.get("text", "x").strip() for part in content))


def nothing_trained(messages: Sequence[Message]) -> Reject:
    """Return the reject of a row of which nothing is trained, with why."""
    message = "no token of this row would be trained (train_on, and what its messages say of training)"
    if alone := [n for n, each in enumerate(messages, 1) if each["role"] == "assistant" and is_media_alone(each)]:
        message += f"; message {alone[0]} is an answer of media alone, which are never trained"
    return Reject(RejectReason.NO_SUPERVISED_TOKENS, message)


def require_written_media(template: ChatTemplate, document: Document) -> None:
    """Say where a template leaves out the media of a message: the true reason why a row's counts differ.

    Raises:
        Reject: unsupported_media.
    """
    for index, message in enumerate(document.view):
        content = message["content"]
        if isinstance(content, str) or all("text" in part for part in content):
            continue
        media = next(part["type"] for part in content if "text" not in part)
        bare = {**message, "content": [part for part in content if "text" in part]}
        others = [*document.view[:index], bare, *document.view[index + 1 :]]
        # without blanks: some templates put one behind each part, whether or not they write it
        if template.render(others, document.tools).split() == document.rendered.text.split():
            raise Reject(
                RejectReason.UNSUPPORTED_MEDIA,
                f"message {index + 1}: the chat template writes no {media} in turns of the {message['role']} "
                "(`chat_template` gives another template)",
            )
