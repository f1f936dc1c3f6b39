"""What may mean two things is refused with both, and what means one is read, in rows of several tools."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ingest.spelt import ANSWER, USER, R, chat, read, refused

from vlm_prep.core.errors import InputError
from vlm_prep.core.records import Rejected
from vlm_prep.ingest.source import open_samples


def said_of(path: Path, *rows: dict[str, Any]) -> list[str]:
    """The answer of each row of a file, or why it is none."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    samples = open_samples(path)
    found = samples.read(0, len(samples))
    return [
        f"{row.reason}: {row.message}" if isinstance(row, Rejected) else row.messages[-1]["content"][-1]["text"]
        for row in found
    ]


def test_an_answer_of_several_texts_is_not_joined() -> None:
    """VQA's answers are alternatives; `cat` and `a cat` would be trained as `cata cat`."""
    reason, words = refused(chat(USER, {"role": "assistant", "content": ["cat", "a cat"]}))
    assert reason == R.BAD_ROW and '"cat", "a cat"' in words and "message 2" in words
    reason, words = refused({"texts": [{"user": "Q", "assistant": ["cat", "a cat"]}]}, format="texts")
    assert reason == R.BAD_ROW and "several answers" in words
    question = read(chat({"role": "user", "content": ["a", "b"]}, {"role": "assistant", "content": ["c"]}))
    assert [len(message["content"]) for message in question.messages] == [2, 1]


def test_a_second_question_beside_the_first_is_refused() -> None:
    row = {"query": "Q", "instruction": "Answer in French.", "response": "A"}
    columns = {"instruction": "query", "output": "response"}
    reason, words = refused(row, format="alpaca", columns=columns)
    assert reason == R.BAD_ROW and "'Answer in French.'" in words and "ignore_keys=instruction" in words
    assert read(row, format="alpaca", columns=columns, ignore_keys=("instruction",)).messages[0]["content"]
    row = {"instruction": "I", "query": "X", "output": "O"}
    reason, words = refused(row, format="alpaca")
    assert reason == R.BAD_ROW and "columns=input=query" in words
    assert read(row, format="alpaca", columns={"input": "query"}).messages[0]["content"][0]["text"] == "I\nX"
    assert read({**row, "query": "I"}, format="alpaca").unread == {"row.query": "I"}  # said twice


def test_a_row_of_two_conversations_is_not_read_by_what_the_first_row_was(tmp_path: Path) -> None:
    plain = {"instruction": "I", "output": "O"}
    both = {**plain, "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}
    first, second = said_of(tmp_path / "rows.jsonl", plain, both)
    assert first == "O" and second.startswith("bad_row: the columns 'instruction'") and "`format`" in second
    assert said_of(tmp_path / "other.jsonl", both, plain) == ["a", "O"]


@pytest.mark.parametrize("empty", [{"prompt": "P", "completion": ""}, {"query": "P", "response": ""}])
def test_an_empty_answer_of_another_form_is_one_in_a_mixed_file_too(empty: dict[str, Any], tmp_path: Path) -> None:
    assert said_of(tmp_path / "rows.jsonl", chat(), empty) == ["ho", ""]
    own = read({"instruction": "", "input": "I", "output": "O"}, format="alpaca")
    assert own.messages[0]["content"][0]["text"] == "I" and not own.notes
    nothing = dict.fromkeys(empty, "")
    assert said_of(tmp_path / "none.jsonl", chat(), nothing)[1].startswith("missing_column")


# ---- reasoning that stands elsewhere ----


def thinking(**keys: Any) -> dict[str, Any]:
    return chat(USER, {**ANSWER, **keys})


def test_reasoning_details_are_reasoning() -> None:
    details = [{"type": "reasoning.text", "text": "a"}, {"type": "reasoning.text", "text": "b", "signature": "s"}]
    for keys in ({}, {"reasoning": "ab"}):
        assert read(thinking(reasoning_details=details, **keys)).messages[1]["reasoning_content"] == "ab"
    assert refused(thinking(reasoning_details=details, reasoning="c"))[0] == R.BAD_ROW
    sealed = [{"type": "reasoning.encrypted", "data": "x"}]
    reason, words = refused(thinking(reasoning_details=sealed))
    assert reason == R.UNREAD_KEY and "ignore_keys=reasoning_details" in words
    assert "message.reasoning_details" in read(thinking(reasoning_details=sealed, reasoning="c")).unread
    without = read(thinking(reasoning_details=sealed), ignore_keys=("reasoning_details",))
    assert "reasoning_content" not in without.messages[1]
    assert not read(thinking(reasoning_details=[])).unread


def test_a_thought_beside_an_answer_is_refused_by_name() -> None:
    reason, words = refused(thinking(thought="hm"))
    assert reason == R.UNREAD_KEY and "reasoning_content" in words and "ignore_keys=thought" in words
    assert read(thinking(thought="hm"), ignore_keys=("thought",)).messages[1]["content"][0]["text"] == "ho"


@pytest.mark.parametrize("key", ["reasoning", "reasoning_content", "thinking"])
def test_reasoning_of_a_row_is_refused_and_a_word_of_that_name_counted(key: str) -> None:
    reason, words = refused(chat(**{key: "first this, then that"}))
    assert reason == R.UNREAD_KEY and f"ignore_keys={key}" in words
    assert read(chat(**{key: "first this, then that"}), ignore_keys=(key,)).messages
    assert read(chat(**{key: "on"})).unread == {f"row.{key}": "on"}  # Nemotron's rows say so of what kind they are


# ---- words of messages ----


def test_a_message_without_content_says_what_it_has() -> None:
    message = refused(chat(USER, {"role": "assistant", "content": None, "refusal": "I cannot."}))[1]
    assert message == "message 2: content is null, not a string; nobody reads its refusal ('I cannot.') in place of it"


def test_the_text_of_a_message_may_be_called_so() -> None:
    sample = read(chat({"role": "prompter", "text": "Q"}, {"role": "assistant", "text": "A", "content": None}))
    assert [each["content"][0]["text"] for each in sample.messages] == ["Q", "A"]
    assert "read_other_tags" in sample.notes and not sample.unread
    beside = read(chat(USER, {**ANSWER, "text": "other"}))
    assert beside.unread == {"message.text": "other"}


def test_geminis_message_without_a_role_is_shown_as_it_is_written() -> None:
    model = {"role": "model", "parts": [{"text": "A"}]}
    reason, words = refused({"contents": [{"parts": [{"text": "Q"}]}, model]})
    assert reason == R.BAD_TYPE and '"parts": [{"text": "Q"}]' in words
    asked = {"role": "user", "parts": [{"text": "Q"}]}
    assert len(read({"contents": [asked, model], "messages": None}).messages) == 2


@pytest.mark.parametrize(
    ("key", "off", "usual"),
    [
        ("loss", False, 2.31),
        ("train", False, "train"),
        ("trainable", 0, True),
        ("calculate_loss", False, 1),
        ("loss_weight", 0.1, 1.0),
        ("no_loss", True, False),
        ("skip_loss", 1, 0),
    ],
)
def test_a_row_that_says_it_is_not_trained_is_refused(key: str, off: Any, usual: Any) -> None:
    """As of a message, but there is no way to apply it to a row; a measure called `loss` is none of it."""
    reason, words = refused(chat(**{key: off}))
    assert reason == R.UNREAD_KEY and f"the row has {key}" in words and f"`ignore_keys={key}`" in words
    assert read(chat(**{key: usual})).unread == {f"row.{key}": usual}
    assert read(chat(**{key: off}), ignore_keys=(key,)).messages[-1]["content"]


@pytest.mark.parametrize("key", ["answers", "responses", "candidates"])
def test_several_answers_beside_messages_without_one_are_named(key: str) -> None:
    reason, words = refused(chat(USER, **{key: ["a", "b"]}))
    assert reason == R.NO_ASSISTANT_TURN and f"nobody reads the row's {key}" in words


def test_a_channel_that_is_picked_is_not_averaged_in_silence() -> None:
    row = {"audio_filepath": "a.wav", "duration": 1.0, "text": "hi", "channel_selector": 1}
    reason, words = refused(row, format="asr")
    assert reason == R.UNREAD_KEY and "channel_selector (1)" in words and "mean" in words
    (media,) = read(row, format="asr", ignore_keys=("channel_selector",)).media
    assert media.end == 1.0


# ---- files and columns ----


def test_transcripts_of_several_names_are_read_row_by_row(tmp_path: Path) -> None:
    names = ("text", "sentence", "transcription")
    rows: list[dict[str, Any]] = [{"audio": "a.wav", name: name} for name in names]
    assert said_of(tmp_path / "rows.jsonl", *rows) == list(names)
    both = {"audio": "a.wav", "text": "one", "sentence": "two"}
    with pytest.raises(InputError, match="the transcript may be 'text' or 'sentence'"):
        said_of(tmp_path / "both.jsonl", *rows, both)
    many = said_of(tmp_path / "many.jsonl", *rows, *[{"audio": "a.wav", "text": "x"}] * 70, both)
    assert many[-1].startswith("bad_row: the columns 'text' ('one') and 'sentence' ('two')")


@pytest.mark.parametrize("tag", ["<|vision_start|><|image_pad|><|vision_end|>", "<image_1>", "<|image|>"])
def test_a_placeholder_of_another_tool_without_its_picture_is_said(tag: str) -> None:
    assert read(chat({"role": "user", "content": f"{tag}Q"}, ANSWER)).unread == {"text.placeholder": tag}
    beside = read(chat({"role": "user", "content": f"<image>What does {tag} mean?"}, ANSWER, images=["a.png"]))
    assert not beside.unread
    assert not read(chat({"role": "user", "content": f"{tag}Q"}, ANSWER, images=["a.png"])).unread


@pytest.mark.parametrize("nothing", ["None", "null", "nan", "N/A", ["None"]])
def test_no_media_as_a_word_is_none(nothing: Any) -> None:
    assert read(chat(image=nothing)).notes == ("read_empty_media",)
    assert refused(chat({"role": "user", "content": "<image>Q"}, ANSWER, image=nothing))[0] == R.MISSING_MEDIA
    assert [media.uris for media in read(chat({**USER, "content": "<image>"}, ANSWER, image="none.png")).media]


def hint_of(path: Path, row: dict[str, Any]) -> str:
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(InputError) as caught:
        open_samples(path)
    return str(caught.value)


def test_what_is_proposed_reads_the_texts_and_leaves_none_out(tmp_path: Path) -> None:
    said = [{"uuid": "u", "text": f"I am {name}", "sender": name} for name in ("human", "assistant")]
    assert '"content":"text"' in hint_of(tmp_path / "a.jsonl", {"name": "n", "chat_messages": said})
    dolly = {"instruction": "I", "context": "C", "response": "R"}
    assert "`columns=input=context`" in hint_of(tmp_path / "b.jsonl", dolly)
    path = tmp_path / "d.jsonl"
    chosen = {"input": {"messages": [USER]}, "preferred_output": [ANSWER], "non_preferred_output": [ANSWER]}
    hint = hint_of(path, chosen)
    mapping = json.loads(hint[hint.index('{"turns"') : hint.index(" trains what was preferred alone")])
    (row,) = open_samples(path, mapping=mapping).read(0, 1)
    assert not isinstance(row, Rejected) and [each["role"] for each in row.messages] == ["user", "assistant"]
    sets = {"root": "m", "annotation": "a.jsonl", "repeat_time": 1}
    assert "InternVL" in hint_of(tmp_path / "c.jsonl", sets)


def test_what_is_proposed_is_no_file_name_and_no_answer_that_was_not_the_better_one(tmp_path: Path) -> None:
    hint = hint_of(tmp_path / "a.jsonl", {"audio_filepath": "a.wav", "text_filepath": "a.txt"})
    assert "{text_filepath}" not in hint
    hint = hint_of(tmp_path / "b.jsonl", {"prompt": "Q", "response_0": "A", "response_1": "B", "better_response_id": 1})
    assert "preference data" in hint and "{response_0}" not in hint
