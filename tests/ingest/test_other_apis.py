"""Rows in the forms of other makers' APIs, and content that a table holds as JSON text, give the usual conversation."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from ingest.spelt import ANSWER, USER, R, chat, read, refused

from vlm_prep.core.records import Sample
from vlm_prep.ingest.source import open_samples

ASK = {"role": "user", "content": [{"type": "image", "image": "a.png"}, {"type": "text", "text": "Read."}]}
CALL = {"id": "t1", "type": "function", "function": {"name": "zoom", "arguments": {"box": [1, 2]}}}
OPENAI = [
    ASK,
    {"role": "assistant", "content": [{"type": "text", "text": "I look."}], "tool_calls": [CALL]},
    {"role": "tool", "content": "42", "tool_call_id": "t1", "name": "zoom"},
    {"role": "assistant", "content": [{"type": "text", "text": "It is 42."}]},
]
USE = {"type": "tool_use", "id": "t1", "name": "zoom", "input": {"box": [1, 2]}}
LOOK = {"role": "assistant", "content": [{"type": "text", "text": "I look."}, USE]}
SAID = {"role": "assistant", "content": [{"type": "text", "text": "It is 42."}]}


def result(content: Any = "42", **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": "t1", "content": content, **more}


# ---- Anthropic ----


def test_blocks_of_calls_and_results_are_calls_and_turns_of_the_tool() -> None:
    sample = read(chat(ASK, LOOK, {"role": "user", "content": [result()]}, SAID))
    assert sample.messages == read(chat(*OPENAI)).messages
    assert sample.notes == ("read_tool_blocks",) and sample.strings == (2,) and sample.unread == {}


def test_what_stands_beside_a_result_is_a_turn_in_its_place() -> None:
    text = {"type": "text", "text": "And?"}
    sample = read(chat(ASK, LOOK, {"role": "user", "content": [result(), result("43"), text]}, SAID))
    assert [message["role"] for message in sample.messages] == [
        "user",
        "assistant",
        "tool",
        "tool",
        "user",
        "assistant",
    ]
    assert sample.messages[4]["content"] == [text]
    before = read(chat(ASK, LOOK, {"role": "user", "content": [text, result()]}, SAID))
    assert [message["role"] for message in before.messages][2:4] == ["user", "tool"]


def test_a_result_may_hold_parts_and_pictures() -> None:
    shown = {"type": "image", "source": {"type": "url", "url": "b.png"}}
    inner = [{"type": "text", "text": "42"}, shown]
    sample = read(chat(ASK, LOOK, {"role": "user", "content": [result(inner)]}, SAID))
    assert sample.messages[2]["content"] == [{"type": "text", "text": "42"}, {"type": "image"}]
    assert [media.uris[0] for media in sample.media] == ["/m/a.png", "/m/b.png"]


def test_a_result_without_content_is_empty_and_a_failure_is_said_as_unread() -> None:
    sample = read(chat(ASK, LOOK, {"role": "user", "content": [result(None, is_error=True)]}, SAID))
    assert sample.messages[2]["content"] == [{"type": "text", "text": ""}]
    assert sample.unread == {"part.is_error": True}


def test_options_of_a_message_with_blocks_stay_its_own() -> None:
    sample = read(chat(ASK, LOOK | {"train": False}, {"role": "user", "content": [result()], "x": 1}, SAID))
    assert sample.messages[1]["train"] is False and sample.unread == {"message.x": 1}


def test_a_text_after_a_call_names_its_own_message() -> None:
    late = {"role": "assistant", "content": [USE, {"type": "text", "text": "so"}]}
    reason, words = refused(chat(ASK, LOOK, {"role": "user", "content": [result(), result()]}, late))
    assert reason == R.BAD_ROW and words.startswith("message 4, part 1 follows a tool call")
    assert refused(chat(ASK, LOOK, {"role": "user", "content": [result({"a": 1})]}, SAID))[0] == R.BAD_ROW


def test_schemas_have_parameters_whatever_they_are_called() -> None:
    schema = {"type": "object", "properties": {}}
    usual = {"type": "function", "function": {"name": "zoom", "description": "d", "parameters": schema}}
    for tools in (
        [{"name": "zoom", "description": "d", "input_schema": schema}],
        [{"functionDeclarations": [{"name": "zoom", "description": "d", "parameters": schema}]}],
        [{"function_declarations": [{"name": "zoom", "description": "d", "parameters": schema}]}],
    ):
        sample = read(chat(tools=tools))
        assert sample.tools == [usual] and json.dumps(sample.tools) == json.dumps([usual])


@pytest.mark.parametrize("arguments", [{"arguments": None}, {"arguments": ""}, {}, {"arguments": "{}"}, {"args": {}}])
def test_a_call_without_arguments_has_none(arguments: dict[str, Any]) -> None:
    call = {"function": {"name": "now", **arguments}}
    for calls in ([call], call, json.dumps(call)):
        (made,) = read(chat(USER, {"role": "assistant", "tool_calls": calls})).messages[1]["tool_calls"]
        assert made == {"type": "function", "function": {"name": "now", "arguments": {}}}


def test_arguments_by_another_name_are_not_left_out() -> None:
    made = read(chat(USER, {"role": "assistant", "tool_calls": [{"name": "f", "args": {"a": 1}}]})).messages[1]
    assert made["tool_calls"][0]["function"]["arguments"] == {"a": 1}
    reason, words = refused(chat(USER, {"role": "assistant", "tool_calls": [{"name": "f", "kwargs": {"a": 1}}]}))
    assert reason == R.BAD_TOOL_CALL and "'kwargs'" in words


def test_one_tool_is_a_list_of_one() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    assert read(chat(tools=tool)).tools == [tool] == read(chat(tools=json.dumps(tool))).tools
    assert refused(chat(tools={"f": tool}))[0] == R.BAD_TOOLS


# ---- reasoning twice ----


def test_reasoning_in_the_text_and_beside_it_is_one_where_it_is_equal() -> None:
    wanted = read(chat(USER, ANSWER | {"reasoning_content": "I look."})).messages
    for text in ("<think>I look.</think>ho", "<think>\nI look.\n</think>\n\nho"):
        for content in (text, [{"type": "text", "text": text}]):
            sample = read(chat(USER, {"role": "assistant", "content": content, "reasoning_content": "I look."}))
            assert sample.messages == wanted and sample.notes == ("read_doubles",)
            assert (1 in sample.strings) == isinstance(content, str)
    for other in ("<think>No.</think>ho", "<think></think>ho"):
        reason, words = refused(chat(USER, {"role": "assistant", "content": other, "reasoning": "I look."}))
        assert reason == R.BAD_ROW and "keep one" in words
    alone = read(chat(USER, ANSWER | {"content": "<think>I look.</think>ho"})).messages[1]
    assert alone["content"][0]["text"] == "<think>I look.</think>ho"


# ---- Gemini ----


def turn(role: str, *parts: Any) -> dict[str, Any]:
    return {"role": role, "parts": list(parts)}


@pytest.mark.parametrize("camel", [False, True])
def test_contents_and_parts_are_messages(camel: bool) -> None:
    def key(name: str) -> str:
        first, *others = name.split("_")
        return first + "".join(map(str.title, others)) if camel else name

    file = {key("file_data"): {key("mime_type"): "image/png", key("file_uri"): "a.png"}}
    call = {key("function_call"): {"name": "zoom", "args": {"box": [1, 2]}, "id": "t1"}}
    back = {key("function_response"): {"name": "zoom", "response": "42", "id": "t1"}}
    contents = [
        turn("user", file, {"text": "Read."}),
        turn("model", {"text": "I look."}, call),
        turn("user", back),
        turn("model", {"text": "It is 42."}),
    ]
    sample = read({"contents": contents})
    assert sample.messages == read(chat(*OPENAI)).messages and sample.media[0].uris == ("/m/a.png",)
    assert {"read_gemini", "read_tool_blocks"} < {*sample.notes} and sample.unread == {}
    system = {key("system_instruction"): {"parts": [{"text": "Be brief."}]}}
    assert read({"contents": contents} | system).messages[0] == {
        "role": "system",
        "content": [{"type": "text", "text": "Be brief."}],
    }


def test_a_response_is_written_as_json_and_a_thought_is_reasoning() -> None:
    back = turn("user", {"functionResponse": {"name": "f", "response": {"sum": 3, "s": "ä"}}})
    call = turn("model", {"functionCall": {"name": "f"}})
    sample = read({"contents": [turn("user", {"text": "?"}), call, back, turn("model", {"text": "3"})]})
    assert sample.messages[2]["content"] == [{"type": "text", "text": '{"sum": 3, "s": "ä"}'}]
    thought = turn("model", {"text": "hm", "thought": True}, {"text": "3"})
    assert read({"contents": [turn("user", {"text": "?"}), thought]}).messages[1]["reasoning_content"] == "hm"


def test_a_part_of_a_video_is_that_part() -> None:
    film = {
        "fileData": {"mimeType": "video/mp4", "fileUri": "v.mp4"},
        "videoMetadata": {"startOffset": "1.5s", "fps": 2},
    }
    media = read({"contents": [turn("user", film, {"text": "?"}), turn("model", {"text": "x"})]}).media[0]
    assert (media.start, media.fps) == (1.5, 2.0)


@pytest.mark.parametrize(
    ("part", "reason", "words"),
    [
        ({"inline_data": {"mime_type": "application/pdf", "data": "eA=="}}, R.UNSUPPORTED_MEDIA, "'application/pdf'"),
        ({"file_data": {"file_uri": "a.png"}}, R.UNSUPPORTED_MEDIA, "mime_type null"),
        ({"executableCode": {"code": "1"}}, R.BAD_ROW, "none of text, inline_data"),
        ({"text": "x", "inline_data": {}}, R.BAD_ROW, "text and inline_data"),
        ({"functionCall": "f"}, R.BAD_TYPE, "not an object"),
        (7, R.BAD_TYPE, "message 1, part 0"),
    ],
)
def test_other_parts_are_refused_in_words(part: Any, reason: Any, words: str) -> None:
    found, said = refused({"contents": [turn("user", part), turn("model", {"text": "x"})]})
    assert found == reason and words in said


def test_a_column_of_contents_that_are_no_parts_is_any_column() -> None:
    assert read(chat(contents=[turn("user", {"text": "x"})])).messages == read(chat()).messages
    assert refused({"contents": "a text"})[0] == R.MISSING_COLUMN


def test_a_file_of_gemini_is_found_out_and_its_bytes_are_media(tmp_path: Path) -> None:
    picture = base64.b64encode(b"\x89PNG\r\n" + bytes(99)).decode()
    inline = {"inlineData": {"mimeType": "image/png", "data": picture}}
    row = {"contents": [turn("user", inline, {"text": "?"}), turn("model", {"text": "x"})]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    (sample,) = open_samples(tmp_path / "rows.jsonl").read(0, 1)
    assert isinstance(sample, Sample) and "::" in sample.media[0].uris[0]
    assert [part["type"] for part in sample.messages[0]["content"]] == ["image", "text"]


# ---- content as JSON text ----

PARTS = [{"type": "image", "image": "a.png"}, {"type": "text", "text": "hi"}]


def test_content_as_json_text_is_its_parts_where_it_holds_media_or_all_have_it() -> None:
    wanted = read(chat({"role": "user", "content": PARTS}, ANSWER))
    for answer in ("ho", json.dumps([{"type": "text", "text": "ho"}])):
        sample = read(chat({"role": "user", "content": json.dumps(PARTS)}, {"role": "assistant", "content": answer}))
        assert (sample.messages, sample.media) == (wanted.messages, wanted.media)
        assert sample.notes == ("read_json_text",)
    plain = [
        {"role": role, "content": json.dumps([{"type": "text", "text": text}])}
        for role, text in (("user", "hi"), ("assistant", "ho"))
    ]
    assert read(chat(*plain)).messages == read(chat()).messages


@pytest.mark.parametrize("text", ['[{"type": "text", "text": "x"}]', '[{"type": "cat"}]', "[{broken", '[{"type": []}]'])
def test_one_text_about_json_stays_a_text(text: str) -> None:
    sample = read(chat(USER | {"content": text}, ANSWER))
    assert sample.messages[0]["content"] == [{"type": "text", "text": text}] and sample.notes == ()
    answer = json.dumps(PARTS)
    assert read(chat(USER, ANSWER | {"content": answer})).messages[1]["content"] == [{"type": "text", "text": answer}]


def test_holes_among_parts_and_types_in_capitals_are_read() -> None:
    for content in (
        [*PARTS, None],
        [{"type": None, "text": None, "image": None}, *PARTS],
        [{"type": "Image", "image": "a.png"}, {"type": "TEXT", "text": "hi"}],
    ):
        sample = read(chat({"role": "user", "content": content}, ANSWER))
        assert sample.messages == read(chat({"role": "user", "content": PARTS}, ANSWER)).messages
        assert sample.notes == ("read_untyped_content",)


def test_texts_of_assistants_threads_are_texts_and_their_notes_are_counted() -> None:
    words: dict[str, Any] = {"value": "Read.", "annotations": []}
    ask = {"role": "user", "content": [{"type": "text", "text": words}]}
    sample = read(chat(ask, ANSWER))
    assert (
        sample.messages == read(chat({"role": "user", "content": [{"type": "text", "text": "Read."}]}, ANSWER)).messages
    )
    assert sample.notes == ("read_untyped_content",) and sample.unread == {}
    cited = {**words, "annotations": [{"type": "file_citation"}]}
    sample = read(chat({"role": "user", "content": [{"type": "text", "text": cited}]}, ANSWER))
    assert list(sample.unread) == ["text.annotations"]
