"""Exports of further tools: numbered tags without media, calls in turns of their own, media under less usual keys."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ingest.spelt import ANSWER, USER, R, chat, read, refused

from vlm_prep.core.errors import InputError
from vlm_prep.core.records import Rejected, Sample
from vlm_prep.ingest.source import open_samples

PICTURE = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(64)).decode()


def only(path: Path) -> Sample:
    (row,) = open_samples(path).read(0, 1)
    assert isinstance(row, Sample), row
    return row


def hint_of(path: Path, row: dict[str, Any]) -> str:
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(InputError) as caught:
        open_samples(path)
    return str(caught.value)


@pytest.mark.parametrize("text", ["<image_00> or <image_01>?", "<image_1>?<image_00>"])
def test_a_tag_that_the_column_of_named_media_does_not_name_has_no_picture(text: str) -> None:
    reason, words = refused(chat({"role": "user", "content": text}, ANSWER, image={"<image_00>": "a.png"}))
    assert reason == R.MEDIA_COUNT_MISMATCH and "'<image_00>' alone" in words


def test_calls_in_turns_of_their_own_without_a_result_between_them_are_one_turns() -> None:
    call, other = ({"name": name, "arguments": {"x": 1}} for name in "fg")
    turns = [{"role": "tool_call", "content": json.dumps(each)} for each in (call, other, call)]
    tool = {"role": "tool_response", "content": "5"}
    sample = read(chat(USER, *turns, tool, tool, tool, turns[0], tool, ANSWER))
    made = [[each["function"]["name"] for each in message.get("tool_calls", ())] for message in sample.messages]
    assert made == [[], ["f", "g", "f"], [], [], [], ["f"], [], []] and "read_joined_calls" in sample.notes
    apart = read(chat(USER, turns[0], tool, turns[1], tool, ANSWER))
    assert "read_joined_calls" not in apart.notes and len(apart.messages) == 6
    marked = read(chat(USER, turns[0], {**turns[1], "loss": False}, tool, ANSWER))
    assert [message.get("train") for message in marked.messages[1:3]] == [None, False]  # not one turn's


def test_a_fault_after_joined_calls_names_the_rows_own_message() -> None:
    call = {"role": "tool_call", "content": json.dumps({"name": "f", "arguments": {}})}
    assert refused(chat(USER, call, call, {"role": "tool", "content": 5}, ANSWER))[1].startswith("message 4:")


@pytest.mark.parametrize("none", ["null", "[]", "{}"])
def test_no_calls_and_no_tools_as_json_text_or_an_empty_object_are_none(none: str) -> None:
    plain = read(chat())
    assert read(chat(USER, {**ANSWER, "tool_calls": none})).messages == plain.messages
    assert read(chat(tools=none)).tools == read(chat(tools={})).tools == plain.tools


def test_a_data_url_is_one_in_any_usual_letter_case(tmp_path: Path) -> None:
    for head in ("DATA:image/png;BASE64,", "Data:image/png;base64,"):
        user = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": head + PICTURE}}]}
        (path := tmp_path / "a.jsonl").write_text(json.dumps(chat(user, ANSWER)) + "\n")
        assert only(path).media[0].uris[0].endswith("/image_url/url")


@pytest.mark.parametrize("key", ["base64", "bytes"])
def test_a_part_holds_its_picture_in_base64(tmp_path: Path, key: str) -> None:
    user = {"role": "user", "content": [{"type": "image", key: PICTURE}, {"type": "text", "text": "hi"}]}
    (path := tmp_path / "a.jsonl").write_text(json.dumps(chat(user, ANSWER)) + "\n")
    assert only(path).media[0].uris[0].endswith(f"/messages/0/content/0/{key}")
    words = refused(chat({"role": "user", "content": [{"type": "audio", "base64": "AAAA"}]}, ANSWER))[1]
    assert "base64 without the format" in words


def test_bytes_of_no_length_are_no_media(tmp_path: Path) -> None:
    table = pa.table({"messages": [[USER, ANSWER]], "image": pa.array([{"bytes": b"", "path": ""}])})
    pq.write_table(table, tmp_path / "a.parquet")
    assert not only(tmp_path / "a.parquet").media
    user = {"role": "user", "content": "<image>hi"}
    named = pa.table({"messages": [[user, ANSWER]], "image": pa.array([{"bytes": b"", "path": "a.png"}])})
    pq.write_table(named, tmp_path / "b.parquet")
    assert only(tmp_path / "b.parquet").media[0].uris == (str(tmp_path / "a.png"),)


def test_a_sound_in_the_column_of_its_tag_is_heard() -> None:
    sample = read(chat({"role": "user", "content": "<sound>\nhi"}, ANSWER, sound="a.wav"))
    assert [each.kind for each in sample.media] == ["audio"] and "read_media_columns" in sample.notes


def test_parts_of_gemini_may_be_one() -> None:
    one = {"contents": [{"role": "user", "parts": {"text": "hi"}}, {"role": "model", "parts": {"text": "ho"}}]}
    assert read({**one, "systemInstruction": {"parts": {"text": "s"}}}).messages == read(chat(system="s")).messages


def test_rejects_name_what_nobody_reads() -> None:
    source = {"type": "file", "file_id": "f1"}
    assert (
        "part.file_id ('f1')"
        in refused(chat({"role": "user", "content": [{"type": "image", "source": source}]}, ANSWER))[1]
    )
    assert "the row's response ('ho')" in refused(chat(USER, response="ho"))[1]
    assert refused(chat(preferred_output=[ANSWER]))[0] == R.UNREAD_KEY


def test_hints_leave_out_no_media_and_take_no_answer_alone_for_a_conversation(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    said = hint_of(path, {"video": "v.mp4", "question": "hi", "candidates": ["a"], "answer": "ho"})
    assert '"videos":"video"' in said and "format=alpaca" not in said
    said = hint_of(path, {"input": {"messages": [USER]}, "preferred_output": [ANSWER], "non_preferred_output": [USER]})
    assert "columns=messages=preferred_output" not in said
    assert '{"assistant":"{txt}"}' in hint_of(path, {"key": "u1", "wav": "s.wav", "txt": "ho"})


@pytest.mark.parametrize("key", ["fps", "sample_fps"])
def test_a_rows_rate_is_that_of_its_folder_of_frames_and_not_of_a_file(key: str) -> None:
    user = {"role": "user", "content": "<video><video>hi"}
    sample = read(chat(user, ANSWER, videos=["clips/0001", "b.mp4"], **{key: 4}))
    assert [each.fps for each in sample.media] == [4.0, None] and not sample.unread
    sample = read(chat({"role": "user", "content": "<video>hi"}, ANSWER, video="b.mp4", **{key: 25}))
    assert sample.media[0].fps is None and sample.unread == {f"row.{key}": 25}


def test_calls_of_one_turn_are_joined_whatever_keys_the_first_row_has(tmp_path: Path) -> None:
    call = {"role": "tool_call", "content": json.dumps({"name": "f", "arguments": {}})}
    first = {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}]}
    (path := tmp_path / "a.jsonl").write_text(f"{json.dumps(first)}\n{json.dumps(chat(USER, call, call, ANSWER))}\n")
    _, sample = open_samples(path).read(0, 2)
    assert isinstance(sample, Sample) and len(sample.messages[1]["tool_calls"]) == 2


@pytest.mark.parametrize("columns", [{}, {"images": None}, {"images": ""}, {"depicted": "a.png"}, {"images": []}])
def test_a_tag_of_a_row_of_plain_texts_asks_for_its_picture_whatever_the_first_row_is(
    tmp_path: Path, columns: dict[str, Any]
) -> None:
    asked = chat({"role": "user", "content": "<image>hi"}, ANSWER, **columns)
    typed = chat({"role": "user", "content": [{"type": "text", "text": "about <image>"}]}, ANSWER)
    (path := tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (typed, asked, typed)))
    first, second, third = open_samples(path).read(0, 3)
    assert isinstance(first, Sample) and isinstance(third, Sample)
    assert isinstance(second, Rejected) and second.reason in (R.MEDIA_COUNT_MISMATCH, R.MISSING_MEDIA)
