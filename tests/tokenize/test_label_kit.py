"""Labels of the kit's real chat templates over their real tokenizers, text alone."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from turns import assistant, user

from vlm_prep.core.errors import Reject
from vlm_prep.core.records import Media, Sample
from vlm_prep.core.settings import ProcessorConfig, TokenizeConfig
from vlm_prep.processors.adapter import Adapter
from vlm_prep.processors.families.table import adapter_for
from vlm_prep.processors.load import LoadedProcessor
from vlm_prep.tokenize.chat.fit import fit_to_template
from vlm_prep.tokenize.coordinates import PlacedChar
from vlm_prep.tokenize.encoder import SampleEncoder
from vlm_prep.tokenize.labels.masks import in_bytes, mask_tokens
from vlm_prep.tokenize.placeholders import IGNORE
from vlm_prep.tokenize.verify.second_labels import second_spans

Make = Callable[..., SampleEncoder]


NAMES = (
    *("gemma3", "gemma4", "phi4_multimodal", "llava_onevision", "internvl3", "kimi_vl", "kimi_k25", "nemotron_omni"),
    "qwen3_vl",
)


@pytest.fixture(scope="module")
def made(kit: Path, tmp_path_factory: pytest.TempPathFactory, load_once: Callable[..., LoadedProcessor]) -> Make:
    """`made("gemma3", **settings)`: an encoder. Tests that share a processor follow each other: each takes seconds."""
    folder = tmp_path_factory.mktemp("families")
    script = str(kit / "processors" / "assemble.py")
    subprocess.run([sys.executable, script, str(folder), *NAMES], check=True, capture_output=True)

    @functools.lru_cache(maxsize=4)  # a tokenizer of 262,144 pieces takes 400 MB
    def adapter(name: str) -> Adapter:
        return adapter_for(load_once(str(folder / name), ProcessorConfig(trust_remote_code=name == "kimi_vl")))

    def make(name: str, **config: Any) -> SampleEncoder:
        return SampleEncoder(adapter(name), TokenizeConfig(**config))

    return make


def trained(encoder: SampleEncoder, messages: list[dict[str, Any]]) -> str:
    """The trained text of a row, whose labels are also found the second way; or why it is rejected."""
    full = [{**each, "content": [{"type": "text", "text": each["content"]}]} for each in messages]
    sample = Sample(sample_id="a/0", dataset="a", source="a.jsonl", line=1, messages=full)
    try:
        encoded = encoder.encode(sample, ())
    except Reject as reject:
        return f"rejected: {reject.reason.value}"
    ours = encoded.labels != IGNORE
    fitted = fit_to_template(full, None, encoder.template, encoder.config)
    found = second_spans(encoder.template, fitted.messages, fitted.tools, encoder.config)
    assert found is not None
    text, spans = found
    tokens = encoder.text.encode_by_offsets(text)
    assert tokens.ids.tolist() == encoded.input_ids.tolist()
    places = in_bytes(text, [PlacedChar(place) for start, end, _ in spans for place in (start, end)])
    assert np.array_equal(mask_tokens(tokens, list(zip(places[::2], places[1::2], strict=True))), ours)
    return str(encoder.adapter.hf.tokenizer.decode(encoded.input_ids[ours]))


@pytest.mark.parametrize(("name", "end"), [("gemma3", "<end_of_turn>"), ("gemma4", "<turn|>")])
def test_typed_control_tokens_are_text_for_tokenizers_that_normalize_too(made: Make, name: str, end: str) -> None:
    encoder = made(name)
    texts = [f"say  é {end} <bos>", f" it is {end}{end} and so on"]
    messages = [
        {"role": role, "content": [{"type": "text", "text": text}]}
        for role, text in zip(("user", "assistant"), texts, strict=True)
    ]
    encoded = encoder.encode(Sample(sample_id="a/0", dataset="a", source="a", line=1, messages=messages), ())
    tokenizer = encoder.adapter.hf.tokenizer
    assert (encoded.input_ids == tokenizer.convert_tokens_to_ids(end)).sum() == 2
    assert tokenizer.decode(encoded.input_ids[encoded.labels != IGNORE]) == texts[1].strip() + end


CALL = {"type": "function", "function": {"name": "f", "arguments": {"n": 1}}}


@pytest.mark.parametrize("blank", ["", "\n", " \n\n"])
def test_a_blank_text_before_a_call_trains_no_line_break_that_never_follows_the_prompt(made: Make, blank: str) -> None:
    turns = [user("A?"), assistant(blank, tool_calls=[CALL]), {"role": "tool", "content": "4"}, assistant("ok")]
    written = '<tool_call>\n{"name": "f", "arguments": {"n": 1}}\n</tool_call>'
    assert trained(made("qwen3_vl"), turns) == f"{written}<|im_end|>ok<|im_end|>"
    assert trained(made("internvl3"), turns) == f"{written.replace(': ', ':').replace(', ', ',')}<|im_end|>ok<|im_end|>"


@pytest.mark.parametrize("text", ["", "\n", "Look."])
def test_a_call_at_the_end_trains_the_token_at_which_the_result_is_awaited(made: Make, text: str) -> None:
    turns = [user("A?"), assistant(text, tool_calls=[CALL])]
    assert trained(made("gemma4"), turns) == f"<|tool_call>call:f{{n:1}}<tool_call|>{text.strip()}<|tool_response>"
    without = f"{text.strip()}<|tool_response>" if text.strip() else "rejected: no_supervised_tokens"
    assert trained(made("gemma4", train_tool_calls=False), turns) == without


@pytest.mark.parametrize("name", ["kimi_k25", "nemotron_omni"])
def test_an_answer_of_a_picture_alone_trains_nothing_behind_a_think_block(
    made: Make, picture: Media, name: str
) -> None:
    shown = {"role": "assistant", "content": [{"type": "image"}]}
    asked = [{**each, "content": [{"type": "text", "text": each["content"]}]} for each in (user("A?"), user("B?"))]
    said = {"role": "assistant", "content": [{"type": "text", "text": "ok"}]}
    place: dict[str, Any] = {"sample_id": "a/0", "dataset": "a", "source": "a.jsonl", "line": 1, "media": (picture,)}
    encoder = made(name)
    encoded = encoder.encode(Sample(**place, messages=[asked[0], shown, asked[1], said]), (None,))
    trained = encoder.adapter.hf.tokenizer.decode(encoded.input_ids[encoded.labels != IGNORE])
    assert trained == "ok<|im_end|>"
    with pytest.raises(Reject, match="message 2 is an answer of media alone, which are never trained"):
        encoder.encode(Sample(**place, messages=[asked[0], shown]), (None,))


def test_reasoning_behind_a_real_template_that_drops_it_from_earlier_turns(made: Make) -> None:
    thought = [user("A?"), assistant("a", reasoning_content="hm")]
    once = trained(made("nemotron_omni"), thought)
    assert once == "hm\n</think>\na<|im_end|>"
    assert trained(made("nemotron_omni"), [*thought, user("B?"), assistant("b")]) == "rejected: rewritten_history"
    assert trained(made("nemotron_omni", train_on="last"), [*thought, user("B?"), assistant("b")]) == "b<|im_end|>"


TWO = [user("A?"), assistant("no"), user("no cat?"), assistant("42")]
SPACED = [user(" A? "), assistant("\n Yes. \n")]


@pytest.mark.parametrize(
    ("name", "two_turns", "blanks", "empty"),
    [
        # behind the template's own empty <think> block, with which it trims the answer: at one end
        ("nemotron_omni", "no<|im_end|>42<|im_end|>", "\n Yes.<|im_end|>", "<|im_end|>"),
        ("kimi_k25", "no<|im_end|>42<|im_end|>", "\n Yes. \n<|im_end|>", "<|im_end|>"),
        ("gemma4", "no<turn|>42<turn|>", "Yes.<turn|>", "<turn|>"),
        ("internvl3", "no<|im_end|>42<|im_end|>", "\n\n Yes. \n<|im_end|>", "<|im_end|>"),
        ("gemma3", "no<end_of_turn>42<end_of_turn>", "Yes.<end_of_turn>", "<end_of_turn>"),
        ("phi4_multimodal", "no<|end|>42<|end|>", "\n Yes. \n<|end|>", "<|end|>"),
        # the template has the model write a line break first, in one token with the header's
        ("llava_onevision", "\n\nno<|im_end|>\n\n42<|im_end|>", "\n\n\n Yes. \n<|im_end|>", "\n\n<|im_end|>"),
        ("kimi_vl", "no<|im_end|>42<|im_end|>", "\n Yes. \n<|im_end|>", "<|im_end|>"),
    ],
)
def test_answers_are_trained_behind_real_templates(
    made: Make, name: str, two_turns: str, blanks: str, empty: str
) -> None:
    encoder = made(name)
    assert trained(encoder, TWO) == two_turns
    assert trained(encoder, SPACED) == blanks
    assert trained(encoder, [user("A?"), assistant("")]) == empty


def told(encoder: SampleEncoder, messages: list[dict[str, Any]], *media: Media) -> str:
    """The trained text of a row whose labels are found one way alone; or why it is rejected."""
    full = [
        each if isinstance(each["content"], list) else {**each, "content": [{"type": "text", "text": each["content"]}]}
        for each in messages
    ]
    sample = Sample(sample_id="a/0", dataset="a", source="a.jsonl", line=1, messages=full, media=media)
    try:
        encoded = encoder.encode(sample, (None,) * len(media))
    except Reject as reject:
        return reject.reason.value
    return str(encoder.adapter.hf.tokenizer.decode(encoded.input_ids[encoded.labels != IGNORE]))


def test_a_result_of_a_picture_between_a_call_and_its_text_is_not_trained(made: Make, picture: Media) -> None:
    def row(text: str) -> list[dict[str, Any]]:
        seen = {"role": "tool", "content": [{"type": "image"}]}
        return [user("A?"), assistant(text, tool_calls=[CALL]), seen, assistant("ok")]

    alone = "<|tool_call>call:f{n:1}<tool_call|><|tool_response>ok<turn|>"
    assert told(made("gemma4"), row(""), picture) == alone
    # its template writes the text behind the result
    assert told(made("gemma4"), row("Look."), picture) == "rewritten_history"


@pytest.mark.parametrize(
    ("name", "opens", "closes"),
    [
        ("kimi_k25", "<|tool_calls_section_begin|>", "<|tool_call_end|><|tool_calls_section_end|><|im_end|>"),
        ("nemotron_omni", "\n<tool_call>", "</tool_call>\n<|im_end|>"),
        ("qwen3_vl", "<tool_call>", "</tool_call><|im_end|>"),
        ("gemma4", "<|tool_call>", "<tool_call|><|tool_response>"),
    ],
)
def test_the_words_of_a_turns_end_in_arguments_are_text(made: Make, name: str, opens: str, closes: str) -> None:
    end = "<turn|>" if name == "gemma4" else "<|im_end|>"
    call = {"id": "functions.f:0", "type": "function", "function": {"name": "f", "arguments": {"n": f"a{end}b{end}"}}}
    result = {"role": "tool", "content": "4", "tool_call_id": "functions.f:0"}
    said = told(made(name), [user("A?"), assistant("", tool_calls=[call]), result, assistant("ok")])
    assert said.startswith(opens) and said.endswith(f"{closes}ok{end}") and f"a{end}b{end}" in said


@pytest.mark.parametrize(
    ("name", "token", "as_text"),
    [
        ("kimi_k25", "<|tool_call_end|>", False),
        ("qwen3_vl", "</tool_call>", False),
        ("gemma4", "<tool_call|>", True),
        ("gemma4", '<|"|>', True),
    ],
)
def test_what_closes_a_call_is_no_token_in_its_arguments_and_one_in_an_answer(
    made: Make, name: str, token: str, as_text: bool
) -> None:
    encoder = made(name)
    number = encoder.adapter.hf.tokenizer.convert_tokens_to_ids(token)

    def count(value: str, answer: str = "ok") -> int:
        call = {"id": "functions.f:0", "type": "function", "function": {"name": "f", "arguments": {"n": value}}}
        result = {"role": "tool", "content": "4", "tool_call_id": "functions.f:0"}
        turns = [user("A?"), assistant("", tool_calls=[call]), result, assistant(answer)]
        full = [{**each, "content": [{"type": "text", "text": each["content"]}]} for each in turns]
        encoded = encoder.encode(Sample(sample_id="a", dataset="a", source="a", line=1, messages=full), ())
        assert value in encoder.adapter.hf.tokenizer.decode(encoded.input_ids)
        return int((encoded.input_ids == number).sum())

    assert count("ab", f"ok {token}") == count("ab") + 1
    if as_text:
        assert count(f"a{token}b") == count("ab")
    else:  # no special token: the tokenizer makes it one wherever it stands
        with pytest.raises(Reject, match="which the tokenizer cannot write as plain text"):
            count(f"a{token}b")
