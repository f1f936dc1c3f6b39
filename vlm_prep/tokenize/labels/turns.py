"""Where each assistant turn stands in the rendered text, and what of it is what.

Two ways, both by structure:

- by pieces: the places of the turn's texts, reasoning and calls, as sentinels showed them (`template.render_marked`).
  The turn begins with its first piece, or, where something else comes first (a think tag, a call's opening, a picture),
  behind the header that the template wrote before it. It ends with the turn end that must follow its last piece.
- by prefixes, where sentinels show nothing: the conversation rendered up to the message with the generation prompt, and
  up to and including it; the first must be a prefix of the second and the second of the whole (prefix stability).

A turn that neither way finds whole has no place: the template dropped or rewrote something of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from vlm_prep.core.errors import Reject, RejectReason
from vlm_prep.core.records import Message
from vlm_prep.tokenize.chat.sentinels import TextPlace, pieces_of
from vlm_prep.tokenize.chat.template import ChatTemplate, Rendered
from vlm_prep.tokenize.chat.template_probe import TemplateFindings

Span = tuple[int, int]
"""Characters, half open."""
Tools = Sequence[dict[str, Any]] | None


@dataclass(frozen=True, slots=True)
class Turn:
    """One assistant message in the rendered text. Characters, half open."""

    message: int
    start: int
    """First character that the model has to write."""
    said: int
    """End of what it says."""
    end: int
    """Behind what ends the turn; `said` where nothing does."""
    pieces: tuple[TextPlace, ...] | None
    """The turn's texts, reasoning and calls in order; None where only its ends are known."""
    generated: Span | None = None
    """What the template marks as generated around it, if it does."""


def find_turns(
    template: ChatTemplate, rendered: Rendered, messages: Sequence[Message], tools: Tools, wanted: Sequence[int]
) -> dict[int, Turn]:
    """Return the wanted turns that stand whole in the rendered text."""
    found: dict[int, Turn] = {}
    finder = _ByPieces(template, rendered, messages, tools)
    generated = template.generated(messages, tools) if template.findings.generation else []
    for index in wanted:
        turn = finder.find(index)
        if turn is None and (rendered.places is None or not finder.lacks(index)):
            turn = turn_by_prefix(template, rendered.text, messages, tools, index)
        if turn is not None:
            found[index] = finder.from_generation(turn, generated) if generated else turn
    return found


class _ByPieces:
    """Turns by the places of their pieces."""

    def __init__(self, template: ChatTemplate, rendered: Rendered, messages: Sequence[Message], tools: Tools) -> None:
        self._template, self._findings, self._tools = template, template.findings, tools
        self._text, self._messages = rendered.text, messages
        self._places = _once(sorted(rendered.places or (), key=lambda place: place.start))
        self._lacking = {piece.message for piece in rendered.missing}
        self._numbers: dict[int, list[int]] = {}
        for number, place in enumerate(self._places):
            self._numbers.setdefault(place.message, []).append(number)

    def lacks(self, index: int) -> bool:
        """Whether something of a message is known not to appear."""
        return index in self._lacking

    def floor(self, index: int) -> int:
        """Where the text of the messages before a turn ends, as far as it is known."""
        numbers = self._numbers.get(index)
        return self._places[numbers[0] - 1].end if numbers and numbers[0] else 0

    def find(self, index: int) -> Turn | None:
        numbers, message = self._numbers.get(index), self._messages[index]
        if not numbers or index in self._lacking:
            return None
        first, last = numbers[0], numbers[-1]
        if last - first + 1 != len(numbers):
            return None
        pieces = self._whole(message, index, [self._places[number] for number in numbers])
        if pieces is None:
            return None
        start = self._start(message, pieces, self.floor(index))
        limit = self._places[last + 1].start if last + 1 < len(self._places) else len(self._text)
        ends = self._ends(message, pieces[-1], limit, index)
        if start is None or ends is None or start > ends[0]:
            return None
        if pieces[0].kind == "call" and pieces[-1].kind == "text" and not self._is_own(index, start, ends[0]):
            return None
        return Turn(index, start, ends[0], ends[1], pieces)

    def _is_own(self, index: int, start: int, said: int) -> bool:
        """Whether a turn stands so without what follows it. A template may write the results of calls between these and
        the text beside them (Gemma 4), and a result of media alone has no text that would part them."""
        try:
            closed = self._template.render(self._messages[: index + 1], self._tools)
        except Reject:
            return False
        return self._text[start:said] in closed

    def _whole(self, message: Message, index: int, places: Sequence[TextPlace]) -> tuple[TextPlace, ...] | None:
        """The places of a message's pieces, where each piece is there once."""
        if len(places) == 1 and places[0].kind == "text" and _is_one_text(message):
            return (places[0],)
        expected = sorted((piece.kind, piece.part) for piece in pieces_of(message, index, self._findings.call_key))
        # places found by what lies between texts have empty texts too
        pieces = tuple(place for place in places if place.end > place.start or (place.kind, place.part) in expected)
        return pieces if sorted((place.kind, place.part) for place in pieces) == expected else None

    def _start(self, message: Message, pieces: Sequence[TextPlace], floor: int) -> int | None:
        first, content = pieces[0], message["content"]
        if first.kind == "text" and (isinstance(content, str) or _are_empty(content[: first.part])):
            lead = self._findings.lead
            start = first.start - len(lead)
            return start if lead and start >= floor and self._text.startswith(lead, start) else first.start
        behind = self._behind_header(floor, first.start)
        if behind is None:
            return self._behind_prompt(first, floor)
        opening = self._findings.call_opening
        if first.kind == "call" and opening and self._text.endswith(opening, behind, first.start):
            # what a template writes of its own before a call (an empty <think> block) is not said
            blank = not self._text[behind : first.start - len(opening)].strip()
            return behind if blank else first.start - len(opening)
        return behind

    def _behind_prompt(self, first: TextPlace, floor: int) -> int | None:
        """The end of the generation prompt, for templates that write no header."""
        if not self._findings.header_is_prompt:
            return None
        try:
            before = self._messages[: first.message]
            opened = self._template.render(before, self._tools, add_generation_prompt=True) if before else ""
        except Reject:
            return None
        stands = self._text.startswith(opened) and floor <= len(opened) <= first.start
        return len(opened) if stands else None

    def _behind_header(self, floor: int, stop: int) -> int | None:
        """The end of the last assistant header between the texts before a turn and its first piece."""
        for header in sorted({self._findings.header, self._findings.turn_header}, key=len, reverse=True):
            position = self._text.rfind(header, floor, stop) if header.strip() else -1
            if position >= 0:
                return position + len(header)
        return None

    def from_generation(self, turn: Turn, generated: Sequence[Span]) -> Turn:
        """Let a turn begin where the template says that the model begins, but not before the end of its header."""
        floor, header = self.floor(turn.message), self._findings.header
        position = self._text.rfind(header, floor, turn.start) if header.strip() else -1
        floor = position + len(header) if position >= 0 else floor
        around = [(start, end) for start, end in generated if start < turn.start <= end]
        starts = [max(start, floor) for start, _ in around]
        marks = around or [(start, end) for start, end in generated if start == turn.start]
        return replace(turn, start=min([*starts, turn.start]), generated=marks[0] if marks else None)

    def _ends(self, message: Message, last: TextPlace, limit: int, index: int) -> Span | None:
        turn_end, content = self._findings.turn_end, message["content"]
        if last.kind == "text" and (isinstance(content, str) or _are_empty(content[last.part + 1 :])):
            return last.end, self._findings.end_behind(self._text, last.end)
        for end in (turn_end, self._findings.call_end):
            if not end:
                continue
            if end.strip() in _arguments(message):
                position = self._end_behind_arguments(end, last, index)
            else:
                position = self._text.find(end, last.end, limit)
            if position >= 0:
                return position, position + len(end)
        return None

    def _end_behind_arguments(self, end: str, last: TextPlace, index: int) -> int:
        """Where a turn ends whose calls hold the words of its end: where the conversation does that stops with it."""
        try:
            closed = self._template.render(self._messages[: index + 1], self._tools)
        except Reject:
            return -1
        position = closed.rfind(end)
        behind = position + len(end)
        is_last = closed[behind:].strip() in ("", self._findings.after_last.strip())
        return position if is_last and position >= last.end and self._text.startswith(closed[:behind]) else -1


def _is_one_text(message: Message) -> bool:
    content = message["content"]
    if message.get("tool_calls") or message.get("reasoning_content"):
        return False
    return isinstance(content, str) or (len(content) == 1 and "text" in content[0])


def _are_empty(parts: Sequence[dict[str, Any]]) -> bool:
    return all(part.get("text") == "" for part in parts)


def _once(places: Sequence[TextPlace]) -> list[TextPlace]:
    """The places less the later ones of a function's name: templates repeat it beside the call's result."""
    calls: set[tuple[int, int]] = set()
    kept = []
    for place in places:
        if place.kind == "call":
            if (place.message, place.part) in calls:
                continue
            calls.add((place.message, place.part))
        kept.append(place)
    return kept


def _arguments(message: Message) -> str:
    """The text of a message's calls: what a template writes behind their names."""
    return orjson.dumps(message.get("tool_calls")).decode() if message.get("tool_calls") else ""


def turn_by_prefix(
    template: ChatTemplate, text: str, messages: Sequence[Message], tools: Tools, index: int
) -> Turn | None:
    """Return a turn from renders of the conversation's prefixes, or None where they do not tell."""
    if not template.findings.header_is_prompt and not messages[index].get("reasoning_content"):
        return None  # the template writes something of its own between the prompt and what is said
    try:
        span = _span_by_prefix(template, text, messages, tools, index)
    except Reject:
        return None  # a template may refuse a conversation that stops here
    if span is None:
        return None
    start, said = span
    return Turn(index, start, said, template.findings.end_behind(text, said), None)


def _span_by_prefix(
    template: ChatTemplate, text: str, messages: Sequence[Message], tools: Tools, index: int
) -> Span | None:
    """Where a turn begins, and where what it says ends."""
    findings = template.findings
    opened = template.render(messages[:index], tools, add_generation_prompt=True) if index else ""
    closed = template.render(messages[: index + 1], tools)
    if not index or not closed.startswith(opened):
        before = template.render(messages[:index], tools) if index else ""
        before = before.removesuffix(findings.after_last)
        position = closed.find(findings.header, len(before)) if closed.startswith(before) and findings.header else -1
        if position < 0:
            return None
        opened = closed[: position + len(findings.header)]
    elif findings.turn_header.strip() and closed.startswith(findings.turn_header, len(opened)):
        # behind a tool's result a prompt may write nothing, and the turn in the conversation its header
        opened += findings.turn_header
    said = _said_by_tail(findings, opened, closed)
    if said is None or not text.startswith(closed[:said]):
        return None
    # what ends the turn as the last one must end it here too, unless it was open or the template leaves it open here
    ended = said == len(closed) or not findings.middle_end or findings.end_behind(text, said) > said
    return (len(opened), said) if ended else None


def _said_by_tail(findings: TemplateFindings, opened: str, closed: str) -> int | None:
    """Where a last turn ends that begins behind `opened`: before what a template writes behind such a turn."""
    if not findings.end_is_token:
        # plain text is found by its place, not by its words: an answer may hold them
        said = len(closed) - len(findings.tail)
        return said if closed.endswith(findings.tail) and said >= len(opened) else None
    position = closed.rfind(findings.turn_end, len(opened))
    if position < 0:
        return len(closed.removesuffix(findings.call_end)) if findings.call_end else len(closed)
    rest = closed[position + len(findings.turn_end) :]
    return None if rest.strip() and rest != findings.after_last else position


def undecidable(
    index: int, why: str = "it does not appear as the data has it in what the chat template writes"
) -> Reject:
    """Return the reject of a row whose mask cannot be told."""
    return Reject(
        RejectReason.LABELS_UNDECIDABLE,
        f"message {index + 1}: {why}, so its mask cannot be decided (`chat_template` gives another template, "
        '`"train": false` on the message leaves it out)',
    )
