"""Labels under other templates on a real processor: trimmed, forgotten, rewritten and refused turns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from label_outcomes import END, Make, outcome, reason
from turns import assistant, user

from vlm_prep.core.errors import Reject
from vlm_prep.tokenize.placeholders import IGNORE

# --- other templates on a real processor -----

CONTENT = (
    "{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endif %}"
)
AS_TEXT = "{% set ns = namespace(t='') %}{% for p in m.content %}{% set ns.t = ns.t + p.text %}{% endfor %}"
PROMPT = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
TRIMS = (
    "{% for m in messages %}" + AS_TEXT + "<|im_start|>{{ m.role }}\n{{ ns.t | trim }}<|im_end|>\n{% endfor %}" + PROMPT
)
NO_SYSTEM = (
    "{% for m in messages %}{% if m.role != 'system' %}<|im_start|>{{ m.role }}\n" + CONTENT + "<|im_end|>\n"
    "{% endif %}{% endfor %}" + PROMPT
)
FORGETS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and not loop.last %}...{% else %}"
    + CONTENT
    + "{% endif %}<|im_end|>\n{% endfor %}"
    + PROMPT
)
REWRITES = (
    "{% for m in messages %}" + AS_TEXT + "<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and not loop.last %}{{ ns.t.split('</think>')[-1] | trim }}"
    "{% else %}{{ ns.t }}{% endif %}"
    "<|im_end|>\n{% endfor %}" + PROMPT
)
MISTRAL = (
    "{% for m in messages %}{% if m.role == 'user' %}[INST] " + CONTENT + "[/INST]{% elif m.role == 'assistant' %}"
    " " + CONTENT + "<|endoftext|>{% endif %}{% endfor %}"
)
STRICT = (
    "{% for m in messages %}{% if m.role not in ['user', 'assistant'] %}"
    "{{ raise_exception('only user and assistant, not ' + m.role) }}{% endif %}"
    "<|im_start|>{{ m.role }}\n" + CONTENT + "<|im_end|>\n{% endfor %}" + PROMPT
)
TWICE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n" + CONTENT + "<|im_end|>\n{% endfor %}" + PROMPT +
    "{% if not add_generation_prompt %}{% for m in messages %}{% if m.role == 'assistant' %}Again: " + CONTENT +
    "\n{% endif %}{% endfor %}{% endif %}"
)  # fmt: skip
THINKS = (
    "{% for m in messages %}" + AS_TEXT + "<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' %}{% set r = '' %}{% set c = ns.t %}{% if '</think>' in ns.t %}"
    "{% set r = ns.t.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
    "{% set c = ns.t.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "{% if loop.last %}<think>\n{{ r }}\n</think>\n\n{{ c }}{% else %}{{ c }}{% endif %}{% else %}{{ ns.t }}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
TWO_TURNS = [user("A?"), assistant("a"), user("B?"), assistant("b")]


def test_a_template_that_trims_trains_what_it_left(bench: Make) -> None:
    made = bench("qwen2_5_vl", template=TRIMS)
    assert made.trained(TWO_TURNS) == f"a{END}b{END}"
    spaced = [user(" A? "), assistant("  a\n"), user("B?\n"), assistant("\n b")]
    assert made.trained(spaced) == f"a{END}b{END}"


def test_a_template_without_system_turns_rejects_rows_that_have_one(bench: Make) -> None:
    made = bench("qwen2_5_vl", template=NO_SYSTEM)
    assert made.trained(TWO_TURNS) == f"a{END}b{END}"
    system = {"role": "system", "content": "Be brief."}
    assert reason(lambda: made.encode([system, *TWO_TURNS])) == "template_drops_content"


def test_a_dropped_text_is_found_beside_a_dropped_empty_one(bench: Make) -> None:
    made = bench("qwen2_5_vl", template=NO_SYSTEM)
    empty, full = {"role": "system", "content": ""}, {"role": "system", "content": "Be brief."}
    assert reason(lambda: made.encode([empty, full, *TWO_TURNS])) == "template_drops_content"
    assert made.trained([empty, *TWO_TURNS]) == f"a{END}b{END}"


def test_a_dropped_text_is_found_beside_written_control_tokens(bench: Make) -> None:
    made = bench("qwen2_5_vl", template=NO_SYSTEM)
    turns = [{"role": "system", "content": "Be brief."}, user("what is <|im_end|>?"), assistant("a")]
    assert reason(lambda: made.encode(turns)) == "template_drops_content"


def test_a_template_that_forgets_earlier_answers_rejects_such_rows(bench: Make) -> None:
    made = bench("qwen2_5_vl", template=FORGETS)
    assert made.trained([user("A?"), assistant("a")]) == f"a{END}"
    assert reason(lambda: made.encode(TWO_TURNS)) == "rewritten_history"


def test_a_template_that_rewrites_earlier_turns_never_half_trains(bench: Make) -> None:
    made = bench("qwen2_5_vl", template=REWRITES)
    assert made.trained(TWO_TURNS) == f"a{END}b{END}"
    thought = "<think>hm</think>a"
    assert made.trained([user("A?"), assistant(thought)]) == thought + END
    turns = [user("A?"), assistant(thought), user("B?"), assistant("b")]
    assert reason(lambda: made.encode(turns)) == "rewritten_history"


def test_a_template_without_an_assistant_header_is_right(bench: Make) -> None:
    made = bench("qwen2_5_vl", template=MISTRAL)
    end = "<|endoftext|>"
    # the blank before the answer is the template's, and one token with its first word
    assert made.trained(TWO_TURNS) == f" a{end} b{end}"
    assert made.trained([user("say [/INST] a"), assistant("[INST] a [/INST]")]) == f" [INST] a [/INST]{end}"
    assert reason(lambda: made.encode([{"role": "system", "content": "S"}, *TWO_TURNS])) == "template_drops_content"


def test_a_role_that_the_template_refuses_is_a_template_error(bench: Make) -> None:
    made = bench("qwen2_5_vl", template=STRICT)
    assert made.trained(TWO_TURNS) == f"a{END}b{END}"
    turns = [{"role": "system", "content": "S"}, *TWO_TURNS]
    with pytest.raises(Reject, match="only user and assistant, not system") as caught:
        made.encode(turns)
    assert caught.value.reason.value == "template_error"


def test_a_template_that_writes_an_answer_twice_never_trains_what_lies_between(bench: Make) -> None:
    made = bench("qwen2_5_vl", template=TWICE)
    assert reason(lambda: made.encode([user("A?"), assistant("an answer"), user("B?")])) == "labels_undecidable"
    assert reason(lambda: made.encode(TWO_TURNS)) == "labels_undecidable"


def test_a_template_with_a_think_block_trains_the_answer(bench: Make) -> None:
    made = bench("qwen3_vl", template=THINKS, control_tokens="allow")
    assert made.trained([user("A?"), assistant("a")]) == f"a{END}"
    thought = "<think>\nhm\n</think>\n\na"
    assert made.trained([user("A?"), assistant(thought)]) in (thought + END, thought.removeprefix("<think>\n") + END)
    turns = [user("A?"), assistant(thought), user("B?"), assistant("b")]
    assert reason(lambda: made.encode(turns)) == "rewritten_history"


def test_what_becomes_of_a_row_does_not_depend_on_the_rows_before_it(bench: Make) -> None:
    """Workers see other rows first; the output may not differ."""
    rows = [
        TWO_TURNS,
        [user("A?"), assistant("<think>\nhm\n</think>\n\na")],
        [user("A?"), assistant("<think>\nhm</think>a")],
        [user("<|im_end|>"), assistant("a")],
        [user("A? "), assistant("a")],
        [user("A?"), assistant("\na ")],
        [{"role": "system", "content": "S"}, user("A?"), assistant("a"), user(""), assistant("b")],
        [user("\U000f0005"), assistant("a")],
    ]

    def labels(made: Any, row: Any) -> Any:
        return outcome(lambda: made.encode(row).labels.tolist())

    for template in (None, TRIMS, NO_SYSTEM, FORGETS, REWRITES, MISTRAL, TWICE, THINKS):
        forward, backward = bench("builtin", template=template), bench("builtin", template=template)
        ours = [labels(forward, row) for row in rows]
        theirs = [labels(backward, row) for row in reversed(rows)]
        alone = [labels(bench("builtin", template=template), row) for row in rows]
        assert ours == list(reversed(theirs)) == alone, template


@pytest.mark.parametrize("text", ["\U000f0000", "\U000f0001<|im_end|>", "\U00100000 and \U000f0000", "\U0010fffd"])
def test_private_characters_in_the_data_are_no_marks(bench: Make, text: str) -> None:
    made = bench("qwen2_5_vl", control_tokens="allow")
    if "<|im_end|>" in text:
        text = text.replace("<|im_end|>", "")
    assert made.trained([user(text), assistant("a")]) == f"a{END}"
    assert made.trained([user("A?"), assistant(text)]) == text + END


def test_labels_are_ids_or_ignored(bench: Make) -> None:
    encoded = bench("builtin").encode(TWO_TURNS)
    ignored = encoded.labels == IGNORE
    assert ignored.any()
    assert (encoded.labels[~ignored] == encoded.input_ids[~ignored]).all()
    assert encoded.labels.dtype == encoded.input_ids.dtype == np.int32
