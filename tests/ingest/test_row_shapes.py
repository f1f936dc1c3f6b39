"""A row as a whole: alpaca's columns, what cannot be used, and scraps of everything."""

from __future__ import annotations

import random
from typing import Any

import pytest
from ingest.chats import ANSWER, BARE, IMAGE, USER, R, asked, chat, convert, rejected, texts, uris

from vlm_prep.core.errors import Reject, RejectReason
from vlm_prep.ingest.embedded import EmbeddedBytes, EmbeddedText
from vlm_prep.ingest.spec import Format

# ---- alpaca ----


def alpaca(**columns: Any) -> dict[str, Any]:
    return {"instruction": "Add.", "input": "1 2", "output": "3", **columns}


def test_alpaca_joins_instruction_and_input() -> None:
    messages = convert(alpaca(), "alpaca").messages
    assert [m["content"] for m in messages] == [texts("Add.\n1 2"), texts("3")]
    assert convert(alpaca(input=""), "alpaca").messages[0]["content"] == texts("Add.")
    assert convert({"instruction": "a", "output": "b"}, "alpaca").messages[0]["content"] == texts("a")


def test_alpaca_history_and_system_come_first() -> None:
    row = alpaca(history=[["q", "a"], ["r", "b"]], system="Be brief.")
    messages = convert(row, "alpaca").messages
    assert [m["role"] for m in messages] == ["system", *["user", "assistant"] * 3]
    assert [m["content"][0]["text"] for m in messages] == ["Be brief.", "q", "a", "r", "b", "Add.\n1 2", "3"]


def test_alpaca_reads_placeholders_and_named_columns() -> None:
    row = {"q": "<image> what?", "a": "x", "images": ["a.jpg"]}
    sample = convert(row, "alpaca", columns={"instruction": "q", "output": "a"})
    assert sample.messages[0]["content"] == [IMAGE, *texts(" what?")] and uris(sample) == ["/m/a.jpg"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"instruction": "a"}, R.MISSING_COLUMN),
        ({"output": "a"}, R.MISSING_COLUMN),
        (alpaca(output=None), R.BAD_TYPE),
        (alpaca(instruction=3), R.BAD_TYPE),
        (alpaca(input=3), R.BAD_TYPE),
        (alpaca(history="x"), R.BAD_TYPE),
        (alpaca(history=[["a"]]), R.BAD_TYPE),
        (alpaca(history=[["a", 3]]), R.BAD_TYPE),
        (alpaca(system=3), R.BAD_TYPE),
        (alpaca(instruction="", input="", output=""), R.EMPTY_CONVERSATION),
    ],
)
def test_a_bad_alpaca_row_is_rejected(row: Any, reason: RejectReason) -> None:
    assert rejected(row, "alpaca")[0] == reason


# ---- the row as a whole ----


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (None, R.BAD_ROW),
        ([USER], R.NO_ASSISTANT_TURN),
        ([USER, "x"], R.BAD_ROW),
        ("x", R.BAD_ROW),
        ({}, R.MISSING_COLUMN),
        ({"messages": None}, R.BAD_TYPE),
        ({"messages": "x"}, R.BAD_TYPE),
        ({"messages": {"role": "user"}}, R.BAD_TYPE),
        (chat("hi"), R.BAD_TYPE),
        (chat({"content": "hi"}, ANSWER), R.BAD_TYPE),
        (chat({"role": 3, "content": "hi"}, ANSWER), R.BAD_TYPE),
        (chat({"role": "user"}, ANSWER), R.BAD_TYPE),
        (asked(3), R.BAD_TYPE),
        (asked(None), R.BAD_TYPE),
        (asked({"words": "hi"}), R.BAD_ROW),
        (chat(USER, {"role": "assistant", "content": None}), R.BAD_TYPE),
        (chat(USER, ANSWER, images=3), R.BAD_TYPE),
        (chat(USER, ANSWER, system=3), R.BAD_TYPE),
        (asked("\ud800"), R.BAD_TYPE),
        (asked("<image>", images=["\ud800.jpg"]), R.BAD_TYPE),
        (chat(), R.EMPTY_CONVERSATION),
        (
            chat({"role": "user", "content": " "}, {"role": "assistant", "content": "\n"}),
            R.EMPTY_CONVERSATION,
        ),
        (chat(USER), R.NO_ASSISTANT_TURN),
        (chat({"role": "system", "content": "a"}, ANSWER, system="b"), R.BAD_ROW),
    ],
)
def test_a_row_that_cannot_be_used_is_rejected(row: Any, reason: RejectReason) -> None:
    assert rejected(row)[0] == reason


def test_a_missing_column_names_the_columns_there_are() -> None:
    message = rejected({"dialog": [], "id": 3})[1]
    assert "'dialog', 'id'" in message and "columns.messages" in message


def test_a_system_column_leads_unless_the_messages_begin_with_the_same() -> None:
    assert convert(chat(USER, ANSWER, system=" s ")).messages[0] == {
        "role": "system",
        "content": texts(" s "),
    }
    assert len(convert(chat({"role": "system", "content": "s"}, USER, ANSWER, system="s")).messages) == 3


SCRAPS: list[Any] = [
    *(None, True, 0, 1, -2.5, 10**400, float("nan"), "", "x", "<image>", "[", "{}", "\ud800"),
    *([], {}, [[]], [None], ["a.jpg"], ["tool"], "tool", "assistant", "function_call"),
    *({"path": "a"}, {"type": "text"}, {"type": "image"}, {"role": "user"}, {"type": ["x"]}),
    *(EmbeddedBytes("/d::0/a"), EmbeddedText("data:a/b;base64,AA", "/d::0/b"), {"type": "input_audio"}),
    *([{"type": "tool_call", "value": "{}"}], {"name": "f", "arguments": {}}, {"url": {"url": {"url": 3}}}),
]
KEYS = [
    *(
        "messages",
        "conversations",
        "role",
        "content",
        "from",
        "value",
        "type",
        "text",
        "tool_calls",
        "function",
    ),
    *(
        "name",
        "arguments",
        "train",
        "weight",
        "thinking",
        "images",
        "image",
        "videos",
        "tools",
        "system",
        "fps",
    ),
    *("path", "frame_indices", "index", "instruction", "output", "input", "history", "audios"),
    *("audio", "text", "bytes", "data", "format", "input_audio", "sampling_rate", "offset"),
]


def scrap(rng: random.Random, depth: int) -> Any:
    if depth == 0 or rng.random() < 0.3:
        return rng.choice(SCRAPS)
    if rng.random() < 0.4:
        return [scrap(rng, depth - 1) for _ in range(rng.randrange(4))]
    return {rng.choice(KEYS): scrap(rng, depth - 1) for _ in range(rng.randrange(7))}


def spoilt(value: Any, rng: random.Random) -> Any:
    if rng.random() < 0.03:
        return scrap(rng, 3)
    if isinstance(value, list):
        return [spoilt(each, rng) for each in value]
    if isinstance(value, dict):
        extra = {rng.choice(KEYS): scrap(rng, 2)} if rng.random() < 0.1 else {}
        return {key: spoilt(each, rng) for key, each in value.items()} | extra
    return value


@pytest.mark.parametrize("format", ["sharegpt", "messages", "alpaca", "asr"])
@pytest.mark.parametrize("seed", range(20))
def test_whatever_a_row_holds_nothing_but_reject_is_raised(format: Format, seed: int) -> None:
    rng = random.Random(seed)
    parts = [{"type": "text", "text": "a"}, {"type": "video", "video": {"path": "v", "fps": 2}}]
    call = {"role": "function_call", "content": '{"name": "f", "arguments": {}}'}
    good = chat(USER | {"content": parts}, ANSWER | {"train": True, "tool_calls": []}, call, tools=[BARE])
    good |= alpaca(history=[["a", "b"]], images=[], videos=None)
    good |= {"audio": {"path": "a.wav"}, "text": "words"} if format == "asr" else {}
    kept = 0
    for _ in range(300):
        try:
            sample = convert(spoilt(good, rng) if rng.random() < 0.8 else scrap(rng, 4), format)
        except Reject:
            continue
        kept += 1
        shown = [p["type"] for m in sample.messages for p in m["content"] if p["type"] != "text"]
        assert shown == [media.kind for media in sample.media]
        assert {m["role"] for m in sample.messages} <= {"system", "user", "assistant", "tool"}
    assert kept
