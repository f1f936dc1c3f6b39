"""Trained spans found a second way, to prove the first: without sentinels.

A turn's ends come from renders of the conversation's prefixes, with and without the generation prompt. Its pieces
come from substitution: the conversation is rendered once more with one text replaced by a single character, and what
differs between the renders is where that text stands. Each costs a render, so this is for the compared rows only. What
it shares with the first way is the decision of what of a turn is trained (`spans.weigh`), not where the turn is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from vlm_prep.core.errors import Reject
from vlm_prep.core.records import Message
from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.tokenize.chat.sentinels import TextPlace, pieces_of
from vlm_prep.tokenize.chat.substitution import place_by_substitution
from vlm_prep.tokenize.chat.template import ChatTemplate
from vlm_prep.tokenize.coordinates import RenderedSpan
from vlm_prep.tokenize.labels.spans import trained_messages, weigh
from vlm_prep.tokenize.labels.turns import Tools, Turn, turn_by_prefix


def second_spans(
    template: ChatTemplate, messages: list[Message], tools: Tools, config: TokenizeConfig
) -> tuple[str, list[RenderedSpan]] | None:
    """Return the rendered text and its trained spans in characters, or None where this way does not tell."""
    if config.label_convention == "trl" and template.findings.generation:
        return None  # what the template's marks say is all that there is
    try:
        text = template.render(messages, tools)
        turns = {}
        for index in trained_messages(messages, config.train_on):
            turn = _turn(template, text, messages, tools, index)
            if turn is None:
                return None
            turns[index] = turn
        others = _all_places(template, text, messages, tools) if config.train_on == "all" else ()
        return None if others is None else (text, weigh(text, turns, messages, template.findings, config, others))
    except Reject:
        return None


def _turn(template: ChatTemplate, text: str, messages: list[Message], tools: Tools, index: int) -> Turn | None:
    places = _places(template, text, messages, tools, index)
    turn = turn_by_prefix(template, text, messages, tools, index)
    if turn is not None:
        return replace(turn, pieces=places)
    if template.findings.generation:
        return None  # the template has its own say on where such a turn begins
    if not places or places[0].kind != "text" or places[-1].kind != "text" or not _is_text(messages[index]):
        return None
    # a template that writes something of its own before the answer: it begins with its text
    said = places[-1].end
    return Turn(index, places[0].start, said, template.findings.end_behind(text, said), places)


def _is_text(message: Message) -> bool:
    content = message["content"]
    return isinstance(content, str) or all("text" in part for part in content)


def _places(
    template: ChatTemplate, text: str, messages: list[Message], tools: Tools, index: int
) -> tuple[TextPlace, ...] | None:
    """Where each piece of a message stands, in order of the text; None where one cannot be told."""
    places = []
    key = template.findings.call_key
    for piece in pieces_of(messages[index], index, key):
        place = place_by_substitution(lambda each: template.render(each, tools), text, messages, piece, key)
        if place is None:
            return None
        places.append(place)
    return tuple(sorted(places, key=lambda place: place.start))


def _all_places(template: ChatTemplate, text: str, messages: list[Message], tools: Tools) -> Sequence[TextPlace] | None:
    found: list[TextPlace] = []
    for index, message in enumerate(messages):
        if message["role"] == "assistant":
            continue
        places = _places(template, text, messages, tools, index)
        if places is None:
            return None
        found += places
    return found
