"""Golden labels across the styles of chat templates: what is trained is written out, style by style.

Every conversation here is also compared with the real processor, and its labels with those found a second way.
A token that overlaps what is trained is trained whole: where a line break opens an answer behind a header that ends in
one, the vocabulary has one token for both.
"""

from __future__ import annotations

import numpy as np
import pytest
from chat_styles import STYLES
from label_told import ANSWERS, Styled, trained
from turns import assistant, user

from vlm_prep.core.records import Media

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
