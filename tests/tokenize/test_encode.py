"""Text to ids: gigatoken and tokenizers agree, and byte spans say where each token's text is."""

from __future__ import annotations

import json
import random
import sys
import types
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlm_prep.processors.load import LoadedProcessor
from vlm_prep.tokenize.text import PROBES, TextEncoder, Tokens, byte_positions

NAMES = ("qwen2_5_vl", "qwen3_vl", "builtin")
Load = Callable[[str], LoadedProcessor]


def strings(value: Any) -> Iterator[str]:
    """All strings in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from strings(item)


@pytest.fixture(scope="session")
def kit_texts(kit: Path) -> list[str]:
    """Every text of the kit's conversations."""
    found: dict[str, None] = {}
    for path in sorted((kit / "data" / "llamafactory").glob("*.json*")):
        content = path.read_text(encoding="utf-8")
        rows = (
            [json.loads(line) for line in content.split("\n") if line.strip()]
            if path.suffix == ".jsonl"
            else json.loads(content)
        )
        found |= dict.fromkeys(strings(rows))
    return list(found)


def random_texts(number: int) -> list[str]:
    """Texts of characters from all planes, white space, marks and pieces of control tokens."""
    choose = random.Random(0)
    pieces: list[str] = [
        *" \t\n\r\u00a0\u2003\u200b\ufeff\u2028",
        *"abcXYZ019'\"{}<>|_-.,!?",
        "<|im_start|>", "<|im_end|>", "<|image_pad|>", "<tool_call>", "<|im_", "end|>", "'s", "'LL", "\n\n", "   ",
        "e\u0301", "\u0301", "\u0327", "\u1e9b\u0323", "\u0958", "\u212b", "각", "가", "ﬁ", "ⅷ",
    ]  # fmt: skip

    def piece() -> str:
        if choose.random() < 0.6:
            return choose.choice(pieces)
        code = choose.choice([choose.randrange(0x80, 0x3000), choose.randrange(0x3000, 0xD800), choose.randrange(0x10000, 0x20000)])  # noqa: E501  # fmt: skip
        return chr(code)

    return ["".join(piece() for _ in range(choose.randrange(1, 60))) for _ in range(number)]


def reference(loaded: LoadedProcessor, text: str) -> list[int]:
    return list(loaded.hf.tokenizer(text, add_special_tokens=False)["input_ids"])


def assert_spans_are_in_order(text: str, tokens: Tokens) -> None:
    assert tokens.ids.dtype == np.int32
    assert len(tokens.ids) == len(tokens.starts) == len(tokens.ends)
    edges = np.concatenate([[0], tokens.starts, [len(text.encode())]])
    assert (np.diff(edges) >= 0).all()
    edges = np.concatenate([[0], tokens.ends, [len(text.encode())]])
    assert (np.diff(edges) >= 0).all()


# --- ids -----


@pytest.mark.parametrize("name", NAMES)
def test_the_fast_encoder_gives_the_tokenizers_ids_on_real_texts(loaded: Load, kit_texts: list[str], name: str) -> None:
    processor = loaded(name)
    encoder = TextEncoder(processor.hf.tokenizer)
    assert encoder.implementation == "gigatoken"
    assert len(kit_texts) > 2000
    assert [text for text in kit_texts if encoder.ids(text).tolist() != reference(processor, text)] == []


@pytest.mark.parametrize("name", NAMES)
def test_the_fast_encoder_gives_the_tokenizers_ids_on_random_texts(loaded: Load, name: str) -> None:
    processor = loaded(name)
    encoder = TextEncoder(processor.hf.tokenizer)
    texts = [*random_texts(3000), *PROBES]
    assert [text for text in texts if encoder.encode(text).ids.tolist() != reference(processor, text)] == []


@pytest.mark.parametrize("name", NAMES)
def test_without_gigatoken_the_tokens_are_the_same(loaded: Load, kit_texts: list[str], name: str) -> None:
    processor = loaded(name)
    fast, slow = TextEncoder(processor.hf.tokenizer), TextEncoder(processor.hf.tokenizer, fast=False)
    assert slow.implementation == "tokenizers"
    for text in [*kit_texts[::7], *random_texts(500), *PROBES]:
        ours, theirs = fast.encode(text), slow.encode(text)
        for one, other in ((ours.ids, theirs.ids), (ours.starts, theirs.starts), (ours.ends, theirs.ends)):
            np.testing.assert_array_equal(one, other, err_msg=repr(text))


# --- spans -----


@pytest.mark.parametrize("name", NAMES)
def test_byte_spans_cover_the_text_without_a_gap(loaded: Load, kit_texts: list[str], name: str) -> None:
    encoder = TextEncoder(loaded(name).hf.tokenizer)
    for text in [*kit_texts[::5], *random_texts(500), *PROBES]:
        tokens = encoder.encode(text)
        assert_spans_are_in_order(text, tokens)
        if unicodedata.is_normalized("NFC", text):
            ends = [0, *tokens.ends.tolist()]
            assert tokens.starts.tolist() == ends[:-1]
            assert ends[-1] == len(text.encode())


@pytest.mark.parametrize("name", NAMES)
def test_a_token_decodes_to_the_bytes_of_its_span(loaded: Load, name: str) -> None:
    processor = loaded(name)
    tokenizer = processor.hf.tokenizer
    encoder = TextEncoder(tokenizer)
    text = "<|im_start|>user\nnaïve 你好 👩‍🚀 x<|im_end|>\n"
    tokens = encoder.encode(text)
    written = text.encode()
    for token, start, end in zip(tokens.ids, tokens.starts, tokens.ends, strict=True):
        piece = tokenizer.decode([int(token)])
        if "\ufffd" not in piece:
            assert piece.encode() == written[start:end]


@pytest.mark.parametrize("name", NAMES)
def test_spans_by_bytes_are_those_of_the_tokenizers_offsets_where_characters_are_whole(
    loaded: Load, kit_texts: list[str], name: str
) -> None:
    encoder = TextEncoder(loaded(name).hf.tokenizer)
    for text in kit_texts[::11]:
        tokens, offsets = encoder.encode(text), encoder.encode_by_offsets(text)
        np.testing.assert_array_equal(tokens.ids, offsets.ids)
        # offsets count characters, so a token that is part of one is given all of it
        assert (offsets.starts <= tokens.starts).all()
        assert (offsets.ends >= tokens.ends).all()
        if text.isascii():
            np.testing.assert_array_equal(tokens.ends, offsets.ends)


@pytest.mark.parametrize("name", NAMES)
def test_text_that_is_normalized_has_the_spans_of_what_was_written(loaded: Load, name: str) -> None:
    processor = loaded(name)
    text = unicodedata.normalize("NFD", "café ") + "end"
    tokens = TextEncoder(processor.hf.tokenizer).encode(text)
    assert tokens.ids.tolist() == reference(processor, text) == reference(processor, "café end")
    assert int(tokens.ends[-1]) == len(text.encode())


@pytest.mark.parametrize("text", ["\u212a\u0344", "e\u0301", "a\u0323\u0307 \u2126", "\u0958"])
def test_byte_sums_that_agree_by_chance_are_not_taken_for_spans(loaded: Load, text: str) -> None:
    encoder = TextEncoder(loaded("qwen2_5_vl").hf.tokenizer)
    assert encoder.with_spans(encoder.encode(text).ids, text) is None


def test_ids_of_another_text_have_no_spans(loaded: Load) -> None:
    encoder = TextEncoder(loaded("builtin").hf.tokenizer)
    assert encoder.with_spans(encoder.ids("hello"), "hello!") is None


@pytest.mark.parametrize("text", ["", "ascii", "naïve", "你好", "👩‍🚀x"])
def test_byte_positions_are_those_of_utf_8(text: str) -> None:
    expected = [len(text[:index].encode()) for index in range(len(text) + 1)]
    assert byte_positions(text).tolist() == expected


# --- which implementation -----


def stand_in(encode: Callable[[Any, str], Any]) -> types.ModuleType:
    """A module in gigatoken's place."""

    class Tokenizer:
        def __init__(self, tokenizer: Any) -> None:
            self.reference = tokenizer.backend_tokenizer

        def encode(self, text: str) -> Any:
            return encode(self.reference, text)

    module = types.ModuleType("gigatoken")
    module.Tokenizer = Tokenizer  # type: ignore[attr-defined]
    return module


def off_on_emoji(tokenizer: Any, text: str) -> list[int]:
    ids = list(tokenizer.encode(text, add_special_tokens=False).ids)
    return ids[:-1] if "👩" in text else ids


def fails(tokenizer: Any, text: str) -> list[int]:
    raise RuntimeError("a panic in its core")


@pytest.mark.usefixtures("own_tables")
@pytest.mark.parametrize(("encode", "said"), [(off_on_emoji, "differs"), (fails, "cannot load")])
def test_an_implementation_that_is_wrong_is_refused_and_said(
    loaded: Load, monkeypatch: pytest.MonkeyPatch, encode: Any, said: str
) -> None:
    monkeypatch.setitem(sys.modules, "gigatoken", stand_in(encode))
    processor = loaded("builtin")
    encoder = TextEncoder(processor.hf.tokenizer)
    assert encoder.implementation == "tokenizers"
    assert said in (encoder.note or "")
    assert encoder.ids("👩 ok").tolist() == reference(processor, "👩 ok")


@pytest.mark.usefixtures("own_tables")
def test_without_the_package_tokenizers_is_used_in_silence(loaded: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gigatoken", None)
    encoder = TextEncoder(loaded("builtin").hf.tokenizer)
    assert (encoder.implementation, encoder.note) == ("tokenizers", None)
