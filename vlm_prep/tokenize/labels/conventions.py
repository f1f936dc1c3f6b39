"""Which structural tokens of a trained turn other trainers train, found by running their own code on the same rows.

What a turn says and the token that ends it is trained by all of them. They differ in what the chat template writes
around it (`tests/trainers/test_conventions.py` compares with TRL's, docs/labels.md tells the rest):

    header │ block of the template's own │ what is said │ end token │ line break
           │ (an empty <think>)          │              │           │
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from vlm_prep.core.label_convention import LabelConvention
from vlm_prep.tokenize.chat.template_probe import TemplateFindings
from vlm_prep.tokenize.labels.turns import Turn

Weighted = tuple[int, int, float]
"""Start, end, and the weight of what lies between; half open."""
_THINK = "<think>"


@dataclass(frozen=True)
class Convention:
    """What of a trained turn is trained besides what it says and its end token."""

    block: bool
    """What stands between its header and what it says: an empty think block, a think tag that a prompt opens."""
    line_break: bool
    """The line breaks behind its end token."""


CONVENTIONS: Final[dict[LabelConvention, Convention]] = {
    "ours": Convention(block=False, line_break=False),
    "trl": Convention(block=True, line_break=True),
    "llamafactory": Convention(block=True, line_break=True),
    "ms-swift": Convention(block=True, line_break=True),
    "automodel": Convention(block=True, line_break=False),
}


def apply_convention(
    spans: list[Weighted],
    text: str,
    turn: Turn,
    weight: float,
    findings: TemplateFindings,
    convention: LabelConvention,
    *,
    with_end: bool,
) -> list[Weighted]:
    """Return the trained spans of a turn with what its structure adds to ours, in characters.

    Args:
        spans: ours.
        text: as rendered.
        turn: where the turn is.
        weight: of the turn.
        findings: of the template.
        convention: whose.
        with_end: whether the turn's end is trained.
    """
    rule, start, stop = CONVENTIONS[convention], turn.start, turn.end
    if convention == "trl" and turn.generated is not None:
        # TRL trains what is marked, neither more nor less; its own templates are such
        start, stop = turn.generated
        spans = [(first, min(last, stop), share) for first, last, share in spans]
    else:
        if rule.block:
            start = _behind_header(text, turn, findings)
        while rule.line_break and with_end and turn.end > turn.said and text.startswith("\n", stop):
            stop += 1
    return [*spans, (start, turn.start, weight), (turn.end, stop, weight)]


def _behind_header(text: str, turn: Turn, findings: TemplateFindings) -> int:
    """Where the header before a turn ends, a think tag in it left out: trainers count that to the answer."""
    headers = [each.partition(_THINK)[0] for each in (findings.header, findings.turn_header)]
    header = min((each for each in headers if each.strip()), key=len, default="")
    position = text.rfind(header, 0, turn.start) if header else -1
    return position + len(header) if position >= 0 else turn.start
