"""The templates that TRL publishes for training: what we train beside what they mark with {% generation %}.

Each difference is of a kind that docs/labels.md explains, and its table names the templates: held here.
"""

from __future__ import annotations

import importlib.util
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from chat_styles import Style
from turns import assistant, user

from vlm_prep.core.errors import Reject

FOUND = importlib.util.find_spec("trl")
FOLDER = Path(next(iter(FOUND.submodule_search_locations or ())), "chat_templates") if FOUND else Path("absent")
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="TRL's templates: pip install '.[trainers]'")
MARKED = re.compile(r"{%-?\s*generation\s*-?%}")
TOKEN = re.compile(
    r"<\|[^|<>]{1,40}\|>|<[a-z_/]{2,30}>|\[/?[A-Z_]{2,20}\]|<｜[^｜]{1,40}｜>|<\|[a-zA-Z_\"]+>|<[a-zA-Z_]+\|>"
)
"""What a template writes that its model's vocabulary has as a token; `eos_token` comes from the built-in tokenizer."""
CALL = {"id": "call00001", "type": "function", "function": {"name": "f", "arguments": {"n": 1}}}
RESULT = {"role": "tool", "content": "4", "tool_call_id": "call00001", "name": "f"}


ROWS: dict[str, list[dict[str, Any]]] = {
    "an answer": [user("Hi"), assistant("Hello.")],
    "two": [user("A?"), assistant("a1"), user("B?"), assistant("b1")],
    "system": [{"role": "system", "content": "Be brief."}, user("A?"), assistant("a1"), user("B?"), assistant("b.")],
    "reasoning": [user("A?"), assistant("yes", reasoning_content="hm")],
    "reasoning twice": [
        *(user("A?"), assistant("yes", reasoning_content="hm")),
        *(user("B?"), assistant("no", reasoning_content="ho")),
    ],
    "a call": [user("A?"), assistant("", tool_calls=[CALL]), RESULT, assistant("z1")],
    "a call behind a text": [user("A?"), assistant("w1", tool_calls=[CALL]), RESULT, assistant("z1")],
}
REFUSED = {"template_error", "template_drops_content", "labels_undecidable", "processor_error"}


def templates() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.jinja") if MARKED.search(path.read_text(encoding="utf-8")))


def runs(mask: Any) -> Iterator[slice]:
    at = 0
    for value, run in groupby(mask.tolist()):
        length = len(list(run))
        if value:
            yield slice(at, at + length)
        at += length


def differences(made: Any, told: Any) -> set[str]:
    """The kinds of difference between what is trained and what the template marks."""
    tokenizer, findings = made.encoder.adapter.hf.tokenizer, made.encoder.template.findings
    ids, ours = told.encoded.input_ids, told.encoded.labels != -100
    stored = orjson.loads(told.encoded.conversation)["messages"]
    real = tokenizer.apply_chat_template(
        stored, chat_template=made.encoder.template.source, return_dict=True, return_assistant_tokens_mask=True
    )
    assert real["input_ids"] == ids.tolist()
    theirs = np.asarray(real["assistant_masks"], bool)
    more = {tokenizer.decode(ids[run]) for run in runs(ours & ~theirs)}
    kinds = {"tool response" if text == "<|tool_response>" else f"we train {text!r}" for text in more}
    # its last line break may be one token with one that the template writes behind it
    openings = tuple({each.rstrip() for each in (findings.header, findings.turn_header)})
    masked = any(message.get("train") is False for message in stored)
    for run in runs(theirs & ~ours):
        text, so_far = tokenizer.decode(ids[run]), tokenizer.decode(ids[: run.stop])
        behind_ours = run.start > 0 and bool(ours[run.start - 1])
        ahead_of_ours = run.stop < len(ids) and bool(ours[run.stop])
        if behind_ours and not text.strip():
            kinds.add("line break")
        elif behind_ours and text == findings.after_last and run.stop == len(ids):
            kinds.add("end of sequence")
        elif ahead_of_ours and so_far.rstrip().endswith(openings):
            kinds.add("opening")
        elif masked:
            kinds.add("rewritten history")
        else:
            kinds.add(f"they train {text!r}")
    return kinds


@pytest.fixture(scope="module")
def found(styled: Callable[..., Any]) -> dict[str, tuple[set[str], dict[str, str]]]:
    """{template: (kinds of difference, {row: the reason of its reject})}."""
    result = {}
    for name in templates():
        source = (FOLDER / f"{name}.jinja").read_text(encoding="utf-8")
        style = Style(template=source, tokens=tuple(sorted(set(TOKEN.findall(source)))), header="")
        made = styled(style, rewritten_history="mask")
        kinds: set[str] = set()
        rejects: dict[str, str] = {}
        for row, turns in ROWS.items():
            try:
                # compared with the real processor, labels with those found a second way
                (told,) = made.look(turns)
            except Reject as reject:
                rejects[row] = reject.reason.value
                continue
            kinds |= differences(made, told)
        result[name.removesuffix("_training")] = kinds, rejects
    return result


def test_every_template_trains_plain_answers(found: Any) -> None:
    assert len(found) >= 30
    for name, (_, rejects) in found.items():
        assert not {"an answer", "two"} & rejects.keys(), name
        assert set(rejects.values()) <= REFUSED, name


def test_each_difference_stands_in_the_documentation(found: Any) -> None:
    by_kind: dict[str, set[str]] = defaultdict(set)
    for name, (kinds, _) in found.items():
        for kind in kinds or {"none"}:
            by_kind[kind].add(name)
    page = (Path(__file__).parents[2] / "docs" / "labels.md").read_text(encoding="utf-8")
    table = page.partition("| difference |")[2].partition("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    documented = {cell[0]: set(cell[2].replace("`", "").split(", ")) for cell in cells}
    assert dict(by_kind) == documented
