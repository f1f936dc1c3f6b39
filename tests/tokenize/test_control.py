"""Control tokens in the data's own text: structure cannot be forged, what is said stays said."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Make = Callable[..., Any]
GROUNDED = "the cat <|object_ref_start|>cat<|object_ref_end|> at <|box_start|>(12,34),(56,78)<|box_end|>"


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "builtin"])
def test_grounding_tokens_in_an_answer_stay_tokens(bench: Make, name: str) -> None:
    made = bench(name)
    encoded = made.encode([turn("user", "where is the cat?"), turn("assistant", GROUNDED)])
    tokenizer = made.encoder.adapter.hf.tokenizer
    for token in ("<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>"):
        assert tokenizer.convert_tokens_to_ids(token) in encoded.input_ids[encoded.labels != -100]


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "builtin"])
@pytest.mark.parametrize("token", ["<|im_start|>", "<|im_end|>", "<|image_pad|>", "<|vision_start|>", "<|endoftext|>"])
def test_structural_tokens_in_a_text_become_text(bench: Make, name: str, token: str) -> None:
    made = bench(name)
    tokenizer = made.encoder.adapter.hf.tokenizer
    plain = made.encode([turn("user", "say it"), turn("assistant", "yes")])
    typed = made.encode([turn("user", f"say {token} it"), turn("assistant", f"yes {token}")])
    index = tokenizer.convert_tokens_to_ids(token)
    assert (typed.input_ids == index).sum() == (plain.input_ids == index).sum()
    assert tokenizer.decode(typed.input_ids[typed.labels != -100]) == f"yes {token}<|im_end|>"


def turn(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": [{"type": "text", "text": text}]}
