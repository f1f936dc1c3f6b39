"""What share of each dataset's and role's tokens is trained, and which rows and turns are not as they should be.

Counted are the tokens of the rendered text, a picture or video as one. To a turn of the assistant belongs all from
where the model begins to its end token; to other messages their texts; the rest (headers, schemas) is the template's.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from vlm_prep.core.records import Encoded, Message, Rejected
from vlm_prep.tokenize.chat.tool_text import Tools
from vlm_prep.tokenize.coordinates import PlacedChar
from vlm_prep.tokenize.encoder import SampleEncoder
from vlm_prep.tokenize.labels.answers import EMPTY_ANSWERS
from vlm_prep.tokenize.labels.masks import mask_tokens
from vlm_prep.tokenize.labels.spans import trained_messages

TEMPLATE = "template"
MOST_NAMED = 10


@dataclass
class Audit:
    """Counts over rows.

    Args:
        encoder: the encoder that made them.
    """

    encoder: SampleEncoder
    tokens: dict[tuple[str, str], Counter[str]] = field(default_factory=dict)
    """{(dataset, role): {tokens, trained}}."""
    rows: Counter[str] = field(default_factory=Counter)
    rejects: Counter[str] = field(default_factory=Counter)
    none_trained: list[str] = field(default_factory=list)
    """Rows of which no token would be trained."""
    open_turns: list[str] = field(default_factory=list)
    """Trained turns, as `sample_id message n`, whose end token is not trained though the settings ask for it."""

    empty_answers: list[str] = field(default_factory=list)
    """Rows with a trained answer that says nothing: its end token alone is trained."""

    def add(self, result: Encoded | Rejected) -> None:
        """Count a row's document or reject."""
        if isinstance(result, Rejected):
            self.rows["rejected"] += 1
            self.rejects[result.reason] += 1
            if result.reason == "no_supervised_tokens":
                self.none_trained.append(result.sample_id)
            return
        self.rows["documents"] += 1
        if EMPTY_ANSWERS in result.notes:
            self.empty_answers.append(result.sample_id)
        self.rows["written"] += result.document == 1
        row = orjson.loads(result.conversation)
        roles, trained, open_turns = trained_by_role(self.encoder, row["messages"], row.get("tools"))
        for role, is_trained in zip(roles, trained.tolist(), strict=True):
            counts = self.tokens.setdefault((result.dataset, role), Counter(tokens=0, trained=0))
            counts.update(tokens=1, trained=int(is_trained))
        self.open_turns += [f"{result.sample_id} message {index + 1}" for index in open_turns]

    @property
    def sound(self) -> bool:
        """Whether every row trains something and every trained turn ends in a trained token."""
        return not self.none_trained and not self.open_turns

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        datasets: dict[str, dict[str, Any]] = {}
        for (dataset, role), counts in sorted(self.tokens.items()):
            share = round(counts["trained"] / counts["tokens"], 4)
            datasets.setdefault(dataset, {})[role] = {**counts, "share": share}
        return {
            "rows": {name: self.rows[name] for name in ("written", "documents", "rejected")},
            "rejects": dict(sorted(self.rejects.items(), key=lambda item: (-item[1], item[0]))),
            "datasets": datasets,
            "rows_with_nothing_trained": self.none_trained,
            "turns_without_trained_end": self.open_turns,
            "rows_with_empty_answers": self.empty_answers,
            "sound": self.sound,
        }

    def render(self) -> str:
        """Return the audit as text for a terminal."""
        found = self.to_json()
        counts, rejects = found["rows"], ", ".join(f"{count:,} {name}" for name, count in found["rejects"].items())
        lines = [
            f"{counts['written'] + counts['rejected']:,} rows: {counts['written']:,} usable "
            f"({counts['documents']:,} documents), {counts['rejected']:,} rejected{f' ({rejects})' if rejects else ''}",
            f"  {'dataset':<24} {'role':<10} {'tokens':>12} {'trained':>12} {'share':>8}",
        ]
        for dataset, roles in found["datasets"].items():
            lines += [
                f"  {dataset:<24} {role:<10} {each['tokens']:>12,} {each['trained']:>12,} {each['share']:>8.1%}"
                for role, each in roles.items()
            ]
        lines.append(_named("rows with nothing trained", self.none_trained))
        lines.append(_named("turns whose end token is not trained", self.open_turns))
        lines.append(_named("rows with an answer that says nothing (empty_answers)", self.empty_answers))
        return "\n".join(lines)


def _named(what: str, names: list[str]) -> str:
    more = f" and {len(names) - MOST_NAMED:,} more" if len(names) > MOST_NAMED else ""
    shown = f": {', '.join(names[:MOST_NAMED])}{more}" if names else ""
    return f"  {what}: {len(names):,}{shown}".replace(": 0", ": none")


def trained_by_role(
    encoder: SampleEncoder, messages: list[Message], tools: Tools
) -> tuple[list[str], NDArray[np.bool_], list[int]]:
    """Tell whose the tokens of a stored conversation are, before media are expanded, and which are trained.

    Returns:
        The role of each token, `TEMPLATE` for what no message says; whether it is trained; and the trained messages
        whose end token is not trained though the settings ask for it.
    """
    answers = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    whole = encoder.read(messages, tools, answers)
    wanted = trained_messages(messages, encoder.config.train_on)
    turns = {index: turn for index, turn in whole.turns.items() if index in wanted}
    tokens, spans, _ = encoder.tokens(replace(whole, turns=turns))
    trained = mask_tokens(tokens, [(start, end) for start, end, _ in spans]) & ~encoder.is_media(tokens.ids)

    def covers(start: int, end: int) -> NDArray[np.bool_]:
        first, last = encoder.in_bytes(whole, [PlacedChar(start), PlacedChar(end)])
        return mask_tokens(tokens, [(first, last)])

    roles = np.full(len(tokens.ids), TEMPLATE, object)
    for place in whole.rendered.places or ():
        if place.message not in whole.turns:
            roles[covers(place.start, place.end)] = messages[place.message]["role"]
    for index, turn in whole.turns.items():
        roles[covers(turn.start, turn.end)] = messages[index]["role"]
    asked = {"all": sorted(turns), "last": sorted(turns)[-1:], "none": []}[encoder.config.train_end]
    unclosed = [index for index in asked if not (covers(turns[index].said, turns[index].end) & trained).any()]
    return roles.tolist(), trained, unclosed
