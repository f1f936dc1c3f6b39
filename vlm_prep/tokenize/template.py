"""The chat template: rendering, what it supports, and marks that show where each text of the conversation landed.

Every text part is wrapped in two private-use characters that name it, the conversation is rendered once with the marks
and once without; if the marked text without its marks equals the plain text, the marks are true positions, found by
structure and not by searching for words. It costs two renders (21 µs each) whatever the number of turns. A text whose
marks are missing was dropped by the template: the row is rejected, not silently shortened. Templates that look into
the content (trim it, split it) fail the equality and are handled turn by turn in `spans.py`.

What a template writes between two texts (the end of a turn, a header, a placeholder) is remembered by what lies between
them. Where all gaps of a row are known, its text is put together from them and compared with the plain render: equal
means known places for the price of a join (3 µs) instead of a second render; unequal means the marks decide.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from vlm_prep.core.errors import ProcessorError, Reject, RejectReason
from vlm_prep.core.types import Message
from vlm_prep.processors.load import LoadedProcessor

_FIRST_MARK = 0xF0000
"""Supplementary private use area A: 65534 code points, two for each text part."""
_MARK = re.compile("[\U000f0000-\U000ffffd]")
_SENTINEL = "vlmprepsentinel"
_MOST_GAPS = 4096
Gap = tuple[str, ...]
"""What lies between two texts: roles of the messages that begin there, kinds of media."""


@dataclass(frozen=True, slots=True)
class TextPlace:
    """Where one text part landed in the rendered text."""

    message: int
    start: int
    end: int
    """Characters, half open."""


Places = tuple[TextPlace, ...]


@dataclass(frozen=True, slots=True)
class Rendered:
    """A rendered conversation."""

    text: str
    places: Places | None
    """Where each text part is, in order of the rendered text; None when the template changes contents."""


@dataclass(frozen=True, kw_only=True)
class TemplateFacts:
    """What probing the template with small conversations showed."""

    turn_end: str
    """Text that closes an assistant turn, up to and including its end token; empty if there is none."""
    header: str
    """Text that opens an assistant turn."""
    tools: bool
    tool_calls: bool
    reasoning: bool
    parts: bool
    """Whether content is a list of typed parts (else a plain string)."""


class ChatTemplate:
    """A processor's chat template.

    Raises:
        ProcessorError: the processor has none, or it renders no assistant answer.
    """

    def __init__(self, loaded: LoadedProcessor) -> None:
        from transformers.utils.chat_template_utils import _compile_jinja_template

        self.source = loaded.chat_template
        # transformers' own compiled template; apply_chat_template around it costs twice the rendering
        self._compiled = _compile_jinja_template(self.source)
        self._special = dict(loaded.hf.tokenizer.special_tokens_map)
        self._added = sorted(loaded.hf.tokenizer.get_added_vocab(), key=len, reverse=True)
        self._gaps: dict[Gap, str] = {}
        self.facts = self._probe(loaded.name)

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]] | None = None,
        *,
        add_generation_prompt: bool = False,
    ) -> str:
        """Render a conversation as transformers' apply_chat_template does.

        Raises:
            Reject: template_error, with the template's own message.
        """
        try:
            text: str = self._compiled.render(
                messages=[_alias_reasoning(message) for message in messages],
                tools=tools,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **self._special,
            )
        except Exception as error:  # templates raise TemplateError and whatever their expressions raise
            raise Reject(
                RejectReason.TEMPLATE_ERROR, f"the chat template refused: {type(error).__name__}: {error}"
            ) from error
        return text

    def render_marked(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] | None) -> Rendered:
        """Render a conversation and find where each of its texts landed.

        Raises:
            Reject: template_error; template_drops_content when a text does not appear.
        """
        text = self.render(messages, tools)
        gaps = _gaps_between(messages) if not tools else None
        if gaps is not None:
            places = self._place_by_gaps(text, messages, gaps)
            if places is not None:
                return Rendered(text, places)
        if _MARK.search(text):
            return Rendered(text, None)
        rendered = self._place_by_marks(text, messages, tools)
        if gaps is not None and rendered.places is not None and len(self._gaps) < _MOST_GAPS:
            self._learn(gaps, rendered)
        return rendered

    def _place_by_gaps(self, text: str, messages: Sequence[Message], gaps: Sequence[Gap]) -> Places | None:
        """Put the row together from known gaps; None if one is unknown or the result is not `text`."""
        known = [self._gaps.get(gap) for gap in gaps]
        if None in known:
            return None
        pieces = [known[0] or ""]
        places = []
        position = len(pieces[0])
        number = 0
        for index, message in enumerate(messages):
            for part in message["content"]:
                if "text" in part:
                    number += 1
                    content, gap = part["text"], known[number] or ""
                    places.append(TextPlace(index, position, position + len(content)))
                    position += len(content) + len(gap)
                    pieces += (content, gap)
        return tuple(places) if "".join(pieces) == text else None

    def _learn(self, gaps: Sequence[Gap], rendered: Rendered) -> None:
        """Remember what the template wrote between the texts of a row."""
        places = rendered.places or ()
        if any(after.start < before.end for before, after in pairwise(places)):
            return  # the template moved texts around
        starts = [0, *(place.end for place in places)]
        stops = [*(place.start for place in places), len(rendered.text)]
        self._gaps.update((gap, rendered.text[a:b]) for gap, a, b in zip(gaps, starts, stops, strict=True))

    def _place_by_marks(
        self, text: str, messages: Sequence[Message], tools: Sequence[dict[str, Any]] | None
    ) -> Rendered:
        marked, owners = _mark(messages)
        try:
            with_marks = self.render(marked, tools)
        except Reject:
            # a template may refuse a marked text that it takes plain (a check on the content)
            return Rendered(text, None)
        plain, places = _read_marks(with_marks, owners)
        if len(places) < len(owners):
            seen = {(place.message) for place in places}
            missing = next((index for index in owners if index not in seen), owners[-1])
            role = messages[missing]["role"]
            if not _has_text(messages[missing]):
                return Rendered(text, None)
            raise Reject(
                RejectReason.TEMPLATE_DROPS_CONTENT,
                f"the chat template leaves out text of message {missing} (role {role!r})",
            )
        return Rendered(text, tuple(places) if plain == text else None)

    def _probe(self, name: str) -> TemplateFacts:
        parts = self._content_reaches([{"type": "text", "text": _SENTINEL}])
        if not parts and not self._content_reaches(_SENTINEL):
            raise ProcessorError(f"{name}: its chat template renders no assistant answer")
        user = _message("user", "u", parts)
        whole = self.render([user, _message("assistant", _SENTINEL, parts)])
        tail = whole[whole.index(_SENTINEL) + len(_SENTINEL) :]
        prompt = self._header(user)
        return TemplateFacts(
            turn_end=self._turn_end(tail),
            header=prompt,
            tools=self._mentions([user], tools=[_tool(_SENTINEL)]),
            tool_calls=self._mentions([user, {**_message("assistant", "a", parts), "tool_calls": [_call(_SENTINEL)]}]),
            reasoning=self._mentions([user, {**_message("assistant", "a", parts), "reasoning_content": _SENTINEL}]),
            parts=parts,
        )

    def _header(self, user: Message) -> str:
        try:
            closed, opened = self.render([user]), self.render([user], add_generation_prompt=True)
        except Reject:
            return ""
        return opened[len(closed) :] if opened.startswith(closed) else ""

    def _content_reaches(self, content: Any) -> bool:
        user = [{"type": "text", "text": "u"}] if isinstance(content, list) else "u"
        return self._mentions([{"role": "user", "content": user}, {"role": "assistant", "content": content}])

    def _mentions(self, messages: list[Message], tools: list[dict[str, Any]] | None = None) -> bool:
        try:
            text = self.render(messages, tools)
        except Reject:
            return False
        # a template that prints a list as Python would show the sentinel inside its repr
        return _SENTINEL in text and "'type'" not in text

    def _turn_end(self, tail: str) -> str:
        found = [(tail.find(token), -len(token), token) for token in self._added if token in tail]
        if not found:
            return ""
        position, _, token = min(found)
        return tail[: position + len(token)]


def _message(role: str, text: str, parts: bool) -> Message:
    return {"role": role, "content": [{"type": "text", "text": text}] if parts else text}


def _tool(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "description": "d", "parameters": {"type": "object"}}}


def _call(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": {"a": 1}}}


def _alias_reasoning(message: Message) -> Message:
    """Name the reasoning as transformers does for templates that read `thinking`."""
    reasoning = message.get("reasoning_content")
    return message if reasoning is None else {"thinking": reasoning, **message}


def _has_text(message: Message) -> bool:
    content = message["content"]
    return bool(content) if isinstance(content, str) else any(part.get("text") for part in content)


def _gaps_between(messages: Sequence[Message]) -> list[Gap] | None:
    """Return what lies before the first text, between each two, and after the last: roles that begin, media kinds.

    None for rows that a template may treat in special ways: tool calls, reasoning, contents that are no lists.
    """
    gaps: list[Gap] = []
    gap: list[str] = ["start"]
    for message in messages:
        content = message["content"]
        if isinstance(content, str) or "tool_calls" in message or "reasoning_content" in message:
            return None
        gap.append("\n" + message["role"])
        for part in content:
            if "text" in part:
                gaps.append(tuple(gap))
                gap = []
            else:
                gap.append(part["type"])
    gap.append("end")
    gaps.append(tuple(gap))
    return gaps


def _mark(messages: Sequence[Message]) -> tuple[list[Message], list[int]]:
    """Return the messages with every text part between its two marks, and the message index of each part."""
    owners: list[int] = []

    def wrap(text: str, index: int) -> str:
        code = _FIRST_MARK + 2 * len(owners)
        owners.append(index)
        return f"{chr(code)}{text}{chr(code + 1)}"

    marked: list[Message] = []
    for index, message in enumerate(messages):
        content = message["content"]
        if isinstance(content, str):
            new: Any = wrap(content, index)
        else:
            new = [{**part, "text": wrap(part["text"], index)} if "text" in part else part for part in content]
        marked.append({**message, "content": new})
    return marked, owners


def _read_marks(text: str, owners: Sequence[int]) -> tuple[str, list[TextPlace]]:
    """Return the text without marks, and a place for each part whose two marks were found in order."""
    pieces: list[str] = []
    places: list[TextPlace] = []
    opened: dict[int, int] = {}
    length = last = 0
    for match in _MARK.finditer(text):
        piece = text[last : match.start()]
        pieces.append(piece)
        length += len(piece)
        last = match.end()
        number, closing = divmod(ord(match.group()) - _FIRST_MARK, 2)
        if not closing:
            opened[number] = length
        elif number in opened:
            places.append(TextPlace(owners[number], opened.pop(number), length))
    pieces.append(text[last:])
    return "".join(pieces), places
