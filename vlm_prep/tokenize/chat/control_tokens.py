"""Control tokens written in the data's own text (`<|im_end|>`, `<|image_pad|>` typed by a user).

By default they are encoded as plain text, so that data can neither end a turn nor forge a picture. What counts are the
special tokens that a chat template writes by itself around texts and media, and the end and padding tokens: those can
change the structure. Other special tokens (`<|box_start|>` of grounding data) are part of what is said and stay
tokens; transformers' own `sanitize_control_tokens` would turn them into text too, in answers as well.

Rows that hold none, nearly all, take the fast path; the others are marked and encoded by transformers' own functions,
and only the byte spans are found here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vlm_prep.core.errors import Reject, RejectReason
from vlm_prep.core.records import Message
from vlm_prep.core.settings import ControlTokens as Mode
from vlm_prep.tokenize.chat.template import ChatTemplate
from vlm_prep.tokenize.text import TextEncoder, Tokens

if TYPE_CHECKING:
    from vlm_prep.tokenize.chat.tool_text import Tools


class ControlTokens:
    """What counts as a control token of a tokenizer and template, and how rows that hold one are encoded."""

    def __init__(self, hf: Any, template: ChatTemplate, mode: Mode) -> None:
        from transformers.utils import chat_template_utils as chat

        self._tokenizer, self._mode, self._chat = hf.tokenizer, mode, chat
        self.tokens = _structural_tokens(hf, template)
        self._pattern, _ = chat._get_control_token_patterns(self.tokens)
        self._marks = str.maketrans("", "", chat._CONTROL_TOKEN_START + chat._CONTROL_TOKEN_END)
        self._mark_characters = (chat._CONTROL_TOKEN_START, chat._CONTROL_TOKEN_END)

    def find(self, messages: Sequence[Message], tools: Tools) -> bool:
        """Whether the row must be encoded with its control tokens as text.

        Raises:
            Reject: control_tokens, in mode "reject".
        """
        if self._mode == "allow":
            return False
        search, first, last = self._pattern.search, *self._mark_characters
        for text in _texts(messages, tools):
            found = search(text)
            if found is not None and self._mode == "reject":
                raise Reject(RejectReason.CONTROL_TOKENS, f"the row's own text holds {found.group()!r}")
            if found is not None or first in text or last in text:
                return True
        return False

    def encode(self, encoder: TextEncoder, text: str) -> Tokens:
        """Encode the text that marked messages were rendered to, with their control tokens as text.

        Returns:
            Tokens with their places in the text without marks.

        Raises:
            Reject: control_tokens, where the tokenizer cannot write them as text.
        """
        try:
            ids = self._chat.encode_marked_chat(self._tokenizer, text)
        except ValueError as error:
            raise Reject(RejectReason.CONTROL_TOKENS, str(error)) from error
        tokens = encoder.with_spans(np.asarray(ids, np.int32), text.translate(self._marks))
        if tokens is None:
            raise Reject(
                RejectReason.CONTROL_TOKENS,
                "the row's own text holds control tokens, and beside text that the tokenizer normalizes their "
                "place cannot be told (--control-tokens)",
            )
        return tokens

    def marked(self, messages: Sequence[Message], tools: Tools) -> tuple[list[Message], Tools]:
        """Return the row with its control tokens marked as text, the way transformers' tokenizers take it."""
        mark = self._chat.mark_control_tokens
        return mark(list(messages), self._pattern), mark(tools, self._pattern)

    def byte_position(self, text: str, position: int) -> int:
        """Return a character position of marked text as a byte position of the text without marks."""
        return len(text[:position].translate(self._marks).encode())


def _structural_tokens(hf: Any, template: ChatTemplate) -> tuple[str, ...]:
    """Special tokens that the template writes, that stand for media, or that end or pad a sequence."""
    written = template.frame()
    named = {getattr(hf, name, None) for name in ("image_token", "video_token", "audio_token")}
    named |= {str(getattr(hf.tokenizer, name, None)) for name in ("bos_token", "eos_token", "pad_token", "unk_token")}
    added = hf.tokenizer.added_tokens_decoder.values()
    return tuple(
        token.content for token in added if (token.special and token.content in written) or token.content in named
    )


def _texts(value: Any, tools: Any = None) -> list[str]:
    """All strings that come from the row: contents, reasoning, tool calls, schemas (their keys are not rendered as
    control tokens by transformers either)."""
    found: list[str] = []
    stack = [value, tools]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            found.append(item)
        elif isinstance(item, dict):
            stack.extend(item.values())
        elif isinstance(item, list | tuple):
            stack.extend(item)
    return found
