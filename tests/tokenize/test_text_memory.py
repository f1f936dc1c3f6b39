"""gigatoken's memory of words is bounded, and a new one gives the same ids."""

from __future__ import annotations

import random
from collections.abc import Callable
from unittest.mock import Mock

import numpy as np
import pytest

from vlm_prep.processors.load import LoadedProcessor
from vlm_prep.tokenize import text as module
from vlm_prep.tokenize.text import TextEncoder

pytestmark = pytest.mark.usefixtures("own_tables")
ALPHABET = "abcdefghijklmnopqrstuvwxyzäöüß你好世界안녕привет"


def new_words(seed: int) -> str:
    draw = random.Random(seed)
    return " ".join("".join(draw.choices(ALPHABET, k=draw.randint(3, 9))) for _ in range(500))


def test_it_is_made_again_when_the_process_has_grown_and_gives_the_same_ids(
    loaded: Callable[[str], LoadedProcessor], monkeypatch: pytest.MonkeyPatch
) -> None:
    gigatoken = pytest.importorskip("gigatoken")
    made = Mock(side_effect=gigatoken.Tokenizer)
    monkeypatch.setattr(gigatoken, "Tokenizer", made)
    monkeypatch.setattr(module, "LOOK_AFTER", 1)
    monkeypatch.setattr(module, "MOST_GROWTH", -1)
    tokenizer = loaded("builtin").hf.tokenizer
    encoder = TextEncoder(tokenizer)
    assert encoder.implementation == "gigatoken"
    for seed in range(3):
        text = new_words(seed)
        wanted = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
        np.testing.assert_array_equal(encoder.ids(text), wanted)
    assert made.call_count == 4


def test_it_is_kept_while_the_process_does_not_grow(
    loaded: Callable[[str], LoadedProcessor], monkeypatch: pytest.MonkeyPatch
) -> None:
    gigatoken = pytest.importorskip("gigatoken")
    made = Mock(side_effect=gigatoken.Tokenizer)
    monkeypatch.setattr(gigatoken, "Tokenizer", made)
    monkeypatch.setattr(module, "LOOK_AFTER", 1)
    encoder = TextEncoder(loaded("builtin").hf.tokenizer)
    for _ in range(5):
        encoder.ids("the same words again")
    assert made.call_count == 1
