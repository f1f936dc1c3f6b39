"""A row that is not of its file's layout, and what is said of rows that none reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ingest.spelt import ANSWER, USER, R, chat, read, refused

from vlm_prep.core.errors import InputError
from vlm_prep.core.records import Rejected, Sample
from vlm_prep.ingest.source import open_samples

OTHERS: list[dict[str, Any]] = [
    {"messages": [USER, ANSWER]},
    {"instruction": "hi", "output": "ho"},
    {"query": "hi", "response": "ho"},
    {"prompt": "hi", "completion": "ho"},
    {"prompt": [USER], "completion": [ANSWER]},
    {"texts": [{"user": "hi", "assistant": "ho"}], "images": []},
]


def rows_of(folder: Path, rows: list[Any], **options: Any) -> list[Sample | Rejected]:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    samples = open_samples(path, **options)
    return list(samples.read(0, len(samples)))


def said(row: Sample | Rejected) -> list[str]:
    assert isinstance(row, Sample), row
    return [part["text"] for message in row.messages for part in message["content"]]


@pytest.mark.parametrize("first", range(len(OTHERS)))
def test_each_row_is_read_by_its_own_layout_and_counted(tmp_path: Path, first: int) -> None:
    rows = [OTHERS[first], *OTHERS]
    for row in (found := rows_of(tmp_path, rows)):
        assert said(row) == ["hi", "ho"]
    others = [row for row in found if isinstance(row, Sample) and "read_other_format" in row.notes]
    assert len(others) == (4 if first in (3, 4) else 5)  # two are of one form


def test_a_layout_that_the_user_names_is_the_only_one(tmp_path: Path) -> None:
    rows = [OTHERS[0], OTHERS[1]]
    assert isinstance(rows_of(tmp_path, rows, format="sharegpt")[1], Rejected)
    renamed = [{"talk": [USER, ANSWER]}, OTHERS[0]]
    assert isinstance(rows_of(tmp_path, renamed, columns={"messages": "talk"})[1], Rejected)


def test_a_row_that_is_its_messages_is_a_conversation(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}]
    for rows in ([[USER, ANSWER], turns], [turns, OTHERS[0], [USER, ANSWER]]):
        found = rows_of(tmp_path, rows)
        assert [said(row) for row in found] == [["hi", "ho"]] * len(rows)
        assert sum("read_bare_messages" in row.notes for row in found if isinstance(row, Sample)) == 2
    odd = rows_of(tmp_path, [OTHERS[0], [USER, "ho"], []])[1:]
    assert [isinstance(row, Rejected) and row.reason for row in odd] == ["bad_row", "bad_row"]


def test_speech_and_chats_in_one_file_and_sound_under_several_names(tmp_path: Path) -> None:
    rows = [{"audio_filepath": "a.wav", "text": "hi"}, {"audio": "b.wav", "text": "hi"}, OTHERS[0]]
    first, second, chats = rows_of(tmp_path, rows)
    assert isinstance(first, Sample) and isinstance(second, Sample) and said(chats) == ["hi", "ho"]
    assert [each.media[0].uris[0][-5:] for each in (first, second)] == ["a.wav", "b.wav"]


@pytest.mark.parametrize(
    ("row", "settings"),
    [
        ({"prompt": "hi"}, {"format": "completion", "columns": {"completion": "chosen"}}),
        ({"prompt": [USER]}, {"format": "completion", "columns": {"completion": "chosen"}}),
        ({"question": "hi"}, {"format": "alpaca", "columns": {"instruction": "question", "output": "chosen"}}),
        ({}, {"columns": {"messages": "chosen"}}),
    ],
)
def test_preference_data_says_how_what_was_chosen_is_read(
    tmp_path: Path, row: dict[str, Any], settings: dict[str, Any]
) -> None:
    turns = [[USER, ANSWER], [USER, ANSWER]] if not row else [[ANSWER]] * 2 if row == {"prompt": [USER]} else ["ho"] * 2
    row = {**row, "chosen": turns[0], "rejected": turns[1]}
    with pytest.raises(InputError) as caught:
        rows_of(tmp_path, [row])
    for name, value in settings.items():
        for written in [value] if isinstance(value, str) else [f"{role}={column}" for role, column in value.items()]:
            assert f"`{name}={written}`" in str(caught.value)
    (sample,) = rows_of(tmp_path, [row], ignore_keys=["chosen", "rejected"], **settings)
    assert said(sample) == ["hi", "ho"]


def test_a_picture_of_a_page_in_a_question_is_said() -> None:
    for text in ("![a cat](a.png) what?", '<img src="a.png">what?'):
        for content in (text, [{"type": "text", "text": text}]):
            assert "text.picture" in read(chat({"role": "user", "content": content}, ANSWER)).unread
    assert not read(chat(USER, {"role": "assistant", "content": "![a](a.png)"})).unread


def test_rejects_of_counts_and_addresses_name_their_settings() -> None:
    two = {"role": "user", "content": "<image><image>"}
    assert "`repeated_tags=same`" in refused(chat(two, ANSWER, image="a.png"))[1]
    assert "`download`" in refused(chat({"role": "user", "content": "<image>"}, ANSWER, image="http://a.b/c.png"))[1]
    sound = chat({"role": "user", "content": "<audio>"}, ANSWER, tape="a.wav")
    assert refused(sound)[1].endswith("e.g. audios=tape")


@pytest.mark.parametrize(("frames", "count"), [("clip", 1), ("v.mp4", 1), (["1.png", "2.png"], 1), (16, 0), ("16", 0)])
def test_a_column_of_frames_is_a_video_or_how_many_there_are(frames: Any, count: int) -> None:
    row = chat({"role": "user", "content": "<video>"}, ANSWER, frames=frames)
    if count:
        assert [each.kind for each in read(row).media] == ["video"]
    else:
        assert refused(row)[0] == R.MEDIA_COUNT_MISMATCH


def test_an_object_of_rows_that_name_a_file_is_no_meta_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps({name: {"file_name": "a.jpg", "messages": [USER, ANSWER]} for name in ("a", "b")}))
    samples = open_samples(path)
    assert [said(row) for row in samples.read(0, len(samples))] == [["hi", "ho"]] * 2


def test_messages_without_a_row_around_them_say_where_they_belong(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="put the list of a conversation into an object"):
        rows_of(tmp_path, [USER, ANSWER])


def test_a_call_whose_function_is_its_name_is_read_and_one_without_a_name_is_shown() -> None:
    call = {"function": "f", "arguments": {"x": 1}}
    (made,) = read(chat(USER, {**ANSWER, "tool_calls": [call]})).messages[1]["tool_calls"]
    assert made["function"] == {"name": "f", "arguments": {"x": 1}}
    assert '"tool": "f"' in refused(chat(USER, {**ANSWER, "tool_calls": [{"tool": "f", "args": {}}]}))[1]
