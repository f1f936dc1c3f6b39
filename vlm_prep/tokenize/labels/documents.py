"""How many documents a row becomes: one, unless the template rewrites its history.

Some templates write a turn in full while it is the last and drop its reasoning once others follow. Then the text that
such a turn would be trained on is not there in the whole conversation. With `rewritten_history="split"` the row becomes
several documents, each a beginning of the conversation, as few as the template allows: from the whole one backwards,
each trains the turns that stand whole in it and that no longer document trains, and the next ends with the last turn
that is left. Every turn is trained once, behind the text that the model would see at that moment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vlm_prep.core.errors import Reject, RejectReason
from vlm_prep.core.records import Message
from vlm_prep.core.settings import RewrittenHistory
from vlm_prep.tokenize.chat.control_tokens import ControlTokens, Delimiters
from vlm_prep.tokenize.chat.sentinels import Piece
from vlm_prep.tokenize.chat.template import ChatTemplate, Rendered
from vlm_prep.tokenize.chat.tool_text import Tools
from vlm_prep.tokenize.labels.spans import is_media_alone
from vlm_prep.tokenize.labels.turns import Turn, find_turns, undecidable

_SHOWN = 60
"""Characters of a text in a message."""


@dataclass(frozen=True, slots=True)
class Document:
    """A beginning of a conversation, rendered, with the turns to train."""

    messages: list[Message]
    """As stored: turns that another document trains say `train: false`."""
    view: Sequence[Message]
    """As rendered: control tokens in the row's own text are marked."""
    delimiters: Delimiters | None
    """The delimiters in `view`; None where it is `messages`."""
    tools: Tools
    """As rendered."""
    rendered: Rendered
    turns: dict[int, Turn]


class DocumentReader:
    """Renders rows and decides on their documents."""

    def __init__(self, template: ChatTemplate, control: ControlTokens, policy: RewrittenHistory) -> None:
        self._template, self._control, self._policy = template, control, policy

    def read(self, messages: list[Message], tools: Tools, wanted: Sequence[int]) -> Document:
        """Render a conversation and find the wanted turns that stand whole in it.

        Raises:
            Reject: template_error, control_tokens; template_drops_content, for what is no assistant's.
        """
        view: Any = messages
        delimiters = self._control.delimiters(messages, tools)
        if delimiters is not None:
            view, tools = self._control.marked(messages, tools, delimiters)
        rendered = self._template.render_marked(view, tools)
        for piece in rendered.missing:
            if messages[piece.message]["role"] != "assistant":
                raise _dropped(piece, messages)
        turns = find_turns(self._template, rendered, view, tools, wanted)
        return Document(messages, view, delimiters, tools, rendered, turns)

    def documents(self, messages: list[Message], tools: Tools, wanted: Sequence[int]) -> list[Document]:
        """Return a row's documents, the shortest first.

        Raises:
            Reject: as `read`; rewritten_history; template_drops_content and labels_undecidable where a turn does not
                stand whole even when it is the last.
        """
        whole = self.read(messages, tools, wanted)
        rewritten = {piece.message for piece in whole.rendered.missing} - set(wanted)
        lost = [index for index in wanted if index not in whole.turns]
        for index in sorted(rewritten | set(lost)):
            self._must_stand_as_last(messages, tools, index)
        if not lost:
            return [whole]
        if self._policy == "reject":
            raise _rewritten(lost)
        if self._policy == "mask":
            return [self.read(_masked(messages, lost), tools, list(whole.turns))]
        return self._split(whole, messages, tools, wanted)

    def _split(self, whole: Document, messages: list[Message], tools: Tools, wanted: Sequence[int]) -> list[Document]:
        found = []
        document, left = whole, list(wanted)
        while left:
            trained = [index for index in left if index in document.turns]
            if trained:
                others = set(wanted) - set(trained)
                found.append(self.read(_masked(document.messages, others), tools, trained))
                left = [index for index in left if index not in trained]
            if left:
                document = self.read(messages[: left[-1] + 1], tools, left)
        return found[::-1]

    def _must_stand_as_last(self, messages: list[Message], tools: Tools, index: int) -> None:
        """Tell a template that rewrites history from one that drops a text wherever it stands."""
        document = self.read(messages[: index + 1], tools, [index])
        if index not in document.turns:
            missing = [piece for piece in document.rendered.missing if piece.message == index]
            if missing:
                raise _dropped(missing[0], messages)
            if is_media_alone(messages[index]):
                raise undecidable(index, "nothing tells where an answer of media alone begins and ends")
            raise undecidable(index)


def _masked(messages: Sequence[Message], indices: Sequence[int] | set[int]) -> list[Message]:
    return [
        {**message, "train": False} if index in indices and message["role"] == "assistant" else message
        for index, message in enumerate(messages)
    ]


def _dropped(piece: Piece, messages: Sequence[Message]) -> Reject:
    what = {"text": "text", "reasoning": "the reasoning", "call": "a tool call"}[piece.kind]
    words = repr(piece.text if len(piece.text) <= _SHOWN else piece.text[:_SHOWN] + "...")
    return Reject(
        RejectReason.TEMPLATE_DROPS_CONTENT,
        f"the chat template leaves out {what} of message {piece.message + 1} "
        f"(role {messages[piece.message]['role']!r}), or a part of it: {words} (`chat_template` gives another)",
    )


def _rewritten(lost: Sequence[int]) -> Reject:
    which = ", ".join(str(index + 1) for index in lost)
    return Reject(
        RejectReason.REWRITTEN_HISTORY,
        f"the chat template writes message {which} differently once others follow (it may drop reasoning): "
        "--rewritten-history split trains such turns in documents of their own, mask leaves them out, and so does "
        "--train-on last",
    )
