"""A row is written with all of its words, or rejected: templates that cut a text, characters that serve as marks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chat_styles import CHATML, JOIN

from vlm_prep.core.errors import Reject
from vlm_prep.core.settings import IngestConfig
from vlm_prep.engine.stage import RunOptions
from vlm_prep.ingest.ingest_run import ingest
from vlm_prep.ingest.source import open_samples
from vlm_prep.tokenize.chat.sentinels import free_codes, stands_whole
from vlm_prep.tokenize.tokenize_job import row_of
from vlm_prep.tokenize.verify.real_processor import Oracle

END = "<|im_end|>"
Make = Callable[..., Any]
CUTS_CHANNELS = (
    "{%- macro keep(text) -%}{%- for part in text.split('<channel|>') -%}{{- part.split('<|channel>')[0] -}}"
    "{%- endfor -%}{%- endmacro -%}"
) + CHATML.replace("said(m.content)", "keep(said(m.content))")
LOWERS = CHATML.replace("said(m.content)", "said(m.content) | lower")
ONE_LINE = CHATML.replace("said(m.content)", "said(m.content).replace('\\n', ' ')")
SHORTENS = CHATML.replace(
    "said(m.content)",
    "(said(m.content) if said(m.content) | length < 40 else said(m.content)[:12] ~ said(m.content)[-12:])",
)
AS_JSON = (
    JOIN + "{%- for m in messages -%}{{- '<|im_start|>' ~ m.role ~ '\\n' -}}"
    "{{- (said(m.content) | tojson) if m.role == 'tool' else said(m.content) -}}{{- '<|im_end|>\\n' -}}{%- endfor -%}"
    "{{- '<|im_start|>assistant\\n' if add_generation_prompt else '' -}}"
)
LOOKS = CHATML.replace(
    "said(m.content)", "(said(m.content)[2:] if said(m.content).startswith('//') else said(m.content))"
)


def turn(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": text}


def row(role: str, text: str) -> list[dict[str, Any]]:
    """A conversation in which one message of a role says `text`."""
    said = {"user": "a?", "assistant": "a", "system": "s", "tool": "t", role: text}
    return [turn(each, said[each]) for each in ("system", "user", "assistant", "tool", "assistant")]


CUT = [
    (CUTS_CHANNELS, "<|channel>thought\nLook twice.<channel|>One."),
    (CUTS_CHANNELS, "One. <|channel>note<channel|> Two."),
    (CUTS_CHANNELS, "Use <|channel> to open."),
    (LOWERS, "Upper"),
    (ONE_LINE, "two\nlines"),
    (SHORTENS, "a text that is far longer than what this template leaves of it"),
    (LOOKS, "// a comment"),
]


@pytest.mark.parametrize("role", ["user", "assistant", "system", "tool"])
@pytest.mark.parametrize(("template", "text"), CUT)
def test_a_text_that_the_template_cuts_rejects_the_row(bench: Make, role: str, template: str, text: str) -> None:
    for mode in ("text", "allow"):
        with pytest.raises(Reject) as caught:
            bench("builtin", template=template, control_tokens=mode).encode(row(role, text))
        assert caught.value.reason.value == "template_drops_content"


@pytest.mark.parametrize("template", [CUTS_CHANNELS, LOWERS, ONE_LINE, SHORTENS, LOOKS])
def test_texts_that_the_template_leaves_whole_are_written(bench: Make, template: str) -> None:
    assert bench("builtin", template=template).trained(row("user", "as it is")) == f"a{END}a{END}"


def test_a_tool_result_written_as_json_is_whole(bench: Make) -> None:
    made = bench("builtin", template=AS_JSON)
    for text in ('{"ok": true}', 'two\n"lines"', "naïve 你好"):
        encoded = made.encode(row("tool", text))
        assert made.text_of(encoded) == f"a{END}a{END}"


def test_what_stands_whole() -> None:
    assert stands_whole("a", " a\n")
    assert stands_whole('{\\"a\\": 1}', '{"a": 1}')
    assert stands_whole("\\u00ef", "ï")
    assert not stands_whole("a", "ab")
    assert not stands_whole("", "a")


PRIVATE = ["\U000f0000", "\U000f0001", "x\U000f0000y\U000f0001z", "\U000f0001\U000f0000", "\U00100000\U0010fffd"]


@pytest.mark.parametrize("name", ["qwen2_5_vl", "builtin"])
@pytest.mark.parametrize("text", PRIVATE)
@pytest.mark.parametrize("typed", ["", END, "<|image_pad|>"])
def test_private_characters_stay_in_questions_and_answers(bench: Make, name: str, text: str, typed: str) -> None:
    said = f"{text} {typed}{text}"
    for fast in (False, True):
        made = bench(name, fast=fast)
        encoded = made.encode([turn("user", said), turn("assistant", f"{said}!")])
        tokenizer = made.loaded.hf.tokenizer
        assert made.text_of(encoded) == f"{said}!{END}"
        assert tokenizer.decode(encoded.input_ids).count(said) == 2
        plain = made.encode([turn("user", "A?"), turn("assistant", "a")])
        for token in tokenizer.convert_tokens_to_ids([END, "<|image_pad|>"]):
            assert (encoded.input_ids == token).sum() == (plain.input_ids == token).sum()
        assert Oracle(made.encoder, made.encoder.config).compare(row_of(encoded)).differences == ()


def test_the_comparison_finds_deleted_characters(bench: Make) -> None:
    """What is compared is the row as stored, so words that our side loses are a difference."""
    made = bench("builtin")
    whole = made.encode([turn("user", f"\U000f0000 {END}"), turn("assistant", "a")])
    lost = made.encode([turn("user", f" {END}"), turn("assistant", "a")])
    stored = {**row_of(lost), "conversation": row_of(whole)["conversation"]}
    assert Oracle(made.encoder, made.encoder.config).compare(stored).differences


def test_free_codes_are_a_row_that_the_text_does_not_hold() -> None:
    assert free_codes("", 4) == 0xF0000
    assert free_codes("\U000f0001", 3) == 0xF0002
    assert free_codes("\U000f0001\U000ffffd", 0xFFFE) == 0x100000
    assert free_codes("\U000f0001\U00100001", 0xFFFE) is None


BY_ID = (
    JOIN + "{%- for m in messages -%}{{- '<|im_start|>' ~ m.role ~ '\\n' ~ said(m.content) -}}"
    "{%- for call in m.tool_calls or [] -%}"
    "{{- '<tool_call>' ~ call.id ~ ' ' ~ (call.function.arguments | tojson) ~ '</tool_call>' -}}"
    "{%- endfor -%}{{- '<|im_end|>\\n' -}}{%- endfor -%}"
    "{{- '<|im_start|>assistant\\n' if add_generation_prompt else '' -}}"
)
NINE_LETTERS = BY_ID.replace("call.id ~ ' '", "call.function.name ~ ' '").replace(
    "{{- '<tool_call>'",
    "{%- if not call.id or call.id | length != 9 -%}{{- raise_exception('nine letters') -}}{%- endif -%}"
    "{{- '<tool_call>'",
)
NAMES_ONLY = BY_ID.replace("call.id ~ ' ' ~ (call.function.arguments | tojson)", "call.function.name")


def calling(identity: str | None, content: Any = "") -> list[dict[str, Any]]:
    call = {"type": "function", "function": {"name": "crop", "arguments": {"n": 1}}}
    message = {"role": "assistant", "content": content, "tool_calls": [{"id": identity, **call} if identity else call]}
    return [turn("user", "a?"), message, turn("tool", "ok"), turn("assistant", "b")]


def test_calls_of_a_template_that_writes_ids_in_place_of_names_are_its_own(bench: Make) -> None:
    made = bench("builtin", template=BY_ID)
    encoded = made.encode(calling("functions.crop:0"))
    assert made.text_of(encoded) == f'<tool_call>functions.crop:0 {{"n": 1}}</tool_call>{END}b{END}'
    assert encoded.notes == ()
    assert Oracle(made.encoder, made.encoder.config).compare(row_of(encoded)).differences == ()
    for identity in (None, "c1", "functions.cropped:0", "crop_1"):
        with pytest.raises(Reject, match="does not hold 'crop'") as caught:
            made.encode(calling(identity))
        assert caught.value.reason.value == "template_drops_content"


def test_calls_of_a_template_that_asks_for_ids_are_its_own(bench: Make) -> None:
    made = bench("builtin", template=NINE_LETTERS)
    encoded = made.encode(calling("abcdefghi"))
    assert made.text_of(encoded) == f'<tool_call>crop {{"n": 1}}</tool_call>{END}b{END}'
    assert encoded.notes == ()
    with pytest.raises(Reject, match="nine letters"):
        made.encode(calling(None))


def test_calls_whose_arguments_a_template_leaves_out_are_written_as_text(bench: Make) -> None:
    made = bench("builtin", template=NAMES_ONLY)
    encoded = made.encode(calling(None))
    assert encoded.notes == ("tools_as_text",)
    assert '"arguments":{"n":1}' in made.text_of(encoded)


COUNTS_CONTENT = BY_ID.replace(
    "'<tool_call>' ~ call.id", "('!' if m.content else '') ~ '<tool_call>' ~ call.function.name"
)


def test_a_string_of_the_source_stays_a_string_for_the_template(tmp_path: Path, bench: Make) -> None:
    """A list with an empty text is something to a template, an empty string is nothing."""
    made = bench("builtin", template=COUNTS_CONTENT)
    contents = ["", [], [{"type": "text", "text": ""}], "a", [{"type": "text", "text": "a"}]]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps({"messages": calling(None, content)}) for content in contents))
    texts = [made.text_of(made.encoder.encode(sample, ())) for sample in open_samples(path).read(0, len(contents))]
    call = f'<tool_call>crop {{"n": 1}}</tool_call>{END}b{END}'
    assert texts == [call, call, "!" + call, "a!" + call, "a!" + call]
    ingested = tmp_path / "ingested"
    ingest(open_samples(path), IngestConfig(), RunOptions(out=ingested, workers=0, progress=False))
    again = [made.text_of(made.encoder.encode(sample, ())) for sample in open_samples(ingested).read(0, len(contents))]
    assert again == texts
