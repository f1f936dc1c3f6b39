"""Oddities that stand together: JSON text in JSON text, keys of another letter case, one thing said in two places."""

from __future__ import annotations

import csv
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

FUNCTION = {"name": "look", "arguments": {"x": 1}}


def called(**more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": "", **more}


def rows_of(path: Path, **options: Any) -> list[Sample | Rejected]:
    samples = open_samples(path, **options)
    return list(samples.read(0, len(samples)))


def said(row: Sample | Rejected) -> list[str]:
    assert isinstance(row, Sample), row
    return [part.get("text", f"<{part['type']}>") for message in row.messages for part in message["content"]]


def as_csv(path: Path, *records: list[str]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(records)
    return path


# ---- JSON text ----


@pytest.mark.parametrize("role", ["assistant", "Assistant", "GPT", " Model "])
def test_an_answer_about_json_is_a_text_in_any_letter_case_of_its_role(role: str) -> None:
    written = json.dumps([{"type": "image", "image": "a.png"}])
    sample = read(chat({"role": role, "content": written}, USER, ANSWER))
    assert sample.messages[0]["content"] == [{"type": "text", "text": written}] and not sample.media


@pytest.mark.parametrize("written", ['{"x": 1, "x": 2}', '{"y": {"x": 1, "x": 2}}'])
def test_a_key_twice_in_arguments_as_text_is_refused(written: str) -> None:
    reason, words = refused(chat(USER, called(tool_calls=[{"function": {"name": "f", "arguments": written}}])))
    assert reason == R.DUPLICATE_KEY and "message 2: tool call 0: arguments" in words and "'x'" in words


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (str(10**25), "10000000000000000000000000 is a whole number beyond 64 bits"),
        ("NaN", "nan is no number of JSON"),
        ("-Infinity", "-inf is no number of JSON"),
    ],
)
def test_numbers_that_no_store_holds_are_neither_rounded_nor_said_in_a_librarys_words(value: str, words: str) -> None:
    written = f'{{"x": {value}}}'
    reason, message = refused(chat(USER, called(tool_calls=[{"function": {"name": "f", "arguments": written}}])))
    assert reason == R.BAD_TYPE and words in message


@pytest.mark.parametrize("wrap", [lambda tool: tool, lambda tool: {"type": "function", "function": tool}])
def test_parameters_of_a_schema_as_text_are_the_object(wrap: Any) -> None:
    schema = {"type": "object", "properties": {"x": {"type": "integer"}}}
    plain = read(chat(tools=[wrap({"name": "f", "parameters": schema})]))
    assert read(chat(tools=[wrap({"name": "f", "parameters": json.dumps(schema)})])).tools == plain.tools
    assert refused(chat(tools=[wrap({"name": "f", "parameters": "[1]"})]))[0] == R.BAD_TOOLS


def test_tools_and_calls_may_be_texts_in_a_list() -> None:
    tool = {"name": "f", "parameters": {}}
    assert read(chat(tools=[json.dumps(tool)])).tools == read(chat(tools=[tool])).tools
    calls = [json.dumps(FUNCTION)]
    assert (
        read(chat(USER, called(tool_calls=calls))).messages == read(chat(USER, called(tool_calls=[FUNCTION]))).messages
    )
    assert refused(chat(tools=["look"]))[1].startswith("tool 0 ('look') is not valid JSON")
    assert "lenient_json" in refused(chat(tools=str([tool])))[1]
    assert read(chat(tools=str([tool])), lenient_json=True).tools == read(chat(tools=[tool])).tools
    assert "lenient_json" not in refused(chat(USER, called(tool_calls=str([FUNCTION]))))[1]  # nobody reads it so


def test_content_as_json_text_may_be_one_part_and_has_each_key_once() -> None:
    ask, answer = (
        {**each, "content": json.dumps({"type": "text", "text": each["content"]})} for each in (USER, ANSWER)
    )
    assert read(chat(ask, answer)).messages == read(chat()).messages
    assert read(chat(USER, answer)).messages[1]["content"][0]["text"] == answer["content"]  # an answer about JSON
    about = {**USER, "content": '{"type": "image", "image": "a.png"}'}
    assert not read(chat(about, ANSWER)).media
    twice = '[{"type": "image", "image": "a.png"}, {"type": "text", "text": "a", "text": "b"}]'
    reason, words = refused(chat({**USER, "content": twice}, ANSWER))
    assert reason == R.DUPLICATE_KEY and "'text'" in words


def test_content_as_json_text_is_read_beside_an_empty_answer_and_a_system_turn() -> None:
    ask, answer = (
        {**each, "content": json.dumps([{"type": "text", "text": each["content"]}])} for each in (USER, ANSWER)
    )
    calls, result = called(tool_calls=[{"function": FUNCTION}]), {"role": "tool", "content": "5"}
    sample = read(chat({"role": "system", "content": "s"}, ask, calls, result, answer))
    texts = [part["text"] for message in sample.messages for part in message["content"]]
    assert [each for each in texts if each] == ["s", "hi", "5", "ho"] and "read_json_text" in sample.notes


def test_prompts_completions_and_histories_of_csv_are_their_messages(tmp_path: Path) -> None:
    turns = json.dumps([USER]), json.dumps([ANSWER])
    path = as_csv(tmp_path / "a.csv", ["prompt", "completion"], ["q", "x"], [*turns], ["[INST] q", "[1]"])
    assert [said(row) for row in rows_of(path)] == [["q", "x"], ["hi", "ho"], ["[INST] q", "[1]"]]
    other = as_csv(tmp_path / "b.csv", ["prompt", "completion"], ["q", "x"], [repr([USER]), repr([ANSWER])])
    assert "lenient_json=true" in rows_of(other)[1].message  # type: ignore[union-attr]
    assert said(rows_of(other, lenient_json=True)[1]) == ["hi", "ho"]
    broken = as_csv(
        tmp_path / "d.csv", ["prompt", "completion"], ["q", "x"], [turns[0][:-1], "x"], [f"[{turns[0][2:]}", "x"]
    )
    assert [type(row) for row in rows_of(broken)] == [Sample, Rejected, Sample]
    one = json.dumps(USER), json.dumps(ANSWER)
    twice = '{"role": "user", "content": "a", "content": "b"}'
    found = rows_of(as_csv(tmp_path / "e.csv", ["prompt", "completion"], ["q", "x"], [*one], [twice, "x"]))
    assert said(found[1]) == ["hi", "ho"] and found[2].reason == R.DUPLICATE_KEY  # type: ignore[union-attr]
    alpaca = ["instruction", "output", "history"]
    path = as_csv(tmp_path / "c.csv", alpaca, ["q", "x", ""], ["q", "x", "[]"], ["q", "x", '[["a", "b"]]'])
    assert [said(row) for row in rows_of(path)] == [["q", "x"], ["q", "x"], ["a", "b", "q", "x"]]


@pytest.mark.parametrize("instruction", ["", "do"])
def test_an_input_without_an_instruction_is_the_question(instruction: str) -> None:
    sample = read({"instruction": instruction, "input": "hi", "output": "ho"}, format="alpaca")
    assert sample.messages[0]["content"][0]["text"] == ("do\nhi" if instruction else "hi")


def test_rows_and_conversations_that_are_written_as_json_twice_are_read_and_counted(tmp_path: Path) -> None:
    (path := tmp_path / "a.jsonl").write_text(json.dumps(json.dumps(chat())) + "\n" + json.dumps(chat()) + "\n")
    (array := tmp_path / "b.json").write_text(json.dumps([json.dumps(chat()), chat()]))
    for each in (path, array):
        first, second = rows_of(each)
        assert said(first) == said(second) == ["hi", "ho"]
        assert "read_json_text" in first.notes and not second.notes  # type: ignore[union-attr]
    assert read({"messages": json.dumps(json.dumps([USER, ANSWER]))}).messages == read(chat()).messages
    (path := tmp_path / "c.jsonl").write_text(json.dumps("no row") + "\n" + json.dumps(chat()) + "\n")
    assert [type(row) for row in rows_of(path)] == [Rejected, Sample]


# ---- keys ----


@pytest.mark.parametrize(
    ("row", "text", "media"),
    [
        ({"Messages": [{"ROLE": "User", "Content": "hi"}, {"Role": "Assistant", "CONTENT": "ho"}]}, ["hi", "ho"], 0),
        (chat({"role": "user", "content": "<image>hi"}, ANSWER, Image="a.png"), ["<image>", "hi", "ho"], 1),
        (chat(**{"System ": "s"}), ["s", "hi", "ho"], 0),
        ({"Instruction": "hi", "Output": "ho"}, ["hi", "ho"], 0),
        ({"Audio": "a.wav", "Text": "ho"}, ["<audio>", "ho"], 1),
    ],
)
def test_columns_and_keys_are_known_in_any_letter_case(
    tmp_path: Path, row: dict[str, Any], text: list[str], media: int
) -> None:
    (path := tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    (sample,) = rows_of(path)
    assert said(sample) == text and isinstance(sample, Sample) and len(sample.media) == media
    assert "read_key_case" in sample.notes and not sample.unread


def test_keys_with_a_meaning_keep_it_in_any_letter_case() -> None:
    assert refused(chat(Label=1))[0] == R.UNREAD_KEY
    assert read(chat(Label=1), ignore_keys=("Label",)).messages
    assert read(chat(USER, {**ANSWER, "Loss": 0})).messages[1]["train"] is False
    both = read(chat({"role": "user", "content": "hi"}, ANSWER, Image="a.png", image=None))
    assert both.unread == {"row.Image": "a.png"}  # two columns, of which one is read


def test_a_message_that_is_a_media_is_known_by_any_of_its_types() -> None:
    for kind in ("image_url", "Image", "img"):
        sample = read(chat({"role": "user", "type": kind, "content": "a.png"}, USER, ANSWER))
        assert sample.messages[0]["content"] == [{"type": "image"}] and sample.media[0].uris == ("/m/a.png",)


def test_pairs_go_by_any_names_of_the_two_roles() -> None:
    for names in (("human", "gpt"), ("user", "assistant"), ("user", "bot")):
        assert read(chat(dict(zip(names, ("hi", "ho"), strict=True)))).messages == read(chat()).messages


def test_the_key_that_is_wrong_is_the_one_that_is_named() -> None:
    from_value = {"tags": {"role_tag": "from", "content_tag": "value"}}
    assert "message 1: content is a number" in refused(chat({"role": "user", "content": 0}, ANSWER), **from_value)[1]


@pytest.mark.parametrize("audio", [None, "", []])
def test_a_speech_row_without_its_sound_says_so(audio: Any) -> None:
    reason, words = refused({"audio": audio, "text": "ho"}, format="asr")
    assert reason == R.MISSING_MEDIA and "'audio' is null or empty" in words


# ---- one thing in two places ----


def test_reasoning_and_calls_inside_and_beside_the_content_are_one_where_they_are_equal() -> None:
    thought = [{"type": "thinking", "thinking": "r"}, {"type": "text", "text": "ho"}]
    sample = read(chat(USER, {"role": "assistant", "content": thought, "reasoning": "r"}))
    assert sample.messages[1]["reasoning_content"] == "r" and "read_doubles" in sample.notes
    reason, words = refused(chat(USER, {"role": "assistant", "content": thought, "reasoning": "other"}))
    assert reason == R.BAD_ROW and "'r'" in words and "'other'" in words
    block = {"type": "tool_use", "id": "1", "name": "look", "input": {"x": 1}}
    sample = read(chat(USER, called(content=[block], tool_calls=[{"id": "1", "function": FUNCTION}])))
    assert [call["function"] for call in sample.messages[1]["tool_calls"]] == [FUNCTION]
    other = {"id": "1", "function": {**FUNCTION, "arguments": {"x": 2}}}
    assert refused(chat(USER, called(content=[block], tool_calls=[other])))[0] == R.BAD_ROW


def test_two_keys_of_calls_hold_the_same_ones() -> None:
    calls = [{"function": FUNCTION}]
    assert len(read(chat(USER, called(tool_calls=calls, function_call=FUNCTION))).messages[1]["tool_calls"]) == 1
    reason, words = refused(chat(USER, called(tool_calls=calls, function_call={"name": "other", "arguments": "{}"})))
    assert reason == R.BAD_TOOL_CALL and "function_call" in words and "different calls" in words


@pytest.mark.parametrize("wrapped", ["<img><image></img>", "<|vision_start|><image><|vision_end|>"])
def test_a_tag_in_a_models_own_wrapper_is_one_tag(wrapped: str) -> None:
    sample = read(chat({"role": "user", "content": f"a {wrapped} b"}, ANSWER, image="a.png"))
    kinds = [part.get("text", part["type"]) for part in sample.messages[0]["content"]]
    assert kinds == ["a ", "image", " b"] and "read_tag_spellings" in sample.notes


def test_an_entrys_paths_are_one_where_they_name_one_file() -> None:
    user = {"role": "user", "content": "<image>hi"}
    for entry in ({"url": "a.png", "path": "./a.png"}, {"path": "a.png", "bytes": ""}):
        assert read(chat(user, ANSWER, image=entry)).media[0].uris == ("/m/a.png",)
    words = refused(chat(user, ANSWER, image={"url": "a.png", "path": "b.png"}))[1]
    assert "path ('b.png') and url ('a.png')" in words


def test_paths_and_bytes_side_by_side_are_entries() -> None:
    user = {"role": "user", "content": "<image><image>hi"}
    sample = read(chat(user, ANSWER, images={"path": ["a.png", "b.png"], "bytes": [None, None]}))
    assert [each.uris for each in sample.media] == [("/m/a.png",), ("/m/b.png",)]
    assert "read_media_by_key" in sample.notes
    words = refused(chat(user, ANSWER, images={"path": ["a.png"], "bytes": [None, None]}))[1]
    assert "bytes as a list" in words


# ---- tables ----


def test_maps_of_arrow_are_objects(tmp_path: Path) -> None:
    turns = [[[("role", "user"), ("content", "hi")], [("role", "assistant"), ("content", "ho"), ("name", None)]]]
    twice = [[[("role", "user"), ("role", "user")]]]
    column = pa.array(turns + twice, pa.list_(pa.map_(pa.string(), pa.string())))
    pq.write_table(pa.table({"messages": column}), tmp_path / "a.parquet")
    first, second = rows_of(tmp_path / "a.parquet")
    assert said(first) == ["hi", "ho"] and isinstance(first, Sample) and not first.unread
    assert isinstance(second, Rejected) and second.reason == R.DUPLICATE_KEY


def test_media_in_maps_of_arrow_are_found_again(tmp_path: Path) -> None:
    from vlm_prep.media.files import read_bytes

    column = pa.array([[("path", b"a.png"), ("bytes", b"data")]], pa.map_(pa.string(), pa.binary()))
    user = {"role": "user", "content": "<image>hi"}
    pq.write_table(pa.table({"messages": [[user, ANSWER]], "image": column}), tmp_path / "a.parquet")
    (row,) = rows_of(tmp_path / "a.parquet")
    assert isinstance(row, Sample) and read_bytes(row.media[0].uris[0]) == b"data"


def test_bytes_come_before_a_name_whichever_column_is_first(tmp_path: Path) -> None:
    user = {"role": "user", "content": "<image>hi"}
    table = pa.table({"messages": [[user, ANSWER]], "images": [["a.png"]], "image": [b"data"]})
    pq.write_table(table, tmp_path / "a.parquet")
    (row,) = rows_of(tmp_path / "a.parquet")
    assert isinstance(row, Sample) and row.media[0].uris[0].endswith("::0/image")


def test_records_of_csv_that_are_none_say_so(tmp_path: Path) -> None:
    path = as_csv(tmp_path / "a.csv", ["messages", "image"], [json.dumps([USER, ANSWER]), "", "more"])
    (row,) = rows_of(path)
    assert isinstance(row, Rejected) and row.message == "line 2: 3 fields, and 2 columns in the first line"
    path = as_csv(tmp_path / "b.csv", ["messages", "messages"], ["a", "b"])
    with pytest.raises(InputError, match="two columns are named 'messages'"):
        rows_of(path)
