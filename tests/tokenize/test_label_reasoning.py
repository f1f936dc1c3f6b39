"""Golden labels of reasoning, tool calls and results across the styles of chat templates."""

from __future__ import annotations

from typing import Any

import pytest
from label_told import Styled, trained
from turns import assistant, user

from vlm_prep.core.errors import Reject

# --- reasoning -----

THOUGHT = [user("A?"), assistant("a", reasoning_content="hm")]
TWICE = [*THOUGHT, user("B?"), assistant("b", reasoning_content="ho")]


@pytest.mark.parametrize(
    "answer",
    [assistant("a", reasoning_content="hm"), assistant("<think>\nhm\n</think>\n\na"), assistant("<think>hm</think>a")],
    ids=["apart", "in the text", "in the text without line breaks"],
)
def test_reasoning_is_trained_from_where_the_prompt_ends(styled: Styled, answer: dict[str, Any]) -> None:
    turns = [user("A?"), answer]
    assert trained(styled("qwen3"), turns) == "<think>\nhm\n</think>\n\na<|im_end|>"
    assert trained(styled("qwen3 prompt thinks"), turns) == "hm\n</think>\n\na<|im_end|>"
    for style in ("qwen3", "qwen3 prompt thinks"):
        assert trained(styled(style, train_reasoning=False), turns) == "a<|im_end|>"


def test_reasoning_in_the_text_is_masked_on_demand_where_the_template_knows_none(styled: Styled) -> None:
    turns = [user("A?"), assistant("<think>hm</think>a <think>b</think>")]
    assert trained(styled("llama3"), turns) == "<think>hm</think>a <think>b</think><|eot_id|>"
    assert trained(styled("llama3", train_reasoning=False), turns) == "a <think>b</think><|eot_id|>"


def test_an_empty_think_block_in_the_data_is_the_templates(styled: Styled) -> None:
    blank = "<think>\n\n</think>\n\n"
    turns = [user("A?"), assistant(blank + "a"), user("B?"), assistant(blank + "b")]
    assert trained(styled("qwen3"), turns) == "a<|im_end|>b<|im_end|>"


@pytest.mark.parametrize("style", ["qwen3", "qwen3 prompt thinks"])
def test_a_turn_whose_reasoning_the_template_drops_is_a_reject_that_names_the_option(
    styled: Styled, style: str
) -> None:
    with pytest.raises(Reject, match="--rewritten-history split") as caught:
        styled(style).look(TWICE)
    assert caught.value.reason.value == "rewritten_history"


def test_dropped_reasoning_of_a_turn_that_is_not_trained_is_as_the_model_sees_it(styled: Styled) -> None:
    assert trained(styled("qwen3", train_on="last"), TWICE) == "<think>\nho\n</think>\n\nb<|im_end|>"
    turns = [TWICE[0], {**TWICE[1], "train": False}, *TWICE[2:]]
    assert trained(styled("qwen3"), turns) == "<think>\nho\n</think>\n\nb<|im_end|>"


def test_a_rewritten_history_is_trained_turn_by_turn(styled: Styled) -> None:
    documents = styled("qwen3", rewritten_history="split").look(TWICE)
    assert [(each.encoded.sample_id, each.trained) for each in documents] == [
        ("a/0~1", "<think>\nhm\n</think>\n\na<|im_end|>"),
        ("a/0~2", "<think>\nho\n</think>\n\nb<|im_end|>"),
    ]
    assert [each.masked for each in documents] == [
        "<|im_start|>user\nA?<|im_end|>\n<|im_start|>assistant\n⟨…⟩\n",
        "<|im_start|>user\nA?<|im_end|>\n<|im_start|>assistant\na<|im_end|>\n"
        "<|im_start|>user\nB?<|im_end|>\n<|im_start|>assistant\n⟨…⟩\n",
    ]
    assert all(each.proven for each in documents)


def test_a_split_makes_as_few_documents_as_the_template_allows(styled: Styled) -> None:
    made = styled("qwen3", rewritten_history="split")
    turns = [*THOUGHT, user("B?"), assistant("b"), user("C?"), assistant("c", reasoning_content="so")]
    assert [each.trained for each in made.look(turns)] == [
        "<think>\nhm\n</think>\n\na<|im_end|>",
        "b<|im_end|><think>\nso\n</think>\n\nc<|im_end|>",
    ]
    assert [each.encoded.sample_id for each in made.look(THOUGHT)] == ["a/0"]


def test_a_rewritten_turn_may_be_left_out(styled: Styled) -> None:
    made = styled("qwen3", rewritten_history="mask")
    assert trained(made, TWICE) == "<think>\nho\n</think>\n\nb<|im_end|>"
    assert trained(made, [*THOUGHT, user("B?")]) == "rejected: no_supervised_tokens"


def test_a_split_row_is_cut_to_the_documents_that_fit(styled: Styled) -> None:
    turns = [*THOUGHT, user("B?"), assistant("b " * 80, reasoning_content="ho")]
    first = styled("qwen3", rewritten_history="split").look(turns)[0].encoded.input_ids
    cut = styled("qwen3", rewritten_history="split", max_length=len(first) + 40, overlong="truncate").look(turns)
    assert [each.encoded.input_ids.tolist() for each in cut] == [first.tolist()]
    made = styled("qwen3", rewritten_history="split", max_length=len(first) + 40)
    assert trained(made, turns) == "rejected: overlong"


def test_a_template_that_drops_a_text_wherever_it_stands_rewrites_nothing(styled: Styled) -> None:
    made = styled("mistral", rewritten_history="split")
    turns = [user("A?"), assistant("Wait.", tool_calls=[CALL])]
    assert trained(made, turns, tools=TOOLS) == "rejected: template_drops_content"


# --- tool calls and results -----

CALL = {"type": "function", "function": {"name": "f", "arguments": {"n": 1}}}
TOOLS = [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}]
RESULT = {"role": "tool", "content": "4"}
WRITTEN = '<tool_call>\n{"name": "f", "arguments": {"n": 1}}\n</tool_call>'
COMPACT = '<tool_call>\n{"name":"f","arguments":{"n":1}}\n</tool_call>'
WITH_TEXT = [user("A?"), assistant("Wait.", tool_calls=[CALL, CALL]), RESULT, assistant("It is 4.")]
CALL_ONLY = [user("A?"), assistant("", tool_calls=[CALL]), RESULT, assistant("4")]
REASONED = [
    user("A?"),
    assistant("", tool_calls=[CALL], reasoning_content="hm"),
    RESULT,
    assistant("4", reasoning_content="ho"),
]


@pytest.mark.parametrize(
    ("style", "with_text", "call_only"),
    [
        ("qwen3", f"Wait.\n{WRITTEN}\n{WRITTEN}<|im_end|>It is 4.<|im_end|>", f"{WRITTEN}<|im_end|>4<|im_end|>"),
        ("llama3", f"Wait.\n{COMPACT}\n{COMPACT}<|eot_id|>It is 4.<|eot_id|>", f"{COMPACT}<|eot_id|>4<|eot_id|>"),
        ("phi", f"Wait.\n{COMPACT}\n{COMPACT}<|end|>It is 4.<|end|>", f"{COMPACT}<|end|>4<|end|>"),
        (
            "mistral",
            "rejected: template_drops_content",
            '[TOOL_CALLS] [{"name": "f", "arguments": {"n": 1}}]</s> 4</s>',
        ),
    ],
)
def test_calls_are_trained_and_results_are_not(styled: Styled, style: str, with_text: str, call_only: str) -> None:
    made = styled(style)
    assert trained(made, WITH_TEXT, tools=TOOLS) == with_text
    assert trained(made, CALL_ONLY, tools=TOOLS) == call_only


def test_calls_are_masked_on_demand(styled: Styled) -> None:
    # the line break behind "Wait." is one token with its full stop
    assert trained(styled("qwen3", train_tool_calls=False), WITH_TEXT) == "Wait.\n<|im_end|>It is 4.<|im_end|>"
    assert trained(styled("llama3", train_tool_calls=False), WITH_TEXT) == "Wait.\n<|eot_id|>It is 4.<|eot_id|>"
    assert trained(styled("qwen3", train_tool_calls=False), CALL_ONLY) == "4<|im_end|>"
    assert trained(styled("mistral", train_tool_calls=False), CALL_ONLY) == " 4</s>"


def test_reasoning_before_a_call_is_apart_from_it(styled: Styled) -> None:
    both = f"<think>\nhm\n</think>\n\n{WRITTEN}<|im_end|><think>\nho\n</think>\n\n4<|im_end|>"
    assert trained(styled("qwen3"), REASONED) == both
    assert trained(styled("qwen3", train_reasoning=False), REASONED) == f"{WRITTEN}<|im_end|>4<|im_end|>"
    without_call = both.replace(WRITTEN, "")
    assert trained(styled("qwen3", train_tool_calls=False), REASONED) == without_call
