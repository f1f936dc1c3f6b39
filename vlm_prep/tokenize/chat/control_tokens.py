"""Control tokens written in the data's own text (`<|im_end|>`, `<|image_pad|>` typed by a user).

By default they are encoded as plain text, so that data can neither end a turn nor forge a picture. What counts are the
special tokens that a chat template writes by itself around texts and media, and the end and padding tokens: those can
change the structure. Other special tokens (`<|box_start|>` of grounding data) are part of what is said and stay
tokens; transformers' own `sanitize_control_tokens` would turn them into text too, in answers as well.

What a template writes around calls and their results counts where it can be nothing else: special tokens (Gemma 4's) in
calls, in results, in schemas and in what a user says; tokens that are not special (Kimi's `<|tool_call_end|>`, Qwen's
`<tool_call>`) in calls, for results are found with them written out. In an answer they stay tokens, since calls may be
written out there already.

Rows that hold none, nearly all, take the fast path. In the others the tokens are marked, as transformers does it, with
two private-use characters around each; those that transformers marks with (U+F0000 and U+F0001, which it deletes from
the data first) where the row does not hold them, else two others. The ids are those that transformers makes of such
text, by code of its own: the comparison with the real processor uses transformers' functions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from vlm_prep.core.errors import Reject, RejectReason
from vlm_prep.core.records import Message
from vlm_prep.core.settings import ControlTokens as Mode
from vlm_prep.tokenize.chat.sentinels import free_codes
from vlm_prep.tokenize.chat.template import ChatTemplate
from vlm_prep.tokenize.chat.template_probe import CALL_IDS, call
from vlm_prep.tokenize.chat.template_probe import message as plain_message
from vlm_prep.tokenize.coordinates import PlacedChar, TextByte
from vlm_prep.tokenize.text import TextEncoder, Tokens

if TYPE_CHECKING:
    from vlm_prep.tokenize.chat.tool_text import Tools


TOLD = ("user", "tool")
"""Roles of what a model is told, in which special tokens of calls are text."""
Delimiters = tuple[str, str]
"""The characters before and after a control token that is text."""


class ControlTokens:
    """What counts as a control token of a tokenizer and template, and how rows that hold one are encoded."""

    def __init__(self, hf: Any, template: ChatTemplate, mode: Mode) -> None:
        self._tokenizer, self._mode = hf.tokenizer, mode
        frame, around = template.frame(), _around_calls(template)
        self.tokens = _structural_tokens(hf, frame)
        called = [each for each in hf.tokenizer.added_tokens_decoder.values() if each.content in around]
        called = [each for each in called if each.content not in frame and each.content not in self.tokens]
        self.told_tokens = (*self.tokens, *(each.content for each in called if each.special))
        self.call_tokens = (*self.tokens, *(each.content for each in called))
        self._patterns = {name: _any_of(getattr(self, f"{name}_tokens")) for name in ("told", "call")}
        self._pattern = _any_of(self.tokens)
        self._added = _any_of(tuple(hf.tokenizer.get_added_vocab()))
        self._newline: list[int] = hf.tokenizer.encode("\n", add_special_tokens=False)

    def find(self, messages: Sequence[Message], tools: Tools) -> bool:
        """Whether the row must be encoded with its control tokens as text.

        Raises:
            Reject: control_tokens, in mode "reject".
        """
        if self._mode == "allow":
            return False
        for text, pattern in self._texts(messages, tools):
            found = pattern.search(text)
            if found is not None and self._mode == "reject":
                raise Reject(
                    RejectReason.CONTROL_TOKENS, f"the row's own text holds {found.group()!r} (`control_tokens`)"
                )
            if found is not None:
                return True
        return False

    def delimiters(self, messages: Sequence[Message], tools: Tools) -> Delimiters | None:
        """Return two characters that the row does not hold, or None where its control tokens need no delimiters.

        Raises:
            Reject: control_tokens, in mode "reject", or where the row holds all private-use characters.
        """
        if not self.find(messages, tools):
            return None
        first = free_codes(orjson.dumps([messages, tools]).decode(), 2)
        if first is None:
            raise Reject(RejectReason.CONTROL_TOKENS, "the row's own text leaves no characters to mark them with")
        return chr(first), chr(first + 1)

    def encode(self, encoder: TextEncoder, text: str, delimiters: Delimiters) -> Tokens:
        """Encode the text that marked messages were rendered to, with their control tokens as text.

        Returns:
            Tokens with their places in the text without delimiters.

        Raises:
            Reject: control_tokens, where the tokenizer cannot write them as text.
        """
        pieces = list(self._pieces(text, delimiters))
        bare = without_delimiters(text, delimiters)
        ids = np.asarray([token for _, tokens, _ in pieces for token in tokens], np.int32)
        found = encoder.with_spans(ids, bare)
        if found is not None:
            return found
        offsets: list[tuple[int, int]] = []
        begin = 0
        for piece, tokens, behind in pieces:
            own = self._offsets(piece, tokens, behind)
            if own is None:
                break
            offsets += [(begin + start, begin + stop) for start, stop in own]
            begin += len(piece)
        if len(offsets) != len(ids):
            held = ", ".join(dict.fromkeys(re.findall(f"{delimiters[0]}(.*?){delimiters[1]}", text, re.DOTALL)))
            raise Reject(
                RejectReason.CONTROL_TOKENS,
                f"the row's own text holds {held}, and this tokenizer, which normalizes text, does not tell where they "
                "lie when they are written as text (`control_tokens=allow` lets them act)",
            )
        return encoder.by_offsets(ids, offsets, bare)

    def _offsets(self, piece: str, tokens: list[int], behind: str) -> list[tuple[int, int]] | None:
        """Return the characters of a piece that each token stands for; None where the tokenizer makes others."""
        begins, as_text = behind.startswith("\n"), behind.endswith("text")
        made = self._tokenizer(
            "\n" + piece if begins else piece,
            add_special_tokens=False,
            return_offsets_mapping=True,
            **({"split_special_tokens": True} if as_text else {}),
        )
        skip = len(self._newline) if begins else 0
        if list(made["input_ids"])[skip:] != tokens:
            return None
        return [(max(0, start - begins), max(0, stop - begins)) for start, stop in made["offset_mapping"][skip:]]

    def _pieces(self, text: str, delimiters: Delimiters) -> Iterator[tuple[str, list[int], str]]:
        """Yield the texts between the delimiters, their ids, and how they were made: behind a line break, as text.

        They come apart as in transformers' `encode_marked_chat`.

        What stands behind a mark is encoded behind a line break, so that no tokenizer puts its leading blank there.
        """
        start, end = delimiters
        split = re.compile(f"{start}({self._added.pattern}){end}|[{start}{end}]").split(text)
        encode = self._tokenizer.encode
        yield split[0], encode(split[0], add_special_tokens=False), ""
        for number, piece in enumerate(split[1:], start=1):
            if not piece:
                continue  # between two delimiters, or a mark alone
            as_text = number % 2 == 1
            options = {"add_special_tokens": False, **({"split_special_tokens": True} if as_text else {})}
            ids = encode("\n" + piece, **options)
            apart = ids[: len(self._newline)] == self._newline
            ids = ids[len(self._newline) :] if apart else encode(piece, **options)
            if as_text and self._tokenizer.convert_tokens_to_ids(piece) in ids:
                what = f"the row's own text holds {piece!r}, which the tokenizer cannot write as plain text"
                raise Reject(RejectReason.CONTROL_TOKENS, f"{what} (`control_tokens=allow` lets it act)")
            yield piece, ids, ("\n" if apart else "") + ("text" if as_text else "")

    def marked(self, messages: Sequence[Message], tools: Tools, delimiters: Delimiters) -> tuple[list[Message], Tools]:
        """Return the row with its control tokens between delimiters."""
        start, end = delimiters

        def mark(value: Any, pattern: re.Pattern[str]) -> Any:
            if isinstance(value, str):
                return pattern.sub(f"{start}\\g<0>{end}", value)
            if isinstance(value, dict):
                return {key: mark(item, pattern) for key, item in value.items()}
            return [mark(item, pattern) for item in value] if isinstance(value, list | tuple) else value

        made = [{key: mark(value, self._pattern_of(each, key)) for key, value in each.items()} for each in messages]
        return made, mark(tools, self._patterns["told"])

    def _pattern_of(self, message: Message, key: str) -> re.Pattern[str]:
        if key == "tool_calls":
            return self._patterns["call"]
        return self._patterns["told"] if message["role"] in TOLD else self._pattern

    def _texts(self, messages: Sequence[Message], tools: Tools) -> Iterator[tuple[str, re.Pattern[str]]]:
        """Yield all strings that come from the row, with what may not stand in them: contents, reasoning, tool calls,
        schemas (their keys are not rendered as control tokens by transformers either)."""
        stack: list[tuple[Any, re.Pattern[str]]] = [(tools, self._patterns["told"])]
        stack += [(value, self._pattern_of(each, key)) for each in messages for key, value in each.items()]
        while stack:
            item, pattern = stack.pop()
            if isinstance(item, str):
                yield item, pattern
            elif isinstance(item, dict):
                stack += [(value, pattern) for value in item.values()]
            elif isinstance(item, list | tuple):
                stack += [(value, pattern) for value in item]


def without_delimiters(text: str, delimiters: Delimiters) -> str:
    """Return marked text without its delimiters."""
    return text.replace(delimiters[0], "").replace(delimiters[1], "")


def byte_position(text: str, position: PlacedChar, delimiters: Delimiters) -> TextByte:
    """Return a character position of marked text as a byte position of the text without delimiters."""
    return TextByte(len(without_delimiters(text[:position], delimiters).encode()))


@lru_cache(maxsize=8)
def _any_of(tokens: tuple[str, ...]) -> re.Pattern[str]:
    """What finds any of the tokens, the longest first."""
    return re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True))) or "(?!)")


def _structural_tokens(hf: Any, written: str) -> tuple[str, ...]:
    """Special tokens that the template writes, that stand for media, or that end or pad a sequence."""
    named = {getattr(hf, name, None) for name in ("image_token", "video_token", "audio_token")}
    named |= {str(getattr(hf.tokenizer, name, None)) for name in ("bos_token", "eos_token", "pad_token", "unk_token")}
    added = hf.tokenizer.added_tokens_decoder.values()
    return tuple(
        token.content for token in added if (token.special and token.content in written) or token.content in named
    )


def _around_calls(template: ChatTemplate) -> str:
    """What a template writes around a call, its result and a schema; nothing where it writes none."""
    parts = template.findings.parts
    user, answer = (plain_message(role, "x", parts) for role in ("user", "assistant"))
    schema = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}
    for identity in CALL_IDS:
        told = {"role": "tool", "content": "r", "name": "f", "tool_call_id": identity or "f"}
        try:
            return template.render([user, {**answer, "tool_calls": [call("f", identity)]}, told, answer], [schema])
        except Reject:
            continue  # a template may refuse calls without an id, or with one of another form; or all
    return ""
