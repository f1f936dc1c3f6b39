"""Rows as other programs export them: media beside their message's text, LangChain's messages, keys in any case."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from ingest.spelt import ANSWER, USER, R, chat, read, refused

from vlm_prep.core.records import Sample
from vlm_prep.ingest.source import open_samples

CALL = {"type": "function", "function": {"name": "look", "arguments": {"x": 1}}}
AS_TEXT = json.dumps({"name": "look", "arguments": {"x": 1}})
TOLD = {"role": "tool", "content": "a cat"}


def said(sample: Sample) -> list[list[str]]:
    return [[part.get("text", f"<{part['type']}>") for part in message["content"]] for message in sample.messages]


def names(sample: Sample) -> list[str]:
    return [uri.rpartition("/")[2] for media in sample.media for uri in media.uris]


# ---- media beside the text of their message ----


def test_media_of_a_message_stand_before_its_text() -> None:
    row = chat(
        {"role": "user", "content": "What?", "images": ["a.png"]},
        {"role": "assistant", "content": "A cat.", "images": None},
        {"role": "user", "content": "And these?", "images": ["b.png", {"url": "c.png"}]},
        {"role": "assistant", "content": "Dogs.", "images": []},
        {"role": "user", "content": "", "image": "d.png"},
        ANSWER,
    )
    sample = read(row)
    assert said(sample)[::2] == [["<image>", "What?"], ["<image>", "<image>", "And these?"], ["<image>"]]
    assert names(sample) == ["a.png", "b.png", "c.png", "d.png"] and not sample.unread
    assert "read_message_media" in sample.notes


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("Is <image> <video>?", ["Is ", "<image>", " ", "<video>", "?"]),
        ([{"type": "video"}, {"type": "text", "text": "or"}, {"type": "image"}], ["<video>", "or", "<image>"]),
    ],
)
def test_media_of_a_message_stand_at_its_tags_or_bare_parts(content: Any, parts: list[str]) -> None:
    sample = read(chat({"role": "user", "content": content, "images": ["a.png"], "video": "v.mp4"}, ANSWER))
    assert said(sample)[0] == parts
    assert names(sample) == [{"<image>": "a.png", "<video>": "v.mp4"}[part] for part in parts if part[0] == "<"]


def test_media_of_a_message_may_be_those_of_the_column_and_no_others() -> None:
    message = {"role": "user", "content": "<image>What?", "images": ["a.png"]}
    assert names(read(chat(message, ANSWER, images=["./a.png"]))) == ["a.png"]
    assert refused(chat(message, ANSWER, images=["b.png"]))[0] == R.MEDIA_COUNT_MISMATCH


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": "<image>?", "images": ["a.png", "b.png"]},
        {"role": "user", "content": "<image>?", "images": ["a.png"], "image": "a.png"},
        {"role": "user", "content": "?", "images": ["a.png"], "videos": ["v.mp4"]},
        {"role": "user", "content": "<image>?", "images": ["a.png"], "videos": ["v.mp4"]},
        {"role": "user", "content": [{"type": "image"}], "images": ["a.png", "b.png"]},
        {"role": "assistant", "content": "Here.", "images": ["a.png"]},
    ],
)
def test_media_of_a_message_whose_place_is_not_said_are_refused(message: dict[str, Any]) -> None:
    reason, words = refused(chat(message, ANSWER))
    assert reason == R.UNREAD_KEY and "write a tag" in words and "ignore_keys" in words


def test_base64_of_ollama_is_a_picture(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (9, 7)).save(tmp_path / "a.png")
    data = base64.b64encode((tmp_path / "a.png").read_bytes()).decode()
    row = {"model": "llava", "messages": [{"role": "user", "content": "?", "images": [data]}, ANSWER]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    (sample,) = open_samples(tmp_path / "rows.jsonl").read(0, 1)
    assert isinstance(sample, Sample) and said(sample)[0] == ["<image>", "?"]
    assert "rows.jsonl::0" in sample.media[0].uris[0]


# ---- columns that are media by what they hold ----


@pytest.mark.parametrize("tag", ["<speech>", "<audio>", "<Speech>"])
@pytest.mark.parametrize("column", ["speech", "wav"])
def test_a_sound_under_a_word_is_read_where_a_tag_asks_for_it(tag: str, column: str) -> None:
    sample = read(chat({"role": "user", "content": f"{tag}Say"}, ANSWER, **{column: "s.wav"}))
    assert said(sample)[0] == ["<audio>", "Say"] and names(sample) == ["s.wav"] and not sample.unread


def test_a_word_that_is_no_sound_stays_a_column_nobody_reads() -> None:
    assert read(chat(USER, ANSWER, speech="excited")).unread == {"row.speech": "excited"}
    assert read(chat(USER, ANSWER, speech="s.wav")).unread == {"row.speech": "s.wav"}
    both = read(chat({"role": "user", "content": "<image>?"}, ANSWER, image="a.png", photo="b.png"))
    assert names(both) == ["a.png"] and both.unread == {"row.photo": "b.png"}


# ---- LangChain ----

LANGCHAIN: dict[str, list[Any]] = {
    "model_dump": [
        {"type": "human", "content": "hi", "additional_kwargs": {}, "name": None, "example": False},
        {"type": "ai", "content": "ho", "tool_calls": [], "response_metadata": {}},
    ],
    "message_to_dict": [
        {"type": "human", "data": {"content": "hi", "type": "human", "example": False}},
        {"type": "ai", "data": {"content": "ho", "type": "ai"}},
    ],
    "dumps": [
        {"lc": 1, "type": "constructor", "id": ["langchain", "HumanMessage"], "kwargs": {"content": "hi"}},
        {"lc": 1, "type": "constructor", "id": ["langchain", "AIMessage"], "kwargs": {"content": "ho", "type": "ai"}},
    ],
    "tuples": [["human", "hi"], ["ai", "ho"]],
}


@pytest.mark.parametrize("form", LANGCHAIN)
def test_messages_of_langchain_are_those_of_others(form: str) -> None:
    sample = read(chat(*LANGCHAIN[form]))
    assert sample.messages == read(chat(USER, ANSWER)).messages and sample.strings == (0, 1)
    assert "read_langchain" in sample.notes and not sample.unread


def test_calls_of_langchain_are_read_wherever_they_stand() -> None:
    own = {
        "type": "ai",
        "content": "",
        "tool_calls": [{"name": "look", "args": {"x": 1}, "id": "c", "type": "tool_call"}],
    }
    raw = [{"id": "c", "type": "function", "function": {"name": "look", "arguments": '{"x": 1}'}}]
    only = {"type": "ai", "content": "", "additional_kwargs": {"tool_calls": raw}}
    human = {"type": "human", "content": "hi"}
    found = [read(chat(human, each)).messages[1] for each in (own, only, only | own)]
    assert found[0] == found[1] == found[2] and found[0]["tool_calls"] == [{**CALL, "id": "c"}]
    other = [{**raw[0], "function": {"name": "walk", "arguments": "{}"}}]
    reason, words = refused(chat(human, own | {"additional_kwargs": {"tool_calls": other}}))
    assert reason == R.BAD_TOOL_CALL and "different calls" in words


@pytest.mark.parametrize("turns", [[["hi", "ho"]], [["Q", "R"], ["Q", "R"]], ["hi", "ho"]])
def test_lists_that_say_no_role_are_refused(turns: list[Any]) -> None:
    assert refused(chat(*turns))[0] == R.BAD_TYPE


# ---- parts ----


def test_keys_of_parts_and_entries_are_known_in_any_letter_case() -> None:
    row = chat(
        {
            "role": "user",
            "content": [{"Type": "Image_URL", "Image_Url": {"URL": "a.png"}}, {"TYPE": "text", "Text": "?"}],
        },
        {"role": "assistant", "content": [{" type": "text", "text ": "ho"}]},
    )
    sample = read(row)
    assert said(sample) == [["<image>", "?"], ["ho"]] and names(sample) == ["a.png"]
    assert "read_key_case" in sample.notes
    asks = {"role": "user", "content": "<image>?"}
    entry = read(chat(asks, ANSWER, images=[{"Path": "a.png", "Bytes": None}]))
    assert names(entry) == ["a.png"] and "read_key_case" in entry.media[0].notes
    assert refused(chat(asks, ANSWER, images=[{"Path": "a.png", "Crop": [1]}]))[0] == R.BAD_MEDIA_ENTRY


def test_a_text_part_that_is_null_is_a_hole_beside_others_only() -> None:
    hole = {"type": "text", "text": None}
    sample = read(chat({"role": "user", "content": [hole, {"type": "image", "image": "a.png"}]}, ANSWER))
    assert said(sample)[0] == ["<image>"] and "read_untyped_content" in sample.notes
    called = read(chat(USER, {"role": "assistant", "content": [hole], "tool_calls": [CALL]}))
    assert called.messages[1]["content"] == []
    for parts in ([hole], [hole, hole], [hole | {"txt": "lost"}, {"type": "text", "text": "?"}]):
        reason, words = refused(chat(USER, {"role": "assistant", "content": parts}))
        assert reason == R.BAD_TYPE and "text is null" in words and "message 2, part" in words


@pytest.mark.parametrize("entry", [{"src": "a.png"}, {"name": "a.png"}, {"name": "a.png", "id": 3}])
def test_a_path_may_be_called_src_or_name(entry: dict[str, Any]) -> None:
    assert names(read(chat({"role": "user", "content": "<image>?"}, ANSWER, images=[entry]))) == ["a.png"]


def test_a_name_that_is_no_file_is_no_path() -> None:
    row = chat({"role": "user", "content": "<image>?"}, ANSWER, images=[{"name": "cat"}])
    assert refused(row)[0] == R.BAD_MEDIA_ENTRY
    beside = chat({"role": "user", "content": "<image>?"}, ANSWER, images=[{"file_name": "a.png", "name": "b.png"}])
    assert names(read(beside)) == ["a.png"]


def test_parts_of_gemini_may_be_one_text() -> None:
    row = {"contents": [{"role": "user", "parts": "hi"}, {"role": "model", "parts": "ho"}]}
    assert read(row | {"systemInstruction": {"parts": "Be."}}).messages[0]["content"][0]["text"] == "Be."
    assert read(row).messages == read(chat(USER, ANSWER)).messages


# ---- calls in turns of their own ----


@pytest.mark.parametrize(
    "calls", [[AS_TEXT] * 2, [f" \n{AS_TEXT}\n"] * 2, [f"[{AS_TEXT}, {AS_TEXT}]"], [json.loads(AS_TEXT)] * 2]
)
@pytest.mark.parametrize("role", ["tool_call", "function_call"])
def test_a_call_belongs_to_the_answer_before_it(role: str, calls: list[Any]) -> None:
    answer, call = {"role": "assistant", "content": "Look."}, {"role": role, "content": calls[0]}
    sample = read(chat(USER, answer, *({"role": role, "content": each} for each in calls), TOLD, ANSWER))
    assert [message["role"] for message in sample.messages] == ["user", "assistant", "tool", "assistant"]
    assert said(sample)[1] == ["Look."] and sample.messages[1]["tool_calls"] == [CALL, CALL]
    assert sample.notes == ("read_joined_calls",)
    filled = read(chat(USER, answer | {"loss": None}, call | {"tool_calls": None}, TOLD, ANSWER))
    assert len(filled.messages) == 4


@pytest.mark.parametrize(
    "answer",
    [
        {"role": "assistant", "content": "Look.", "loss": False},
        {"role": "assistant", "content": "Look.", "tool_calls": [CALL]},
        {"role": "user", "content": "Look."},
    ],
)
def test_a_call_behind_a_turn_of_other_options_is_a_turn_of_its_own(answer: dict[str, Any]) -> None:
    sample = read(chat(USER, answer, {"role": "tool_call", "content": AS_TEXT}, TOLD, ANSWER))
    assert len(sample.messages) == 5


# ---- masks of messages ----


@pytest.mark.parametrize("key", ["trainable", "calculate_loss", "compute_loss", "Trainable"])
def test_flags_of_training_are_read_whatever_they_are_called(key: str) -> None:
    sample = read(chat(USER, {**ANSWER, key: False}, USER, {**ANSWER, key: True}))
    assert [message.get("train") for message in sample.messages] == [None, False, None, True]
    assert "read_training_keys" in sample.notes and not sample.unread


def test_flags_that_say_the_opposite_are_refused() -> None:
    reason, words = refused(chat(USER, {**ANSWER, "no_loss": True}))
    assert reason == R.UNREAD_KEY and "message 2 has no_loss (true)" in words and "use train" in words
