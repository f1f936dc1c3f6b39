"""Golden labels where turns, ends, parts and weights are chosen, across the styles of chat templates."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from label_told import ANSWERS, Styled, trained
from turns import assistant, user

from vlm_prep.core.errors import Reject
from vlm_prep.core.records import Media
from vlm_prep.tokenize.placeholders import IGNORE

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
