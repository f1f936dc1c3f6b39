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

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from vlm_prep.core.errors import ProcessorError, Reject, RejectReason
from vlm_prep.core.types import Message
from vlm_prep.processors.load import LoadedProcessor
from vlm_prep.tokenize.marks import AREAS, MOST_PARTS, TextPlace, mark, read_marks

_SENTINEL = "vlmprepsentinel"
_MOST_GAPS = 4096
Gap = tuple[str, ...]
"""What lies between two texts: roles of the messages that begin there, kinds of media."""


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
    header_is_prompt: bool
    """Whether an answer directly follows the header: not so where a template writes an empty <think> block first."""
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
        except MemoryError:
            raise
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
            places = self._place_by_gaps(text, messages, [self._gaps.get(gap) for gap in gaps])
            if places is not None:
                return Rendered(text, places)
        dropped: Reject | None = None
        try:
            places = self._place_by_marks(text, messages, tools)
        except Reject as reject:
            places, dropped = None, reject
        if gaps is not None:
            written = _written_between(text, places, len(gaps) - 1)
            if written is not None and len(self._gaps) < _MOST_GAPS:
                self._gaps.update(zip(gaps, written, strict=True))
            if places is None:
                # the marks got in the way of a template that looks into the content
                places = self._place_by_plain_texts(text, messages)
        if places is None and dropped is not None:
            raise dropped
        return Rendered(text, places)

    def _place_by_plain_texts(self, text: str, messages: Sequence[Message]) -> Places | None:
        """Put the row together from what the template writes around the simplest texts in the same places.

        With this, whether a row has places depends on the row alone and not on which gaps are known already: rows must
        come out the same for any number of workers.
        """
        plain = [
            {**message, "content": [{**part, "text": "x"} if part.get("text") else part for part in message["content"]]}
            for message in messages
        ]
        try:
            rendered = self.render(plain)
            places = self._place_by_marks(rendered, plain, None)
        except Reject:
            return None
        written = _written_between(rendered, places, sum("text" in part for m in messages for part in m["content"]))
        return None if written is None else self._place_by_gaps(text, messages, written)

    def _place_by_gaps(self, text: str, messages: Sequence[Message], known: Sequence[str | None]) -> Places | None:
        """Put the row together from known gaps; None if one is unknown or the result is not `text`."""
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

    def _place_by_marks(
        self, text: str, messages: Sequence[Message], tools: Sequence[dict[str, Any]] | None
    ) -> Places | None:
        area = next((area for area in AREAS if not area[1].search(text)), None)
        if area is None:
            return None
        marked, parts = mark(messages, area[0])
        if len(parts) > MOST_PARTS:
            return None
        try:
            with_marks = self.render(marked, tools)
        except Reject:
            # a template may refuse a marked text that it takes plain (a check on the content)
            return None
        plain, places, seen = read_marks(with_marks, parts, area)
        for number, (index, content) in enumerate(parts):
            if content and number not in seen:
                raise Reject(
                    RejectReason.TEMPLATE_DROPS_CONTENT,
                    f"the chat template leaves out text of message {index} (role {messages[index]['role']!r})",
                )
        return tuple(places) if plain == text else None

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
            header_is_prompt=whole[: whole.index(_SENTINEL)].endswith(prompt),
            tools=self._mentions([user], tools=[_tool(_SENTINEL)]),
            tool_calls=self._mentions([user, {**_message("assistant", "a", parts), "tool_calls": [_call(_SENTINEL)]}]),
            reasoning=self._mentions([user, {**_message("assistant", "a", parts), "reasoning_content": _SENTINEL}]),
            parts=parts,
        )

    def frame(self) -> str:
        """Return what the template writes around turns of all roles and around media, in one-letter conversations."""
        media = [{"type": "image"}, {"type": "video"}, {"type": "audio"}]
        turns: list[list[Message]] = [
            [_message("system", "s", self.facts.parts), _message("user", "u", self.facts.parts)],
            [_message("user", "u", self.facts.parts), _message("assistant", "a", self.facts.parts)],
            [_message(role, "x", self.facts.parts) for role in ("user", "assistant", "tool", "assistant")],
        ]
        turns += [[{"role": "user", "content": [part, {"type": "text", "text": "u"}]}] for part in media]
        written = [self.facts.header]
        for messages in turns:
            try:
                written.append(self.render(messages))
            except Reject:
                continue  # a role or a kind of media that this template does not take
        return "\n".join(written)

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


def _written_between(text: str, places: Places | None, parts: int) -> list[str] | None:
    """Return what the template wrote before the first text, between each two and after the last.

    None unless each of the `parts` texts of the row is there once, in the row's order.
    """
    if places is None or len(places) != parts:
        return None
    if any(after.start < before.end or after.message < before.message for before, after in pairwise(places)):
        return None  # the template moved texts around
    starts = [0, *(place.end for place in places)]
    stops = [*(place.start for place in places), len(text)]
    return [text[start:stop] for start, stop in zip(starts, stops, strict=True)]
