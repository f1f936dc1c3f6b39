"""The chat template: rendering, what it supports, and sentinels that show where each text of the conversation landed.

Every text part is wrapped in two private-use characters that name it, the conversation is rendered once with the
sentinels and once without; if the marked text without its sentinels equals the plain text, the sentinels are true
positions, found by structure and not by searching for words. It costs two renders (21 µs each) whatever the number of
turns. A text whose sentinels are missing was dropped by the template, and `Rendered.missing` says so. Texts with blanks
at their edges, which a template may trim, are marked inside the blanks (`sentinels.py`); templates that look into the
content in other ways fail the equality and are handled turn by turn in `turns.py`.

What a template writes between two texts (the end of a turn, a header, a placeholder) is remembered by what lies between
them. Where all gaps of a row are known, its text is put together from them and compared with the plain render: equal
means known places for the price of a join (3 µs) instead of a second render; unequal means the sentinels decide.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from vlm_prep.core.bounds import bounded
from vlm_prep.core.errors import ProcessorError, Reject, RejectReason
from vlm_prep.core.records import Message
from vlm_prep.processors import internals
from vlm_prep.processors.fault_words import said
from vlm_prep.processors.load import LoadedProcessor
from vlm_prep.tokenize.chat.sentinels import (
    Edges,
    Piece,
    TextPlace,
    free_area,
    json_forms,
    mark_pieces,
    pieces_of,
    read_sentinels,
    widen_over_blanks,
)
from vlm_prep.tokenize.chat.substitution import place_by_substitution
from vlm_prep.tokenize.chat.template_probe import message as plain_message
from vlm_prep.tokenize.chat.template_probe import probe_template

_MOST_GAPS = 4096
Gap = tuple[str, ...]
"""What lies between two texts: roles of the messages that begin there, kinds of media."""


Places = tuple[TextPlace, ...]


@dataclass(frozen=True, slots=True)
class Rendered:
    """A rendered conversation."""

    text: str
    places: Places | None
    """Where each piece is, in order of the rendered text; None when the template changes contents."""
    missing: tuple[Piece, ...] = ()
    """Pieces that hold something and do not appear."""


def _compiled(loaded: LoadedProcessor) -> Any:
    from jinja2 import TemplateError

    try:
        return internals.compile_template.get()(loaded.chat_template)
    except (TemplateError, RecursionError, SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        where = "" if line is None else f" (line {line})"
        raise ProcessorError(
            f"{loaded.name}: its chat template is no Jinja{where}: {str(error).partition(chr(10))[0]}",
            "repair it, or give another one as `chat_template`",
        ) from error


class ChatTemplate:
    """A processor's chat template.

    Raises:
        ProcessorError: the processor has none, or it renders no assistant answer.
    """

    def __init__(self, loaded: LoadedProcessor) -> None:
        self.source = loaded.chat_template
        self._special = dict(loaded.hf.tokenizer.special_tokens_map)
        self._added = sorted(loaded.hf.tokenizer.get_added_vocab(), key=len, reverse=True)
        self._gaps: dict[Gap, str] = {}
        with bounded(f"{loaded.name}: its chat template"):
            # transformers' own compiled template; apply_chat_template around it costs twice the rendering
            self._compiled = _compiled(loaded)
            self.findings = probe_template(self.render, self.source, self._added, loaded.name)

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
                RejectReason.TEMPLATE_ERROR,
                f"the chat template refused: {said(error)} (`chat_template` gives another template)",
            ) from error
        return text

    def generated(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] | None) -> list[tuple[int, int]]:
        """Return the character spans that the template itself marks as written by a model."""
        if not self.findings.generation:
            return []
        _, spans = internals.render_with_spans.get()(
            self._compiled,
            messages=[_alias_reasoning(message) for message in messages],
            tools=tools,
            documents=None,
            add_generation_prompt=False,
            **self._special,
        )
        return [(int(start), int(end)) for start, end in spans]

    def render_marked(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] | None) -> Rendered:
        """Render a conversation and find where each of its texts landed.

        Raises:
            Reject: template_error.
        """
        text = self.render(messages, tools)
        gaps = _gaps_between(messages) if not tools else None
        if gaps is not None:
            places = self._place_by_gaps(text, messages, [self._gaps.get(gap) for gap in gaps])
            if places is not None:
                return Rendered(text, places)
        found = self._place_by_sentinels(text, messages, tools)
        if gaps is not None:
            written = _written_between(text, found.places, len(gaps) - 1)
            if written is not None and len(self._gaps) < _MOST_GAPS:
                self._gaps.update(zip(gaps, written, strict=True))
            if found.places is None or found.missing:
                # the sentinels got in the way of a template that looks into the content
                places = self._place_by_plain_texts(text, messages)
                if places is not None:
                    return Rendered(text, places)
        if found.places is None:
            inside = self._place_inside_blanks(text, messages, tools)
            return self._place_by_substitution(text, messages, tools) if inside is None else inside
        return found

    def _place_by_substitution(
        self, text: str, messages: Sequence[Message], tools: Sequence[dict[str, Any]] | None
    ) -> Rendered:
        """Place texts one by one; what cannot be placed and is nowhere in the text is missing."""
        places: list[TextPlace] | None = []
        missing = []
        for piece in self._pieces(messages):
            try:
                place = place_by_substitution(
                    lambda each: self.render(each, tools), text, messages, piece, self.findings.call_key
                )
            except Reject:  # a template may refuse the text that stands in
                place = None
            if place is None and not any(form in text for form in (piece.text.strip(), *json_forms(piece.text))):
                missing.append(piece)
            elif place is None:
                places = None
            elif places is not None:
                places.append(place)
        return Rendered(text, None if places is None else tuple(places), tuple(missing))

    def _place_by_plain_texts(self, text: str, messages: Sequence[Message]) -> Places | None:
        """Put the row together from what the template writes around the simplest texts in the same places.

        With this, whether a row has places depends on the row alone and not on which gaps are known already: rows must
        come out the same for any number of workers.
        """
        plain = [_with_texts(message, lambda text: "x" if text else text) for message in messages]
        try:
            rendered = self.render(plain)
        except Reject:
            return None
        places = self._place_by_sentinels(rendered, plain, None).places
        written = _written_between(rendered, places, sum(len(_texts_of(each)) for each in messages))
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
            for place, content in _texts_of(message):
                number += 1
                gap = known[number] or ""
                places.append(TextPlace(index, position, position + len(content), part=place))
                position += len(content) + len(gap)
                pieces += (content, gap)
        return tuple(places) if "".join(pieces) == text else None

    def _place_by_sentinels(
        self, text: str, messages: Sequence[Message], tools: Sequence[dict[str, Any]] | None
    ) -> Rendered:
        marked = self._render_with_sentinels(text, messages, tools, "outside")
        if marked is None:
            return Rendered(text, None)
        plain, places, missing, _ = marked
        return Rendered(text, tuple(places) if plain == text else None, missing)

    def _place_inside_blanks(
        self, text: str, messages: Sequence[Message], tools: Sequence[dict[str, Any]] | None
    ) -> Rendered | None:
        """Place texts by sentinels inside the blanks at their edges; None where that fails too."""
        marked = self._render_with_sentinels(text, messages, tools, "inside")
        if marked is None or marked[0] != text:
            return None
        bare = self._render_with_sentinels(text, messages, tools, "without")
        if bare is None:
            return None
        places = widen_over_blanks(text, marked[1], bare[0], bare[1], marked[3])
        return None if places is None else Rendered(text, tuple(places), marked[2])

    def _render_with_sentinels(
        self, text: str, messages: Sequence[Message], tools: Sequence[dict[str, Any]] | None, edges: Edges
    ) -> tuple[str, list[TextPlace], tuple[Piece, ...], list[Piece]] | None:
        """Return the text less its sentinels, the places found, the pieces missing, and all pieces."""
        area = free_area(text, len(self._pieces(messages)))
        if area is None:
            return None
        marked, pieces = mark_pieces(messages, area[0], edges, self.findings.call_key)
        try:
            with_sentinels = self.render(marked, tools)
        except Reject:
            # a template may refuse a marked text that it takes plain (a check on the content)
            return None
        plain, places, seen = read_sentinels(with_sentinels, pieces, area)
        missing = tuple(piece for number, piece in enumerate(pieces) if piece.text and number not in seen)
        return plain, places, missing, pieces

    def _pieces(self, messages: Sequence[Message]) -> list[Piece]:
        key = self.findings.call_key
        return [piece for index, message in enumerate(messages) for piece in pieces_of(message, index, key)]

    def frame(self) -> str:
        """Return what the template writes around turns of all roles and around media, in one-letter conversations."""
        media = [{"type": "image"}, {"type": "video"}, {"type": "audio"}]
        turns: list[list[Message]] = [
            [plain_message("system", "s", self.findings.parts), plain_message("user", "u", self.findings.parts)],
            [plain_message("user", "u", self.findings.parts), plain_message("assistant", "a", self.findings.parts)],
            [plain_message(role, "x", self.findings.parts) for role in ("user", "assistant", "tool", "assistant")],
        ]
        turns += [[{"role": "user", "content": [part, {"type": "text", "text": "u"}]}] for part in media]
        written = [self.findings.header]
        for messages in turns:
            try:
                written.append(self.render(messages))
            except Reject:
                continue  # a role or a kind of media that this template does not take
        return "\n".join(written)


def _alias_reasoning(message: Message) -> Message:
    """Name the reasoning as transformers does for templates that read `thinking`."""
    reasoning = message.get("reasoning_content")
    return message if reasoning is None else {"thinking": reasoning, **message}


def _texts_of(message: Message) -> list[tuple[int, str]]:
    """The texts of a message with their places in its content."""
    content = message["content"]
    if isinstance(content, str):
        return [(0, content)]
    return [(place, part["text"]) for place, part in enumerate(content) if "text" in part]


def _with_texts(message: Message, change: Callable[[str], str]) -> Message:
    content = message["content"]
    if isinstance(content, str):
        return {**message, "content": change(content)}
    return {**message, "content": [{**p, "text": change(p["text"])} if "text" in p else p for p in content]}


def _gaps_between(messages: Sequence[Message]) -> list[Gap] | None:
    """Return what lies before the first text, between each two, and after the last: roles that begin, media kinds.

    None for rows that a template may treat in special ways: tool calls, reasoning.
    """
    gaps: list[Gap] = []
    gap: list[str] = ["start"]
    for message in messages:
        content = message["content"]
        if "tool_calls" in message or "reasoning_content" in message:
            return None
        if isinstance(content, str):
            gaps.append((*gap, "\n" + message["role"] + "\n"))
            gap = []
            continue
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
