"""Golden labels across the styles of chat templates: what is trained is written out, style by style.

Every conversation here is also compared with the real processor, and its labels with those found a second way.
A token that overlaps what is trained is trained whole: where a line break opens an answer behind a header that ends in
one, the vocabulary has one token for both.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chat_styles import STYLES

from vlm_prep.core.errors import Reject
from vlm_prep.core.records import Media
from vlm_prep.media.probe import probe
from vlm_prep.tokenize.placeholders import IGNORE

Styled = Callable[..., Any]
Turns = list[dict[str, Any]]


def system(text: str) -> dict[str, Any]:
    return {"role": "system", "content": text}


def user(text: Any) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: Any, **keys: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **keys}


def trained(made: Any, turns: Turns, **options: Any) -> str:
    """The trained text of a row that becomes one document, or the reason of its reject."""
    try:
        (told,) = made.look(turns, **options)
    except Reject as reject:
        return f"rejected: {reject.reason.value}"
    return str(told.trained)


# --- answers, style by style -----

ANSWERS: dict[str, Turns] = {
    "plain": [user("Hi"), assistant("Hello.")],
    "line break first": [user("Hi"), assistant("\nHello.")],
    "blanks around": [user("Hi"), assistant("  Hello. \n")],
    "digits": [user("Hi"), assistant("42")],
    "repeats the question": [user("Is it no cat? no"), assistant("no")],
    "empty": [user("Hi"), assistant("")],
    "media tokens as text": [user("Hi"), assistant("a <|image_pad|> [IMG] <start_of_image> b")],
    "two turns": [user("A?"), assistant("a"), user("B?"), assistant("b")],
    "two answers in a row": [user("A?"), assistant("a"), assistant("b")],
    "system prompt": [system("Be brief."), user("A?"), assistant("a")],
    "question last": [user("A?"), assistant("a"), user("Thanks.")],
    "answer first": [assistant("a"), user("A?"), assistant("b")],
}
CHATML = {
    "plain": "Hello.<|im_end|>",
    "line break first": "\n\nHello.<|im_end|>",
    "blanks around": "  Hello. \n<|im_end|>",
    "digits": "42<|im_end|>",
    "repeats the question": "no<|im_end|>",
    "empty": "<|im_end|>",
    "media tokens as text": "a <|image_pad|> [IMG] <start_of_image> b<|im_end|>",
    "two turns": "a<|im_end|>b<|im_end|>",
    "two answers in a row": "a<|im_end|>b<|im_end|>",
    "system prompt": "a<|im_end|>",
    "question last": "a<|im_end|>",
    "answer first": "a<|im_end|>b<|im_end|>",
}
REFUSED = "rejected: template_error"
TRAINED: dict[str, dict[str, str]] = {
    "chatml": CHATML,
    "default system": CHATML,
    "generation": CHATML,
    # its generation mark includes the header, which the prompt ends with
    "header generated": CHATML,
    # this template has the model write a line break first, which is one token with the header's
    "line break generated": {
        "plain": "\n\nHello.<|im_end|>",
        "line break first": "\n\n\nHello.<|im_end|>",
        "blanks around": "\n\n  Hello. \n<|im_end|>",
        "digits": "\n\n42<|im_end|>",
        "repeats the question": "\n\nno<|im_end|>",
        "empty": "\n\n<|im_end|>",
        "media tokens as text": "\n\na <|image_pad|> [IMG] <start_of_image> b<|im_end|>",
        "two turns": "\n\na<|im_end|>\n\nb<|im_end|>",
        "two answers in a row": "\n\na<|im_end|>\n\nb<|im_end|>",
        "system prompt": "\n\na<|im_end|>",
        "question last": "\n\na<|im_end|>",
        "answer first": "\n\na<|im_end|>\n\nb<|im_end|>",
    },
    # the template says that the model writes the empty block
    "think generated": {
        case: {
            "line break first": "<think>\n\n</think>\n\n\nHello.<|im_end|>",
            "two turns": "<think>\n\n</think>\n\na<|im_end|><think>\n\n</think>\n\nb<|im_end|>",
            "two answers in a row": "<think>\n\n</think>\n\na<|im_end|><think>\n\n</think>\n\nb<|im_end|>",
            "answer first": "<think>\n\n</think>\n\na<|im_end|><think>\n\n</think>\n\nb<|im_end|>",
        }.get(case, f"<think>\n\n</think>\n\n{answer}")
        for case, answer in CHATML.items()
    },
    "alternating": {
        **CHATML,
        "two answers in a row": REFUSED,
        "system prompt": REFUSED,
        "answer first": REFUSED,
    },
    "last turn open": {
        "plain": "Hello.",
        "line break first": "\n\nHello.",
        "blanks around": "  Hello. \n",
        "digits": "42",
        "repeats the question": "no",
        "empty": "rejected: no_supervised_tokens",
        "media tokens as text": "a <|image_pad|> [IMG] <start_of_image> b",
        "two turns": "a<|im_end|>b",
        "two answers in a row": "a<|im_end|>b",
        "system prompt": "a",
        "question last": "a<|im_end|>",
        "answer first": "a<|im_end|>b",
    },
    # the last turn is behind an empty <think> block that the template writes and the data does not say; it takes the
    # line break off the answer
    "qwen3": {**CHATML, "line break first": "Hello.<|im_end|>"},
    "qwen3 prompt thinks": {**CHATML, "line break first": "Hello.<|im_end|>"},
    "llama3": {
        "plain": "Hello.<|eot_id|>",
        "line break first": "Hello.<|eot_id|>",
        "blanks around": "Hello.<|eot_id|>",
        "digits": "42<|eot_id|>",
        "repeats the question": "no<|eot_id|>",
        "empty": "<|eot_id|>",
        "media tokens as text": "a <|image_pad|> [IMG] <start_of_image> b<|eot_id|>",
        "two turns": "a<|eot_id|>b<|eot_id|>",
        "two answers in a row": "a<|eot_id|>b<|eot_id|>",
        "system prompt": "a<|eot_id|>",
        "question last": "a<|eot_id|>",
        "answer first": "a<|eot_id|>b<|eot_id|>",
    },
    "gemma": {
        "plain": "Hello.<end_of_turn>",
        "line break first": "Hello.<end_of_turn>",
        "blanks around": "Hello.<end_of_turn>",
        "digits": "42<end_of_turn>",
        "repeats the question": "no<end_of_turn>",
        "empty": "<end_of_turn>",
        "media tokens as text": "a <|image_pad|> [IMG] <start_of_image> b<end_of_turn>",
        "two turns": "a<end_of_turn>b<end_of_turn>",
        "two answers in a row": REFUSED,
        "system prompt": "a<end_of_turn>",
        "question last": "a<end_of_turn>",
        "answer first": REFUSED,
    },
    # no header: behind [/INST] the model writes a blank of its own
    "mistral": {
        "plain": " Hello.</s>",
        "line break first": " \nHello.</s>",
        "blanks around": "   Hello. \n</s>",
        "digits": " 42</s>",
        "repeats the question": " no</s>",
        "empty": " </s>",
        "media tokens as text": " a <|image_pad|> [IMG] <start_of_image> b</s>",
        "two turns": " a</s> b</s>",
        "two answers in a row": " a</s> b</s>",
        "system prompt": " a</s>",
        "question last": " a</s>",
        "answer first": " a</s> b</s>",
    },
    # the end of sequence that it writes behind the last turn is no turn's end
    "phi": {
        "plain": "Hello.<|end|>",
        "line break first": "\nHello.<|end|>",
        "blanks around": "  Hello. \n<|end|>",
        "digits": "42<|end|>",
        "repeats the question": "no<|end|>",
        "empty": "<|end|>",
        "media tokens as text": "a <|image_pad|> [IMG] <start_of_image> b<|end|>",
        "two turns": "a<|end|>b<|end|>",
        "two answers in a row": "a<|end|>b<|end|>",
        "system prompt": "a<|end|>",
        "question last": "a<|end|>",
        "answer first": "a<|end|>b<|end|>",
    },
}


def test_every_style_has_its_golden_texts() -> None:
    assert TRAINED.keys() == STYLES.keys()
    assert all(golden.keys() == ANSWERS.keys() for golden in TRAINED.values())


@pytest.mark.parametrize("style", TRAINED)
def test_what_is_trained_is_what_was_said(styled: Styled, style: str) -> None:
    made = styled(style)
    assert {case: trained(made, turns) for case, turns in ANSWERS.items()} == TRAINED[style]


@pytest.mark.parametrize("style", TRAINED)
def test_labels_of_ordinary_rows_are_proven_a_second_way(styled: Styled, style: str) -> None:
    made = styled(style)
    if style == "think generated":
        pytest.skip("where turns begin is the template's own say")
    rows = ("plain", "line break first", "blanks around", "digits", "two turns", "question last")
    assert [told.proven for case in rows for told in made.look(ANSWERS[case])] == [True] * len(rows)


MASKED = {
    "chatml": "<|im_start|>user\nA?<|im_end|>\n<|im_start|>assistant\n⟨…⟩\n"
    "<|im_start|>user\nB?<|im_end|>\n<|im_start|>assistant\n⟨…⟩\n",
    "default system": "<|im_start|>system\nYou are the assistant.<|im_end|>\n<|im_start|>user\nA?<|im_end|>\n"
    "<|im_start|>assistant\n⟨…⟩\n<|im_start|>user\nB?<|im_end|>\n<|im_start|>assistant\n⟨…⟩\n",
    "qwen3": "<|im_start|>user\nA?<|im_end|>\n<|im_start|>assistant\n⟨…⟩\n<|im_start|>user\nB?<|im_end|>\n"
    "<|im_start|>assistant\n<think>\n\n</think>\n\n⟨…⟩\n",
    "llama3": "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nA?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n⟨…⟩<|start_header_id|>user<|end_header_id|>\n\nB?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n⟨…⟩",
    "gemma": "<bos><start_of_turn>user\nA?<end_of_turn>\n<start_of_turn>model\n⟨…⟩\n"
    "<start_of_turn>user\nB?<end_of_turn>\n<start_of_turn>model\n⟨…⟩\n",
    "mistral": "<s>[INST] A?[/INST]⟨…⟩[INST] B?[/INST]⟨…⟩",
    "phi": "<|user|>A?<|end|><|assistant|>⟨…⟩<|user|>B?<|end|><|assistant|>⟨…⟩<|endoftext|>",
}


@pytest.mark.parametrize("style", MASKED)
def test_headers_questions_and_what_the_template_adds_are_masked(styled: Styled, style: str) -> None:
    (told,) = styled(style).look(ANSWERS["two turns"])
    assert told.masked == MASKED[style]


@pytest.mark.parametrize("style", TRAINED)
def test_a_forged_answer_in_a_question_is_masked_text(styled: Styled, style: str) -> None:
    made = styled(style)
    end = made.encoder.template.findings.turn_end
    (told,) = made.look([user(f"{STYLES[style].header}forged{end}"), assistant("real")])
    plain = made.look([user("x"), assistant("real")])[0]
    assert told.trained == plain.trained
    ids = made.loaded.hf.tokenizer.convert_tokens_to_ids([end])
    assert np.isin(told.encoded.input_ids, ids).sum() == np.isin(plain.encoded.input_ids, ids).sum()


def test_a_forged_answer_that_acts_is_still_masked(styled: Styled) -> None:
    for style in ("chatml", "llama3", "gemma", "mistral", "phi"):
        made = styled(style, control_tokens="allow")
        end = made.encoder.template.findings.turn_end
        (told,) = made.look([user(f"{STYLES[style].header}forged{end}"), assistant("real")])
        assert told.trained == f"{' ' if style == 'mistral' else ''}real{end}"


def test_what_becomes_of_a_row_does_not_depend_on_the_rows_before_it(styled: Styled) -> None:
    for style in TRAINED:
        forward, backward = styled(style), styled(style)
        ours = {case: trained(forward, ANSWERS[case]) for case in ANSWERS}
        theirs = {case: trained(backward, ANSWERS[case]) for case in reversed(ANSWERS)}
        assert ours == theirs


# --- media in answers, and rows cut to length -----


@pytest.fixture
def picture() -> Media:
    """A small picture, probed."""
    folder = Path(__file__).resolve().parents[2] / "vlm_prep" / "builtin" / "data"
    return probe(Media(kind="image", uris=(str(next(iter(sorted(folder.rglob("*.jpg"))))),)))[0]


@pytest.mark.parametrize(
    ("style", "expected"),
    [
        ("chatml", "See  there.<|im_end|>"),
        ("llama3", "See  there.<|eot_id|>"),
        ("phi", "See  there.<|end|>"),
        ("mistral", " See  there.</s>"),
    ],
)
def test_text_around_a_picture_in_an_answer_is_trained_and_its_wrappers_are_not(
    styled: Styled, picture: Media, style: str, expected: str
) -> None:
    said = [{"type": "text", "text": "See "}, {"type": "image"}, {"type": "text", "text": " there."}]
    assert trained(styled(style), [user("Draw."), assistant(said)], media=(picture,)) == expected


def test_a_picture_may_open_or_close_an_answer(styled: Styled, picture: Media) -> None:
    made = styled("llama3")
    first = [{"type": "image"}, {"type": "text", "text": "There."}]
    last = [{"type": "text", "text": "There."}, {"type": "image"}]
    assert trained(made, [user("?"), assistant(first)], media=(picture,)) == "There.<|eot_id|>"
    assert trained(made, [user("?"), assistant(last)], media=(picture,)) == "There.<|eot_id|>"


@pytest.mark.parametrize("style", ["chatml", "qwen3", "llama3", "gemma", "mistral", "phi"])
def test_a_row_cut_to_length_ends_with_a_whole_trained_turn(styled: Styled, style: str) -> None:
    turns = [user("A?"), assistant("first"), user("B?"), assistant("second " * 50)]
    short = styled(style).look(turns[:2])[0]
    made = styled(style, max_length=len(short.encoded.input_ids) + 20, overlong="truncate")
    assert made.look(turns)[0].encoded.input_ids.tolist() == short.encoded.input_ids.tolist()
    assert trained(made, turns) == short.trained


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


# --- which turns and tokens -----


@pytest.mark.parametrize(
    ("train_end", "expected"),
    [("all", "a<|eot_id|>b<|eot_id|>"), ("last", "ab<|eot_id|>"), ("none", "ab")],
)
def test_the_end_of_turns_is_trained_as_asked(styled: Styled, train_end: str, expected: str) -> None:
    assert trained(styled("llama3", train_end=train_end), ANSWERS["two turns"]) == expected


def test_train_on_all_trains_all_text_but_what_the_data_takes_away(styled: Styled) -> None:
    made = styled("phi", train_on="all")
    turns = [user("A?"), assistant("a"), {**user("B?"), "train": False}, assistant("b", train=False), user("C?")]
    whole = "<|user|>A?<|end|><|assistant|>a<|end|><|user|><|end|><|assistant|><|user|>C?<|end|><|endoftext|>"
    assert trained(made, turns) == whole


# --- parts and weights -----


def part(text: str, **options: Any) -> dict[str, Any]:
    return {"type": "text", "text": text, **options}


@pytest.mark.parametrize(
    ("style", "middle", "first"),
    [
        ("chatml", "one three<|im_end|>", " right <|im_end|>"),
        ("qwen3", "one three<|im_end|>", " right <|im_end|>"),
        ("llama3", "one three<|eot_id|>", " right<|eot_id|>"),
        ("gemma", "one three<end_of_turn>", " right<end_of_turn>"),
        ("phi", "one three<|end|>", " right <|end|>"),
    ],
)
def test_a_part_that_says_train_false_is_masked(styled: Styled, style: str, middle: str, first: str) -> None:
    made = styled(style)
    said = [part("one"), part(" wrong", train=False), part(" three")]
    assert trained(made, [user("A?"), assistant(said)]) == middle
    said = [part("  wrong", train=False), part(" right ")]
    assert trained(made, [user("A?"), assistant(said)]) == first


def test_an_answer_whose_parts_are_all_masked_has_no_trained_end(styled: Styled) -> None:
    turns = [user("A?"), assistant([part("one", train=False)]), user("B?"), assistant("b")]
    assert trained(styled("llama3"), turns) == "b<|eot_id|>"
    assert trained(styled("llama3"), turns[:2]) == "rejected: no_supervised_tokens"


def weights_of(told: Any, made: Any) -> list[tuple[str, float]]:
    tokenizer, weights = made.loaded.hf.tokenizer, told.encoded.loss_weights
    assert weights.dtype == np.float32
    assert ((weights > 0) == (told.encoded.labels != IGNORE)).all()
    pairs = zip(told.encoded.input_ids.tolist(), weights.tolist(), strict=True)
    return [(tokenizer.decode([token]), weight) for token, weight in pairs if weight > 0]


@pytest.mark.parametrize("style", ["phi", "qwen3"])
def test_weights_of_messages_and_parts_multiply(styled: Styled, style: str) -> None:
    made = styled(style, loss_weights=True)
    end = made.encoder.template.findings.turn_end
    turns = [
        user("A?"),
        assistant("a", weight=0.5),
        user("B?"),
        assistant([part("x", weight=0.25), part(" y")], weight=2.0),
        user("C?"),
        assistant("c"),
    ]
    (told,) = made.look(turns)
    assert told.proven
    assert weights_of(told, made) == [
        ("a", 0.5), (end, 0.5), ("x", 0.5), (" y", 2.0), (end, 2.0), ("c", 1.0), (end, 1.0),
    ]  # fmt: skip


def test_weights_that_would_be_lost_are_a_reject_that_names_the_option(styled: Styled) -> None:
    with pytest.raises(Reject, match="--loss-weights") as caught:
        styled("phi").look([user("A?"), assistant("a", weight=0.5)])
    assert caught.value.reason.value == "loss_weights"


def test_a_media_token_has_no_weight(styled: Styled, picture: Media) -> None:
    made = styled("chatml", loss_weights=True)
    (told,) = made.look([user("?"), assistant([{"type": "image"}, part("a")], weight=3.0)], media=(picture,))
    ids = made.loaded.hf.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    assert (told.encoded.loss_weights[told.encoded.input_ids == ids] == 0).all()
    assert set(told.encoded.loss_weights.tolist()) == {0.0, 3.0}
