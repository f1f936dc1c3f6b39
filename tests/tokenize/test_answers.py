"""Answers with media, answers that say nothing: what a template adds is not trained, and nothing goes unseen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chat_styles import CHATML
from PIL import Image

from vlm_prep.core.errors import Reject
from vlm_prep.core.records import Media
from vlm_prep.media.probe import probe
from vlm_prep.report.audit import Audit
from vlm_prep.tokenize.placeholders import IGNORE
from vlm_prep.tokenize.tokenize_job import row_of
from vlm_prep.tokenize.verify.real_processor import Oracle

END = "<|im_end|>"
Make = Callable[..., Any]
PICTURE = {"type": "image"}


def said(text: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": text, **more}


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Media:
    path: Path = tmp_path_factory.mktemp("pictures") / "a.png"
    Image.fromarray(np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3)).save(path)
    return probe(Media(kind="image", uris=(str(path),)))[0]


def trained(made: Any, answer: list[dict[str, Any]], picture: Media, **more: Any) -> str:
    """What is trained of an answer with pictures; both ways and the real processor agree."""
    messages = [{"role": "user", "content": "A?"}, {"role": "assistant", "content": answer, **more}]
    encoded = made.encode(messages, media=(picture,) * sum(part["type"] == "image" for part in answer))
    compared = Oracle(made.encoder, made.encoder.config).compare(row_of(encoded))
    assert compared.differences == ()
    return str(made.text_of(encoded))


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "builtin"])
@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        ([said("Here: "), PICTURE, said(" A cat.")], "Here:  A cat." + END),
        ([PICTURE, said("A cat.")], "A cat." + END),
        ([said("A cat."), PICTURE], "A cat." + END),
        ([said("a"), PICTURE, PICTURE, said("b"), PICTURE, said("c")], "abc" + END),
        ([said("a"), PICTURE, said(""), said("b")], "ab" + END),
        ([said("a", train=False), PICTURE, said("b")], "b" + END),
    ],
)
def test_wrappers_of_pictures_in_answers_are_not_trained(
    bench: Make, picture: Media, name: str, answer: list[dict[str, Any]], wanted: str
) -> None:
    assert trained(bench(name), answer, picture) == wanted


def test_an_answer_of_a_picture_alone_trains_nothing(bench: Make, picture: Media) -> None:
    with pytest.raises(Reject) as caught:
        trained(bench("qwen2_5_vl"), [PICTURE], picture)
    assert caught.value.reason.value == "no_supervised_tokens"


@pytest.mark.parametrize("role", ["assistant", "system"])
def test_media_that_the_template_leaves_out_are_named(bench: Make, picture: Media, role: str) -> None:
    made = bench("qwen3_vl")
    contents = {"system": [said("S")], "user": [said("A?")], "assistant": [said("a")]}
    contents[role] = [said("x"), PICTURE]
    messages = [{"role": each, "content": content} for each, content in contents.items()]
    with pytest.raises(Reject, match=f"writes no image in turns of the {role}") as caught:
        made.encode(messages, media=(picture,))
    assert caught.value.reason.value == "unsupported_media"


@pytest.mark.parametrize("answer", ["", " \n"])
def test_answers_that_say_nothing_are_counted_or_rejected(bench: Make, answer: str) -> None:
    messages = [
        {"role": "user", "content": "A?"},
        {"role": "assistant", "content": answer},
        {"role": "user", "content": "B?"},
        {"role": "assistant", "content": "b"},
    ]
    made = bench("builtin", template=CHATML)
    encoded = made.encode(messages)
    assert encoded.notes == ("empty_answers",)
    audit = Audit(made.encoder)
    audit.add(encoded)
    assert audit.to_json()["rows_with_empty_answers"] == ["a/0"]
    assert (encoded.labels != IGNORE).any()
    with pytest.raises(Reject) as caught:
        bench("builtin", template=CHATML, empty_answers="reject").encode(messages)
    assert caught.value.reason.value == "empty_answer"
    unasked = [messages[0], {**messages[1], "train": False}, *messages[2:]]
    assert bench("builtin", template=CHATML, empty_answers="reject").encode(unasked).notes == ()
    calls = [{"type": "function", "function": {"name": "f", "arguments": {}}}]
    assert made.encode([messages[0], {**messages[1], "tool_calls": calls}]).notes == ("tools_as_text",)
