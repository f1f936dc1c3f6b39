"""What a row of each format becomes, and every reason for which it is rejected: turns, tools, training flags."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ingest.chats import ANSWER, BARE, IMAGE, LLAVA, USER, R, asked, chat, convert, rejected, texts, uris

# ---- ShareGPT: texts and placeholders ----


def test_a_plain_chat_keeps_its_turns_and_where_it_came_from() -> None:
    sample = convert(chat(USER, ANSWER))
    assert sample.messages == [
        {"role": "user", "content": texts("hi")},
        {"role": "assistant", "content": texts("hello")},
    ]
    assert (sample.sample_id, sample.dataset, sample.source, sample.line) == ("d/0", "d", "d.json", 3)
    assert (sample.media, sample.tools) == ((), None)


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("<image>Who?", [IMAGE, *texts("Who?")]),
        ("<image>\nWho?\n", [IMAGE, *texts("\nWho?\n")]),
        ("A <image> b", [*texts("A "), IMAGE, *texts(" b")]),
        ("<IMAGE>", [IMAGE]),
        (" \n <image> ", [*texts(" \n "), IMAGE, *texts(" ")]),
    ],
)
def test_placeholders_split_user_text_and_the_pieces_are_verbatim(content: str, parts: Any) -> None:
    assert convert(asked(content, images=["a.jpg"])).messages[0]["content"] == parts


def test_user_text_without_placeholders_is_verbatim_too() -> None:
    assert convert(asked("  hi\n")).messages[0]["content"] == texts("  hi\n")


def test_empty_user_text_is_one_empty_text() -> None:
    assert convert(asked("")).messages[0]["content"] == texts("")


def test_a_tag_with_blanks_inside_is_text() -> None:
    assert convert(asked("< image >")).messages[0]["content"] == texts("< image >")


def test_system_and_assistant_text_is_verbatim() -> None:
    turns = [{"role": "system", "content": " s \n"}, USER, {"role": "assistant", "content": "\n<image> a "}]
    messages = convert(chat(*turns)).messages
    assert messages[0]["content"] == texts(" s \n")
    assert messages[2]["content"] == texts("\n<image> a ")


@pytest.mark.parametrize("role", ["system", "tool"])
def test_placeholders_in_system_and_tool_turns_are_media(role: str) -> None:
    row = chat({"role": role, "content": "see <image>"}, USER, ANSWER, images=["a.jpg"])
    assert convert(row).messages[0]["content"] == [*texts("see "), IMAGE]


def test_media_is_in_the_order_of_its_parts_over_both_kinds() -> None:
    first, second = (
        {"role": "user", "content": "<video>a<image>"},
        {"role": "user", "content": "<image><video>"},
    )
    row = chat(first, ANSWER, second, ANSWER, images=["1.jpg", "2.jpg"], videos=["1.mp4", "2.mp4"])
    assert uris(convert(row)) == ["/m/1.mp4", "/m/1.jpg", "/m/2.jpg", "/m/2.mp4"]


@pytest.mark.parametrize(
    ("content", "columns", "counts"),
    [
        ("<image><image>", {"images": ["a.jpg"]}, "2 image placeholder(s) for 1 image(s)"),
        (
            "<image>",
            {"images": ["a.jpg", "b.jpg"]},
            "1 image placeholder(s) for 2 image(s); write a tag for 'b.jpg' too",
        ),
        ("<image>", {}, "1 image placeholder(s) for 0 image(s); images are read from"),
        ("hi", {"images": ["a.jpg"]}, "0 image placeholder(s) for 1 image(s)"),
        ("<image>", {"videos": ["a.mp4", "b.mp4"]}, "0 video placeholder(s) for 2 video(s)"),
    ],
)
def test_counts_that_differ_are_rejected_with_both(content: str, columns: Any, counts: str) -> None:
    reason, message = rejected(asked(content, **columns))
    assert reason == R.MEDIA_COUNT_MISMATCH and counts in message


def test_a_mismatch_mentions_tags_that_an_assistant_turn_keeps_as_text() -> None:
    row = chat(USER, {"role": "assistant", "content": "<image> here"}, images=["a.jpg", "b.jpg"])
    assert "1 more in assistant turns stay text" in rejected(row)[1]
    row = chat({"role": "user", "content": "<image><image>?"}, {"role": "assistant", "content": "<image>"}, images="a")
    assert "`repeated_tags=same`" in rejected(row)[1]


def test_one_picture_for_several_placeholders_by_a_setting() -> None:
    row = asked("<image> or <IMAGE>?", images=["a.jpg"], videos=[])
    sample = convert(row, repeated_tags="same")
    assert uris(sample) == ["/m/a.jpg"] * 2 and sample.notes == ("read_media_again",)
    assert sample.messages[0]["content"] == [IMAGE, *texts(" or "), IMAGE, *texts("?")]
    for columns in ({"images": ["a.jpg", "b.jpg"]}, {}):  # three placeholders for two, and for none
        reason, _ = rejected(asked("<image><image><image>", **columns), repeated_tags="same")
        assert reason == R.MEDIA_COUNT_MISMATCH
    assert convert(asked("<image>", images=["a.jpg"]), repeated_tags="same").notes == ()


def test_blanks_around_placeholders_and_user_texts_are_stripped_by_a_setting() -> None:
    turns = [
        {"role": "user", "content": " <image>\n What? \n<image> "},
        {"role": "assistant", "content": " this "},
        {"role": "user", "content": " and?\n"},
        {"role": "assistant", "content": "that"},
    ]
    sample = convert({"messages": turns, "images": ["a.jpg", "b.jpg"]}, tag_blanks="strip")
    assert [message["content"] for message in sample.messages] == [
        [IMAGE, *texts("What?"), IMAGE],
        texts(" this "),
        texts("and?"),
        texts("that"),
    ]
    assert sample.strings == (1, 2, 3)


# ---- roles ----


def test_from_value_turns_are_read_by_their_tags() -> None:
    turns = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    assert [m["role"] for m in convert({"conversations": turns}, **LLAVA).messages] == ["user", "assistant"]


@pytest.mark.parametrize("role", ["tool", "observation", "function"])
def test_every_usual_name_of_a_tool_turn_is_understood(role: str) -> None:
    tool = {"role": role, "content": " 4 ", "name": "add", "id": 7}
    message = convert(chat(USER, tool, ANSWER)).messages[1]
    assert message == {"role": "tool", "content": texts(" 4 "), "name": "add"}


@pytest.mark.parametrize("role", ["referee", "Narrator"])
def test_an_unknown_role_is_rejected_with_its_name_and_the_option(role: str) -> None:
    reason, message = rejected(chat({"role": role, "content": "x"}, ANSWER))
    assert reason == R.UNKNOWN_ROLE and repr(role) in message and "tags.user_tag" in message


# ---- tool calls, tools, reasoning, training flags ----


@pytest.mark.parametrize("arguments", [{"a": 1}, '{"a": 1}'])
def test_a_function_call_turn_becomes_an_assistant_message_of_its_own(arguments: Any) -> None:
    call = json.dumps({"name": "add", "arguments": arguments})
    row = chat(USER, ANSWER, USER, {"role": "function_call", "content": call}, {"role": "tool", "content": "1"}, ANSWER)
    messages = convert(row).messages[1:]
    assert len(messages) == 5
    assert messages[2] == {
        "role": "assistant",
        "content": [],
        "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}],
    }


def test_a_list_of_calls_keeps_its_order() -> None:
    call = json.dumps([{"name": "a", "arguments": {}}, {"name": "b", "arguments": {}}])
    message = convert(chat(USER, {"role": "function_call", "content": call})).messages[1]
    assert [each["function"]["name"] for each in message["tool_calls"]] == ["a", "b"]


@pytest.mark.parametrize(
    "call",
    [
        "not json",
        "3",
        "[]",
        "{}",
        '{"name": "a", "x": 1}',
        '{"name": 3, "arguments": {}}',
        '{"name": "a", "arguments": [1]}',
        '{"name": "a", "arguments": "x"}',
        '["a"]',
        None,
    ],
)
def test_a_function_call_that_is_none_is_rejected(call: Any) -> None:
    assert rejected(chat(USER, {"role": "function_call", "content": call}))[0] == R.BAD_TOOL_CALL


def test_openai_tool_calls_may_stand_without_content() -> None:
    calls = [{"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}]
    answer = {"role": "assistant", "content": None, "tool_calls": calls}
    message = convert(chat(USER, answer)).messages[1]
    function = {"name": "add", "arguments": {"a": 1}}
    assert message["content"] == []
    assert message["tool_calls"] == [{"type": "function", "function": function, "id": "c1"}]


@pytest.mark.parametrize("calls", [{"nam": "a"}, "x", [3], [{"function": ""}]])
def test_bad_openai_tool_calls_are_rejected(calls: Any) -> None:
    assert rejected(chat(USER, ANSWER | {"tool_calls": calls}))[0] == R.BAD_TOOL_CALL


def test_tool_calls_of_a_user_are_rejected() -> None:
    calls = [{"name": "a", "arguments": {}}]
    assert rejected(chat(USER | {"tool_calls": calls}, ANSWER))[0] == R.BAD_TOOL_CALL


@pytest.mark.parametrize("empty", [None, [], ""])
def test_empty_tool_calls_are_none(empty: Any) -> None:
    assert "tool_calls" not in convert(chat(USER, ANSWER | {"tool_calls": empty})).messages[1]


@pytest.mark.parametrize("tool", [BARE, {"type": "function", "function": BARE}, {"function": BARE}])
@pytest.mark.parametrize("as_text", [True, False])
def test_tools_take_openais_form(tool: Any, as_text: bool) -> None:
    tools = json.dumps([tool]) if as_text else [tool]
    assert convert(chat(USER, ANSWER, tools=tools)).tools == [{"type": "function", "function": BARE}]


@pytest.mark.parametrize("empty", [None, "", " ", [], "[]", "null"])
def test_empty_tools_are_none(empty: Any) -> None:
    assert convert(chat(USER, ANSWER, tools=empty)).tools is None


@pytest.mark.parametrize("tools", ["[", "3", 3, {"nam": "a"}, [3], [{}], [{"function": {}}], [{"name": ""}]])
def test_tools_that_are_none_are_rejected(tools: Any) -> None:
    assert rejected(chat(USER, ANSWER, tools=tools))[0] == R.BAD_TOOLS


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_is_kept_verbatim(key: str) -> None:
    assert convert(chat(USER, ANSWER | {key: " so\n"})).messages[1]["reasoning_content"] == " so\n"


def test_reasoning_outside_an_answer_or_of_two_texts_is_rejected() -> None:
    assert rejected(chat(USER | {"thinking": "x"}, ANSWER))[0] == R.BAD_ROW
    assert rejected(chat(USER, ANSWER | {"thinking": "x", "reasoning": "y"}))[0] == R.BAD_ROW
    assert rejected(chat(USER, ANSWER | {"thinking": 3}))[0] == R.BAD_TYPE


@pytest.mark.parametrize(
    ("options", "train"),
    [
        ({"train": True}, True),
        ({"train": False}, False),
        ({"loss": False}, False),
        ({"weight": 0}, False),
        ({"loss_weight": 1.0}, True),
        ({"loss_weight": 0.0, "train": False}, False),
    ],
)
def test_training_flags_are_kept(options: Any, train: bool) -> None:
    assert convert(chat(USER, ANSWER | options)).messages[1]["train"] is train


@pytest.mark.parametrize(
    "options",
    [
        {"weight": -0.5},
        {"loss": 1e9},
        {"weight": "1"},
        {"train": 1},
        {"train": True, "weight": 0},
        {"train": False, "weight": 0.5},
        {"loss": 0.5, "weight": 0.25},
    ],
)
def test_other_weights_and_contradictions_are_rejected(options: Any) -> None:
    assert rejected(chat(USER, ANSWER | options))[0] == R.BAD_TYPE


@pytest.mark.parametrize("options", [{"weight": 0.5}, {"loss": 0.5}, {"loss_weight": 0.5, "train": True}])
def test_weights_of_messages_and_parts_are_kept(options: Any) -> None:
    expected = {"train": True, "weight": 0.5}
    assert convert(chat(USER, ANSWER | options)).messages[1].items() >= expected.items()
    part = {"type": "text", "text": "a"}
    message = convert(chat(USER, ANSWER | {"content": [part | options, part | {"train": False}]})).messages[1]
    assert message["content"] == [part | expected, part | {"train": False}]


@pytest.mark.parametrize("kind", ["reasoning", "tool_calls"])
def test_options_of_parts_that_cannot_have_any_are_rejected(kind: str) -> None:
    value = {"text": "hm"} if kind == "reasoning" else {"value": {"name": "f", "arguments": {}}}
    part = {"type": kind, **value}
    assert convert(chat(USER, ANSWER | {"content": [part | {"train": True}]}))
    for options in ({"train": False}, {"weight": 0.5}):
        assert rejected(chat(USER, ANSWER | {"content": [part | options]}))[0] == R.BAD_ROW


def test_a_developer_turn_is_kept() -> None:
    assert convert(chat({"role": "developer", "content": "x"}, USER, ANSWER)).messages[0]["role"] == "developer"


def test_unknown_and_null_message_keys_are_ignored() -> None:
    extra = {"id": 3, "timestamp": "x", "name": "bob", "train": None, "tool_calls": None, "thinking": None}
    assert convert(chat(USER | extra, ANSWER)).messages[0] == {"role": "user", "content": texts("hi")}


def test_one_conversation_in_two_columns_and_spellings_is_one() -> None:
    turns = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "A cat."}]
    usual = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "A cat."}]
    sample = convert({"messages": usual, "conversations": turns})
    assert sample.messages == convert({"messages": usual}).messages and "read_doubles" in sample.notes
    turns[1]["value"] = "A dog."
    assert rejected({"messages": usual, "conversations": turns})[0] == R.BAD_ROW
