"""Which characters of the rendered text are trained, and with which weight.

Trained is what the assistant said and the token that ends its turn, nothing else; settings and the data's own `train`
and `weight` take parts of that away or weigh them. Where a mask would have to be guessed the row is rejected.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from vlm_prep.core.errors import Reject, RejectReason
from vlm_prep.core.label_convention import LabelConvention
from vlm_prep.core.records import Message
from vlm_prep.core.settings import TokenizeConfig, TrainOn
from vlm_prep.tokenize.chat.sentinels import TextPlace, says_something
from vlm_prep.tokenize.chat.template_probe import TemplateFindings
from vlm_prep.tokenize.coordinates import RenderedChar, RenderedSpan
from vlm_prep.tokenize.labels.conventions import Weighted, apply_convention
from vlm_prep.tokenize.labels.turns import Turn, undecidable

OPTIONS = ("train", "weight")
PARTS = "text_parts"
"""Key of a message whose parts were joined to one string and hold options: the parts as they were."""
_MARK = "[\U000f0000-\U000ffffd\U00100000-\U0010fffd]?"
_THOUGHT = re.compile(rf"\s*{_MARK}<think>.*?</think>{_MARK}\s*", re.DOTALL)
"""Reasoning written into an answer, also where its tags are marked as text (`control_tokens`)."""


def trained_messages(messages: Sequence[Message], train_on: TrainOn) -> list[int]:
    """Return the indices of the assistant messages to train: all or the last, less those with `train: false` and those
    of media alone.

    With "all" these too, since what of the text is theirs has to be known to leave it out.
    """
    answers = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    if train_on == "last":
        answers = answers[-1:]
    if train_on == "all":
        return answers
    return [index for index in answers if weight_of(messages[index]) > 0 and not is_media_alone(messages[index])]


def is_media_alone(message: Message) -> bool:
    """Whether a message holds media and nothing of it is trained: no words, reasoning or calls."""
    content = message["content"]
    if isinstance(content, str) or message.get("reasoning_content") or message.get("tool_calls"):
        return False
    return any("text" not in part for part in content) and not any(part.get("text", "").strip() for part in content)


def weight_of(options: Mapping[str, Any]) -> float:
    """Return the weight that a message or a part says it has; 0 for `train: false`, 1 where it says nothing."""
    return float(options.get("weight", 1.0)) if options.get("train", True) else 0.0


def uses_weights(messages: Sequence[Message]) -> bool:
    """Whether a row says any weight other than 0 and 1."""
    return any(
        "weight" in item
        for message in messages
        for item in (message, *(part for part in _parts(message) if isinstance(part, dict)))
    )


def _parts(message: Message) -> Sequence[Any]:
    content = message.get(PARTS, message["content"])
    return content if isinstance(content, list) else ()


def weigh(
    text: str,
    turns: Mapping[int, Turn],
    messages: Sequence[Message],
    findings: TemplateFindings,
    config: TokenizeConfig,
    others: Sequence[TextPlace] | None = None,
    convention: LabelConvention | None = None,
) -> list[RenderedSpan]:
    """Return the character spans that are trained, in order, apart from each other.

    Args:
        text: as rendered.
        turns: the assistant messages to train and where they are.
        messages: as rendered.
        findings: of the template.
        config: which kinds of text are trained.
        others: where the texts of all messages are, for train_on="all".
        convention: of structural tokens, in place of the config's.

    Raises:
        Reject: labels_undecidable.
    """
    spans: list[Weighted] = []
    closing = max(turns, default=-1)
    for index in sorted(turns):
        with_end = config.train_end == "all" or (config.train_end == "last" and index == closing)
        own = _turn_spans(text, turns[index], messages[index], findings, config, with_end=with_end)
        whose, weight = convention or config.label_convention, weight_of(messages[index])
        spans += apply_convention(own, text, turns[index], weight, findings, whose, with_end=with_end)
    if config.train_on == "all":
        spans = _all_spans(text, turns, spans, messages, others)
    return sorted(
        (RenderedChar(start), RenderedChar(end), weight) for start, end, weight in spans if weight > 0 and end > start
    )


def _turn_spans(
    text: str, turn: Turn, message: Message, findings: TemplateFindings, config: TokenizeConfig, *, with_end: bool
) -> list[Weighted]:
    weight = weight_of(message)
    turn = _from_what_is_said(text, turn, message, findings)
    spans: list[Weighted] = [(turn.start, turn.said, weight)]
    exceptions = _exceptions(text, turn, message, findings, config)
    if not exceptions:
        return [(turn.start, turn.end if with_end else turn.said, weight)]
    for start, end, share in exceptions:
        spans = paint(spans, start, end, weight * share)
    # a turn of which nothing is trained does not end in a trained token; an empty answer is its end token alone
    with_end = with_end and (turn.said == turn.start or any(share > 0 for _, _, share in spans))
    return [*spans, (turn.said, turn.end, weight)] if with_end else spans


def _from_what_is_said(text: str, turn: Turn, message: Message, findings: TemplateFindings) -> Turn:
    """Let a turn that says nothing but calls begin with the first of them, where blanks stand between it and those that
    its header ends with, which may become one token: the model is asked behind the header, and never writes that.
    Blanks that it has to write before each answer stay, and so do those that are all of an answer."""
    content = message["content"]
    texts = [content] if isinstance(content, str) else [part.get("text", "media") for part in content]
    header_is_open = turn.start > 0 and text[turn.start - 1].isspace() and not findings.lead
    says_more = any(each.strip() for each in texts) or message.get("reasoning_content")
    if says_more or not message.get("tool_calls") or not header_is_open:
        return turn
    written = text[turn.start : turn.said]
    return replace(turn, start=turn.start + len(written) - len(written.lstrip()))


def _exceptions(
    text: str, turn: Turn, message: Message, findings: TemplateFindings, config: TokenizeConfig
) -> list[Weighted]:
    """What of a turn is weighted otherwise than the whole: parts with options, reasoning, calls."""
    masks_reasoning = not config.train_reasoning and bool(message.get("reasoning_content"))
    masks_calls = not config.train_tool_calls and bool(message.get("tool_calls"))
    has_options = any(option in part for part in _parts(message) for option in OPTIONS)
    written = None if config.train_reasoning else _THOUGHT.match(_first_text(message))
    has_media = any("text" not in part for part in _parts(message))
    if not (masks_reasoning or masks_calls or has_options or has_media or written):
        return []
    if has_media and not says_something(message):
        return [(turn.start, turn.said, 0.0)]
    if turn.pieces is None:
        why = "its parts, reasoning, calls and media are not found apart in what the chat template writes"
        raise undecidable(turn.message, why)
    found = _part_spans(text, turn.pieces, message) if has_options else []
    if has_media:
        found += _media_spans(text, turn, message, findings)
    if written:
        found.append(_thought_span(text, turn, written.group()))
    if masks_reasoning:
        found.append((turn.start, _region_end(text, turn, "reasoning", findings), 0.0))
    if masks_calls:
        found.append((_calls_start(text, turn, findings), _region_end(text, turn, "call", findings), 0.0))
    return found


def _media_spans(text: str, turn: Turn, message: Message, findings: TemplateFindings) -> list[Weighted]:
    """What the template writes for media of an answer: all between the texts on either side."""
    pieces = turn.pieces or ()
    places = {place.part: place for place in pieces if place.kind == "text" and place.end > place.start}
    thought = max((place.end for place in pieces if place.kind == "reasoning"), default=None)
    called = any(place.kind == "call" for place in pieces)
    found: list[Weighted] = []
    for number, part in enumerate(message["content"]):
        if "text" in part:
            continue
        before = [place.end for each, place in places.items() if each < number]
        after = [place.start for each, place in places.items() if each > number]
        if thought is not None and not before:
            why = "what the chat template writes behind its reasoning is not apart from that around its media"
            raise undecidable(turn.message, why)
        stop = min(after) if after else _calls_start(text, turn, findings) if called else turn.said
        found.append((max(before, default=turn.start), stop, 0.0))
    return found


def _part_spans(text: str, pieces: Sequence[TextPlace], message: Message) -> list[Weighted]:
    places = {place.part: place for place in pieces if place.kind == "text"}
    if PARTS not in message:
        parts = message["content"]
        return [(places[n].start, places[n].end, weight_of(parts[n])) for n in places if set(OPTIONS) & set(parts[n])]
    if 0 not in places:
        return []  # an empty text
    whole, place = message["content"], places[0]
    if "".join(part["text"] for part in message[PARTS]) != whole:
        raise undecidable(
            place.message, "a control token stands across two of its parts, which have options of training"
        )
    # the template may have cut blanks off the edges
    cursor = place.start - whole.index(text[place.start : place.end])
    spans: list[Weighted] = []
    for part in message[PARTS]:
        start, cursor = cursor, cursor + len(part["text"])
        if set(OPTIONS) & set(part):
            spans.append((max(start, place.start), min(cursor, place.end), weight_of(part)))
    return spans


def _first_text(message: Message) -> str:
    content = message["content"]
    return content if isinstance(content, str) else str(content[0].get("text", "")) if content else ""


def _thought_span(text: str, turn: Turn, written: str) -> Weighted:
    """Reasoning that the data writes into the answer's text, as it stands in the rendered turn."""
    first = next((place for place in turn.pieces or () if place.kind == "text"), None)
    found = None if first is None else _THOUGHT.match(text[first.start : first.end])
    if first is None or found is None:
        raise undecidable(turn.message, "the chat template writes the reasoning in its text in another form")
    return turn.start, first.start + found.end(), 0.0


def _region_end(text: str, turn: Turn, kind: str, findings: TemplateFindings) -> int:
    """Where the turn's reasoning or calls end: where the next piece of another kind begins, or the turn ends."""
    pieces = turn.pieces or ()
    last = max(number for number, place in enumerate(pieces) if place.kind == kind)
    if last + 1 == len(pieces):
        return turn.said
    return _calls_start(text, turn, findings) if pieces[last + 1].kind == "call" else pieces[last + 1].start


def _calls_start(text: str, turn: Turn, findings: TemplateFindings) -> int:
    """Where the turn's calls begin: behind its text, or, behind reasoning, with the opening that templates write."""
    pieces = turn.pieces or ()
    first = min(number for number, place in enumerate(pieces) if place.kind == "call")
    if not first:
        return turn.start
    before = pieces[first - 1]
    if before.kind == "text" and before.end > before.start:
        return before.end
    opening, name = findings.call_opening, pieces[first].start
    if not opening or not text.endswith(opening, before.end, name):
        raise undecidable(turn.message, "where its calls begin is not told by what the chat template writes")
    return name - len(opening)


def _all_spans(
    text: str,
    turns: Mapping[int, Turn],
    spans: Sequence[Weighted],
    messages: Sequence[Message],
    others: Sequence[TextPlace] | None,
) -> list[Weighted]:
    """Train the whole text, less what the data or the settings take away."""
    painted: list[Weighted] = [(0, len(text), 1.0)]
    for turn in turns.values():
        painted = paint(painted, turn.start, turn.end, 0.0)
    for start, end, weight in spans:
        painted = paint(painted, start, end, weight)
    for index, message in enumerate(messages):
        if index in turns or not _has_options(message):
            continue
        places = [place for place in others or () if place.message == index]
        if not places:
            raise undecidable(index)
        for place in places:
            painted = paint(painted, place.start, place.end, weight_of(message))
        for start, end, weight in _part_spans(text, places, message):
            painted = paint(painted, start, end, weight_of(message) * weight)
    return painted


def _has_options(message: Message) -> bool:
    return any(option in item for item in (message, *_parts(message)) for option in OPTIONS)


def paint(spans: Sequence[Weighted], start: int, end: int, weight: float) -> list[Weighted]:
    """Give [start, end) another weight where it lies on `spans`.

    Worked example: (0, 10, 1) painted 3 to 5 with 0 gives (0, 3, 1), (3, 5, 0), (5, 10, 1).
    """
    painted: list[Weighted] = []
    for first, last, old in spans:
        begin, stop = max(first, start), min(last, end)
        if begin >= stop:
            painted.append((first, last, old))
            continue
        pieces = ((first, begin, old), (begin, stop, weight), (stop, last, old))
        painted += [piece for piece in pieces if piece[1] > piece[0]]
    return painted


def reject_weights() -> Reject:
    """Return the reject of a row whose weights would be lost."""
    return Reject(
        RejectReason.LOSS_WEIGHTS,
        "the row gives weights other than 0 and 1; --loss-weights stores a weight for each token",
    )
