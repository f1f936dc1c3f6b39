"""What a chat template supports and how it writes an assistant turn, found out with small conversations.

Nothing is read off the template's source, except for two words that are part of its language (`generation`) or of its
interface (`developer`): what it does with a conversation is what counts.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from vlm_prep.core.errors import ProcessorError, Reject
from vlm_prep.core.records import Message
from vlm_prep.tokenize.chat.sentinels import CallKey

Render = Callable[..., str]
Reasoning = Literal["kept", "dropped from earlier turns", "ignored"]
_SENTINEL, _QUESTION, _CALL, _VALUE = "vlmprepsentinel", "vlmprepquestion", "vlmprepcall", "vlmprepvalue"
CALL_IDS = (None, "functions.f:0", "call00001")
"""Of calls: none, as Kimi's models write them, and of the nine letters that Mistral's templates ask for."""
_GENERATION = re.compile(r"{%-?\s*generation\s*-?%}")


@dataclass(frozen=True, kw_only=True)
class TemplateFindings:
    """What probing the template with small conversations showed."""

    turn_end: str
    """Text that closes an assistant turn, up to and including its end token, or its last word, or its last line break
    where it is blank (`_written_end`); empty if there is none."""
    end_is_token: bool
    """Whether it holds a token of the vocabulary's own, so that no text of the data can hold it."""
    middle_end: str
    """What closes a turn that others follow, where that is something else: an end may be written behind the last turn
    alone."""
    tail: str
    """All that the template writes behind the answer of a last turn."""
    after_last: str
    """What the template writes after the end of a last turn: a line break, an end of sequence."""
    header: str
    """Text that opens an assistant turn: the generation prompt."""
    turn_header: str
    """Text that opens an assistant turn of the conversation; the generation prompt may add to it (`<think>`)."""
    lead: str
    """Blanks between the header and an answer that the model has to write itself: the prompt ends before them."""
    header_is_prompt: bool
    """Whether an answer directly follows the header: not so where a template writes an empty <think> block first."""
    call_opening: str
    """What the template writes between a text and the name of the call behind it, less blanks; empty if unknown."""
    call_end: str
    """What closes a turn that calls, where that is something else: the model stops there to be given the result."""
    tools: bool
    tool_calls: bool
    """Whether a call's function and arguments are written."""
    call_key: CallKey
    """Where the name of a called function is taken from."""
    reasoning: bool
    parts: bool
    """Whether content is a list of typed parts (else a plain string)."""
    strings: bool
    """Whether content may be a plain string."""
    developer: bool
    """Whether it knows the role `developer`."""
    generation: bool
    """Whether it marks with {% generation %} what a model writes."""
    prefix_stable: bool
    """Whether a turn is written the same once others follow."""
    reasoning_of_earlier_turns: Reasoning
    trims: bool
    """Whether blanks at the edges of a text are lost."""

    def end_behind(self, text: str, said: int) -> int:
        """Return where the end of a turn ends that says its last character before `said`; `said` where none follows."""
        for end in (self.turn_end, self.middle_end, self.call_end):
            if end and text.startswith(end, said):
                return said + len(end)
        return said


def probe_template(render: Render, source: str, added: list[str], name: str) -> TemplateFindings:
    """Find out what a template does.

    Args:
        render: renders messages (and tools, add_generation_prompt); raises Reject.
        source: the template's text.
        added: the tokenizer's added tokens, longest first.
        name: of the processor, for messages.

    Raises:
        ProcessorError: it renders no assistant answer.
    """
    return _Probe(render, added, name).findings(source)


class _Probe:
    def __init__(self, render: Render, added: list[str], name: str) -> None:
        # some vocabularies add line breaks and runs of blanks, which are text
        self._render, self._added = render, [token for token in added if token.strip()]
        self.parts = self._content_reaches([{"type": "text", "text": _SENTINEL}])
        if not self.parts and not self._content_reaches(_SENTINEL):
            raise ProcessorError(f"{name}: its chat template renders no assistant answer")
        self.user = message("user", _QUESTION, self.parts)
        self.answer = message("assistant", _SENTINEL, self.parts)
        self._require_one_end(name)

    def findings(self, source: str) -> TemplateFindings:
        user, answer = self.user, self.answer
        whole = self._render([user, answer])
        start = whole.index(_SENTINEL)
        between = self._between_questions()
        tail = whole[start + len(_SENTINEL) :]
        last, middle = self._closings(whole, between)
        token = self._end_token(last, middle) or self._first_token(self._tail_between(between))
        turn_end = token or _written_end(last) or _written_end(middle)
        after_last = tail[len(turn_end) :] if turn_end and tail.startswith(turn_end) else ""
        closed, opened = self._prompt(after_last)
        followed = between if between.startswith(closed) and _SENTINEL in between else whole
        header = opened[len(closed) :]
        said = whole[len(opened) : start] if whole.startswith(opened) and len(opened) <= start else ""
        plain = message("assistant", "a", self.parts)
        self._call_key = self._name_of_calls(plain)
        return TemplateFindings(
            turn_end=turn_end,
            end_is_token=bool(token),
            middle_end=self._end_token(middle, middle) or _written_end(middle),
            tail=tail,
            after_last=after_last,
            header=header,
            turn_header=followed[len(closed) : followed.index(_SENTINEL)] if followed.startswith(closed) else "",
            lead=said if not said.strip() else "",
            header_is_prompt=whole[:start].endswith(header + said) and not said.strip(),
            call_opening=self._call_opening(),
            call_end=self._call_end(plain, turn_end),
            tools=self._mentions([user], tools=[_tool(_SENTINEL)]),
            tool_calls=self._call_key is not None,
            call_key=self._call_key or "name",
            reasoning=self._mentions([user, {**plain, "reasoning_content": _SENTINEL}]),
            parts=self.parts,
            strings=self._content_reaches(_SENTINEL),
            developer="developer" in source and self._mentions([message("developer", _SENTINEL, self.parts), user]),
            generation=_GENERATION.search(source) is not None,
            prefix_stable=self._is_prefix_stable(whole, turn_end),
            reasoning_of_earlier_turns=self._reasoning(plain),
            trims=self._trims(),
        )

    def _require_one_end(self, name: str) -> None:
        """Refuse a template that ends an answer otherwise by its place or its length: no end could be told from it."""
        longer = message("assistant", f"And {_SENTINEL}", self.parts)
        try:
            made = [self._render([self.user, self.answer]), self._render([self.user, self.answer, self.user, longer])]
        except Reject:  # it takes one answer alone
            return
        tails = [text.rpartition(_SENTINEL)[2] for text in made if _SENTINEL in text]
        if len(set(tails)) > 1:
            raise ProcessorError(
                f"{name}: its chat template ends one answer with {tails[0]!r} and another with {tails[1]!r}",
                "what is trained behind answers must be one text: give another one as `chat_template`",
            )

    def _prompt(self, after_last: str) -> tuple[str, str]:
        """A question without and with the generation prompt; the same twice where the one does not extend the other."""
        try:
            closed, opened = self._render([self.user]), self._render([self.user], add_generation_prompt=True)
        except Reject:
            return "", ""
        if not opened.startswith(closed) and after_last:
            # an end of sequence is not written before the prompt
            closed = closed.removesuffix(after_last)
        return (closed, opened) if opened.startswith(closed) else (opened, opened)

    def _between_questions(self) -> str:
        """An answer with a question before and after it, or nothing where the template refuses that."""
        try:
            return self._render([self.user, self.answer, self.user])
        except Reject:
            return ""

    def _tail_between(self, text: str) -> str:
        """What lies between the answer and the next question, less what opens a question."""
        try:
            opening = self._render([self.user]).partition(_QUESTION)[0]
        except Reject:
            return ""
        gap = text.partition(_SENTINEL)[2].partition(_QUESTION)[0]
        while gap and opening and gap[-1] == opening[-1]:
            gap, opening = gap[:-1], opening[:-1]
        return gap

    def _closings(self, whole: str, between: str) -> tuple[str, str]:
        """What closes an answer at the end of a conversation, and one that others follow.

        Args:
            whole: a question and its answer.
            between: see `_between_questions`.
        """
        opening, _, tail = whole.partition(_SENTINEL)
        gap, closing = between.partition(_SENTINEL)[2].partition(_QUESTION)[0], self._tail_between(between)
        if not tail or not gap:
            return tail, closing
        if gap.startswith(tail):
            return tail, tail
        shared = _shared(tail, gap)
        shared = shared[: len(shared) - len(re.split(r"\s", shared)[-1])]  # or it might end inside a word
        # a template may have another token for the end of the last turn: others end as questions do
        question = self._render([self.user]).partition(_QUESTION)[2]
        middle = min(shared, closing, key=len) or self._first_token(_shared(gap, question))
        # a header that is written whether asked for or not closes nothing
        is_header = tail.strip() and tail.strip() in opening.partition(_QUESTION)[2]
        return middle if is_header else tail, middle

    def _is_prefix_stable(self, whole: str, turn_end: str) -> bool:
        try:
            longer = self._render([self.user, self.answer, self.user, message("assistant", "b", self.parts)])
        except Reject:
            return False
        closed = whole[: whole.index(_SENTINEL) + len(_SENTINEL)]
        return longer.startswith(closed + (turn_end if whole.startswith(closed + turn_end) else ""))

    def _reasoning(self, plain: Message) -> Reasoning:
        thought = {**plain, "reasoning_content": _SENTINEL}
        if not self._mentions([self.user, thought]):
            return "ignored"
        return "kept" if self._mentions([self.user, thought, self.user, plain]) else "dropped from earlier turns"

    def _trims(self) -> bool:
        spaced = f"  {_SENTINEL}  "
        try:
            text = self._render([self.user, message("assistant", spaced, self.parts)])
        except Reject:
            return False
        return spaced not in text

    def _name_of_calls(self, plain: Message) -> CallKey | None:
        """Where the name of a called function is taken from; None where calls or their arguments are left out."""
        for identity in CALL_IDS:
            if self._mentions_all([self.user, {**plain, "tool_calls": [call(_CALL, identity)]}], _CALL, _VALUE):
                return "name"
        with_id = call("f", f"functions.{_CALL}:0")
        return "id" if self._mentions_all([self.user, {**plain, "tool_calls": [with_id]}], _CALL, _VALUE) else None

    def _mentions_all(self, messages: list[Message], *words: str) -> bool:
        try:
            text = self._render(messages)
        except Reject:
            return False
        return all(word in text for word in words)

    def _call_opening(self) -> str:
        text = ""
        by_id = self._call_key == "id"
        for made in [call("f", _CALL)] if by_id else [call(_CALL, identity) for identity in CALL_IDS]:
            try:
                text = text or self._render([self.user, {**self.answer, "tool_calls": [made]}])
            except Reject:
                continue  # a template may refuse calls without an id, or with one of another form
        said, between, name = text.partition(_SENTINEL)[2].partition(_CALL)
        return said.lstrip() if between and name else ""

    def _call_end(self, plain: Message, turn_end: str) -> str:
        """What is written up to the first token behind a call and no text, where it holds no end of other turns."""
        for identity in CALL_IDS if self._call_key == "name" else ():
            try:
                text = self._render([self.user, {**plain, "tool_calls": [call(_CALL, identity)]}])
            except Reject:
                continue
            # a text may be written before a call or behind it: what stands behind both closes the turn
            marked = self._render([self.user, {**self.answer, "tool_calls": [call(_CALL, identity)]}])
            behind = marked.partition(_SENTINEL)[2]
            return "" if _CALL in behind or turn_end in text.partition(_CALL)[2] else self._first_token(behind)
        return ""

    def _content_reaches(self, content: Any) -> bool:
        user = [{"type": "text", "text": _QUESTION}] if isinstance(content, list) else _QUESTION
        return self._mentions([{"role": "user", "content": user}, {"role": "assistant", "content": content}])

    def _mentions(self, messages: list[Message], tools: list[dict[str, Any]] | None = None) -> bool:
        try:
            text = self._render(messages, tools)
        except Reject:
            return False
        # a template that prints a list as Python or as JSON would show the sentinel inside of that; tools are JSON
        printed = tools is None and any(quoted in text for quoted in ("'type'", '"type"'))
        return _SENTINEL in text and not printed

    def _end_token(self, tail: str, middle: str) -> str:
        """A tail up to and including its first special token, and those right behind it that end other turns, too."""
        end = self._first_token(tail)
        while more := next((each for each in self._added if tail.startswith(each, len(end))), "") if end else "":
            if not middle.startswith(end + more):
                break
            end += more
        return end

    def _first_token(self, tail: str) -> str:
        """A tail up to and including the first special token in it, or nothing."""
        found = [(tail.find(token), -len(token), token) for token in self._added if token in tail]
        if not found:
            return ""
        position, _, token = min(found)
        return tail[: position + len(token)]


def _written_end(tail: str) -> str:
    """A tail up to and including its last word; of a blank one its line breaks: others join the next word."""
    return tail.rstrip() or tail[: max(tail.rfind("\n"), tail.rfind("\r")) + 1]


def _shared(one: str, other: str) -> str:
    """What two texts begin with."""
    length = next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return one[:length]


def message(role: str, text: str, parts: bool) -> Message:
    """Return a message of one text."""
    return {"role": role, "content": [{"type": "text", "text": text}] if parts else text}


def _tool(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "description": "d", "parameters": {"type": "object"}}}


def call(name: str, identity: str | None = None) -> dict[str, Any]:
    """Return a call of a function."""
    made = {"type": "function", "function": {"name": name, "arguments": {"a": _VALUE}}}
    return made if identity is None else {"id": identity, **made}
