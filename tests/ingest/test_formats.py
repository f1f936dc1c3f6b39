"""What a row of each format becomes, and every reason for which it is rejected."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from vlm_prep.core.errors import Reject, RejectReason
from vlm_prep.core.records import Sample
from vlm_prep.ingest.embedded import EmbeddedBytes, EmbeddedText
from vlm_prep.ingest.formats import to_sample
from vlm_prep.ingest.spec import FROM_VALUE_TAGS, DatasetSpec, Format

R = RejectReason
USER = {"role": "user", "content": "hi"}
ANSWER = {"role": "assistant", "content": "hello"}
LLAVA: dict[str, Any] = {"columns": {"messages": "conversations"}, "tags": FROM_VALUE_TAGS}


def convert(row: object, format: Format | None = "sharegpt", **options: Any) -> Sample:
    spec = DatasetSpec(
        name="d",
        file=Path("/data/d.json"),
        file_name="d.json",
        media_dir=Path("/m"),
        format=format,
        **options,
    )
    return to_sample(row, spec, sample_id="d/0", source="d.json", line=3)


def chat(*messages: Any, **columns: Any) -> dict[str, Any]:
    return {"messages": list(messages), **columns}


def asked(content: Any, **columns: Any) -> dict[str, Any]:
    return chat({"role": "user", "content": content}, ANSWER, **columns)


def rejected(row: object, format: Format | None = "sharegpt", **options: Any) -> tuple[RejectReason, str]:
    with pytest.raises(Reject) as caught:
        convert(row, format, **options)
    return caught.value.reason, caught.value.message


def texts(value: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": value}]


def uris(sample: Sample) -> list[str]:
    return [uri for media in sample.media for uri in media.uris]


IMAGE = {"type": "image"}
VIDEO = {"type": "video"}
AUDIO = {"type": "audio"}

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
        ("<image>", {"images": ["a.jpg", "b.jpg"]}, "1 image placeholder(s) for 2 image(s)"),
        ("<image>", {}, "1 image placeholder(s) for 0 image(s)"),
        ("hi", {"images": ["a.jpg"]}, "0 image placeholder(s) for 1 image(s)"),
        ("<image>", {"videos": ["a.mp4"]}, "0 video placeholder(s) for 1 video(s)"),
    ],
)
def test_counts_that_differ_are_rejected_with_both(content: str, columns: Any, counts: str) -> None:
    reason, message = rejected(asked(content, **columns))
    assert reason == R.MEDIA_COUNT_MISMATCH and counts in message


def test_a_mismatch_mentions_tags_that_an_assistant_turn_keeps_as_text() -> None:
    row = chat(USER, {"role": "assistant", "content": "<image> here"}, images=["a.jpg", "b.jpg"])
    assert "1 more in assistant turns stay text" in rejected(row)[1]


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
    row = chat(USER, ANSWER, {"role": "function_call", "content": call}, {"role": "tool", "content": "1"}, ANSWER)
    messages = convert(row).messages
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
        '{"name": "a"}',
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


@pytest.mark.parametrize("calls", [{"name": "a"}, "x", [3], [{"function": "a"}]])
def test_bad_openai_tool_calls_are_rejected(calls: Any) -> None:
    assert rejected(chat(USER, ANSWER | {"tool_calls": calls}))[0] == R.BAD_TOOL_CALL


def test_tool_calls_of_a_user_are_rejected() -> None:
    calls = [{"name": "a", "arguments": {}}]
    assert rejected(chat(USER | {"tool_calls": calls}, ANSWER))[0] == R.BAD_TOOL_CALL


@pytest.mark.parametrize("empty", [None, [], ""])
def test_empty_tool_calls_are_none(empty: Any) -> None:
    assert "tool_calls" not in convert(chat(USER, ANSWER | {"tool_calls": empty})).messages[1]


BARE = {"name": "add", "description": "adds", "parameters": {"type": "object"}}


@pytest.mark.parametrize("tool", [BARE, {"type": "function", "function": BARE}, {"function": BARE}])
@pytest.mark.parametrize("as_text", [True, False])
def test_tools_take_openais_form(tool: Any, as_text: bool) -> None:
    tools = json.dumps([tool]) if as_text else [tool]
    assert convert(chat(USER, ANSWER, tools=tools)).tools == [{"type": "function", "function": BARE}]


@pytest.mark.parametrize("empty", [None, "", " ", [], "[]", "null"])
def test_empty_tools_are_none(empty: Any) -> None:
    assert convert(chat(USER, ANSWER, tools=empty)).tools is None


@pytest.mark.parametrize("tools", ["[", "3", 3, {"name": "a"}, [3], [{}], [{"function": {}}], [{"name": ""}]])
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


# ---- media entries ----


@pytest.mark.parametrize(
    ("entry", "uri"),
    [
        ("a.jpg", "/m/a.jpg"),
        ("x/../a.jpg", "/m/a.jpg"),
        ("/abs/a.jpg", "/abs/a.jpg"),
        ("file:///abs/a.jpg", "/abs/a.jpg"),
        ("s.lmdb::0007", "/m/s.lmdb::0007"),
        ("x/../s.lmdb::k/../e::y", "/m/s.lmdb::k/../e::y"),
        ({"path": "a.jpg"}, "/m/a.jpg"),
        ({"url": "a.jpg", "detail": "low"}, "/m/a.jpg"),
        ({"image": "a.jpg", "path": None, "bytes": None, "max_pixels": None}, "/m/a.jpg"),
    ],
)
def test_image_entries_become_absolute_uris(entry: Any, uri: str) -> None:
    assert uris(convert(asked("<image>", images=[entry]))) == [uri]


def test_one_path_is_a_list_of_one() -> None:
    assert uris(convert(asked("<image>", images="a.jpg"))) == ["/m/a.jpg"]
    assert uris(convert(asked("<image>", images={"path": "a.jpg"}))) == ["/m/a.jpg"]


def test_video_options_are_kept() -> None:
    entry = {"path": "v.mp4", "frame_indices": [0, 8, 8], "fps": 2}
    (video,) = convert(asked("<video>", videos=[entry])).media
    assert (video.kind, video.frame_list) == ("video", False)
    assert (video.frame_indices, video.fps) == ((0, 8, 8), 2.0)


@pytest.mark.parametrize("entry", [["0.jpg", {"path": "s.lmdb::1"}], {"video": ["0.jpg", "s.lmdb::1"], "fps": 4}])
def test_a_list_in_the_video_column_is_one_video_of_frames(entry: Any) -> None:
    (video,) = convert(asked("<video>", videos=[entry])).media
    assert video.frame_list and video.uris == ("/m/0.jpg", "/m/s.lmdb::1")
    assert video.fps == (4.0 if isinstance(entry, dict) else None)


def test_the_singular_column_of_llava_is_read() -> None:
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A cat."}]
    sample = convert({"id": "7", "image": "cats/1.jpg", "conversations": turns}, **LLAVA)
    assert uris(sample) == ["/m/cats/1.jpg"]


def test_two_columns_for_the_same_media_are_rejected() -> None:
    assert rejected(asked("<image>", images=["a.jpg"], image="b.jpg"))[0] == R.BAD_ROW


def test_a_column_the_user_named_is_the_only_one_read() -> None:
    row = asked("<image>", pics=["a.jpg"], images=["b.jpg"])
    assert uris(convert(row, columns={"images": "pics"})) == ["/m/a.jpg"]


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (3, R.BAD_MEDIA_ENTRY),
        (None, R.MISSING_MEDIA),
        ("", R.MISSING_MEDIA),
        ("a\0.jpg", R.BAD_MEDIA_ENTRY),
        ("s.lmdb::", R.BAD_MEDIA_ENTRY),
        ({}, R.MISSING_MEDIA),
        ({"path": 3}, R.BAD_MEDIA_ENTRY),
        ({"path": "a", "url": "b"}, R.BAD_MEDIA_ENTRY),
        ({"path": "a", "max_pixels": 9}, R.BAD_MEDIA_ENTRY),
        ({"path": "a", "nframes": 9}, R.BAD_MEDIA_ENTRY),
        ({"path": "a", "fps": 0}, R.BAD_MEDIA_ENTRY),
        ({"path": "a", "fps": True}, R.BAD_MEDIA_ENTRY),
        ({"path": "a", "frame_indices": [-1]}, R.BAD_FRAME_INDICES),
        ({"path": "a", "frame_indices": [1.0]}, R.BAD_FRAME_INDICES),
        ({"path": "a", "frame_indices": [True]}, R.BAD_FRAME_INDICES),
        ({"path": "a", "frame_indices": []}, R.BAD_FRAME_INDICES),
        ({"path": "a", "frame_indices": 3}, R.BAD_FRAME_INDICES),
        ({"path": ["a"], "frame_indices": [0]}, R.BAD_FRAME_INDICES),
        ([], R.MISSING_MEDIA),
        ([["a"]], R.BAD_MEDIA_ENTRY),
        ("https://x.org/a.mp4", R.UNSUPPORTED_MEDIA),
        ("ftp://b/a.mp4", R.UNSUPPORTED_MEDIA),
        ("data:video/mp4;base64,AA", R.UNSUPPORTED_MEDIA),
        ({"bytes": "AA", "path": "a"}, R.UNSUPPORTED_MEDIA),
    ],
)
def test_a_bad_video_entry_is_rejected(entry: Any, reason: RejectReason) -> None:
    found, message = rejected(asked("<video>", videos=[entry]))
    assert found == reason and "video 0" in message


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"path": ["a.jpg"]}, R.BAD_MEDIA_ENTRY),
        ({"path": "a", "fps": 2}, R.BAD_MEDIA_ENTRY),
        ({"path": "a", "frame_indices": [0]}, R.BAD_FRAME_INDICES),
    ],
)
def test_what_only_a_video_has_is_rejected_for_an_image(entry: Any, reason: RejectReason) -> None:
    assert rejected(asked("<image>", images=[entry]))[0] == reason


def test_an_option_that_is_not_applied_is_named() -> None:
    message = rejected(asked("<image>", images=[{"path": "a", "min_pixels": 1, "crop": [0]}]))[1]
    assert "crop, min_pixels is not applied per entry" in message


@pytest.mark.parametrize("column", ["audios", "audio"])
@pytest.mark.parametrize("audio", ["a.wav", ["a.wav"], {"path": "a.wav"}, [{"audio": "a.wav", "bytes": None}]])
def test_audio_stands_where_its_tag_is(column: str, audio: Any) -> None:
    sample = convert(asked("Hear <audio>?", **{column: audio}))
    assert sample.messages[0]["content"] == [*texts("Hear "), AUDIO, *texts("?")]
    assert [(media.kind, media.uris) for media in sample.media] == [("audio", ("/m/a.wav",))]


def test_audio_and_video_are_counted_apart() -> None:
    sample = convert(asked("<video><audio>", videos=["v.mp4"], audios=["s.lmdb::0"]))
    assert uris(sample) == ["/m/v.mp4", "/m/s.lmdb::0"]
    reason, message = rejected(asked("<audio>", audios=["a.wav", "b.wav"], videos=["v.mp4"]))
    assert reason == R.MEDIA_COUNT_MISMATCH
    assert "1 audio placeholder(s) for 2 audio(s)" in message and "0 video placeholder(s) for 1" in message


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"path": "a.wav", "sampling_rate": 16000}, R.BAD_MEDIA_ENTRY),
        ({"path": "a.wav", "offset": "1.5"}, R.BAD_MEDIA_ENTRY),
        ({"path": "a.wav", "start_time": 0.5, "end_time": 0.5}, R.BAD_MEDIA_ENTRY),
        ({"path": "a.wav", "channel": 1}, R.BAD_MEDIA_ENTRY),
        ({"path": "a.wav", "fps": 2}, R.BAD_MEDIA_ENTRY),
        ({"path": "a.wav", "frame_indices": [0]}, R.BAD_FRAME_INDICES),
        ({"path": ["a.wav"]}, R.BAD_MEDIA_ENTRY),
        ({"array": [0.0, 0.1], "sampling_rate": 16000}, R.UNSUPPORTED_MEDIA),
        ({"bytes": "UklGRg==", "path": "a.wav"}, R.UNSUPPORTED_MEDIA),
        ({"data": "UklGRg=="}, R.UNSUPPORTED_MEDIA),
        ("https://x.org/a.wav", R.UNSUPPORTED_MEDIA),
    ],
)
def test_a_bad_audio_entry_is_rejected(entry: Any, reason: RejectReason) -> None:
    found, message = rejected(asked("<audio>", audios=[entry]))
    assert found == reason and "audio 0" in message


def test_options_that_ask_for_nothing_are_no_fault() -> None:
    entry = {"path": "a.wav", "offset": 0, "sampling_rate": None, "duration": 2.5, "format": "wav"}
    assert uris(convert(asked("<audio>", audios=[entry]))) == ["/m/a.wav"]


# ---- messages with structured content ----


def test_part_texts_are_verbatim_and_hold_no_placeholders() -> None:
    parts = [{"type": "text", "text": " <image> \n"}, {"type": "text", "value": ""}]
    assert convert(asked(parts), "messages").messages[0]["content"] == texts(" <image> \n") + texts("")


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image", "image": "a.jpg"},
        {"type": "image", "path": "a.jpg", "text": None},
        {"type": "image", "url": "a.jpg"},
        {"type": "image", "value": "a.jpg"},
        {"type": "image", "image": {"path": "a.jpg", "bytes": None}},
        {"type": "image_url", "image_url": {"url": "a.jpg", "detail": "auto"}},
        {"type": "image_url", "image_url": "a.jpg"},
        {"type": "image_url", "value": "a.jpg"},
    ],
)
def test_an_image_part_may_name_its_image(part: Any) -> None:
    sample = convert(asked([part]), "messages")
    assert sample.messages[0]["content"] == [IMAGE] and uris(sample) == ["/m/a.jpg"]


@pytest.mark.parametrize(
    "part",
    [
        {"type": "audio", "audio": "a.wav"},
        {"type": "audio", "path": "a.wav", "text": None},
        {"type": "audio", "audio": {"path": "a.wav", "bytes": None}},
        {"type": "audio_url", "audio_url": {"url": "a.wav"}},
        {"type": "audio_url", "audio_url": "file:///m/a.wav"},
        {"type": "input_audio", "input_audio": "a.wav"},
        {"type": "input_audio", "input_audio": {"path": "a.wav", "format": "wav"}},
    ],
)
def test_an_audio_part_may_name_its_audio(part: Any) -> None:
    sample = convert(asked([part, {"type": "text", "text": "Who?"}]), "messages")
    assert sample.messages[0]["content"] == [AUDIO, *texts("Who?")]
    assert sample.media[0].kind == "audio" and uris(sample) == ["/m/a.wav"]


def test_a_video_part_may_be_frames_with_fps() -> None:
    (video,) = convert(asked([{"type": "video", "video": ["a.jpg", "b.jpg"], "fps": 2.0}]), "messages").media
    assert (video.uris, video.frame_list, video.fps) == (("/m/a.jpg", "/m/b.jpg"), True, 2.0)


def test_bare_parts_take_the_columns_entries_in_order() -> None:
    parts = [{"type": "image", "index": 0}, VIDEO, {"type": "image", "image": "own.jpg"}, IMAGE]
    sample = convert(asked(parts, images=["1.jpg", "2.jpg"], videos=["v.mp4"]), "messages")
    assert uris(sample) == ["/m/1.jpg", "/m/v.mp4", "/m/own.jpg", "/m/2.jpg"]


def test_bare_parts_without_entries_are_rejected() -> None:
    assert rejected(asked([IMAGE]), "messages")[0] == R.MEDIA_COUNT_MISMATCH
    assert rejected(asked([IMAGE], images=["a", "b"]), "messages")[0] == R.MEDIA_COUNT_MISMATCH


def test_reasoning_and_tool_call_parts_become_fields() -> None:
    call = json.dumps({"name": "add", "arguments": {}})
    parts = [
        {"type": "reasoning", "value": "hm"},
        {"type": "text", "value": "ok"},
        {"type": "tool_call", "value": call},
    ]
    message = convert(chat(USER, {"role": "assistant", "content": parts}), "messages").messages[1]
    assert (message["reasoning_content"], message["content"]) == ("hm", texts("ok"))
    assert [each["function"]["name"] for each in message["tool_calls"]] == ["add"]


CALL = {"type": "tool_call", "value": {"name": "a", "arguments": {}}}


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ([{"type": "sticker"}], R.BAD_ROW),
        ([{"words": "a"}], R.BAD_ROW),
        ([{"text": "a", "image": "a.png"}], R.BAD_ROW),
        ([{"type": "text", "text": "a", "image": "a.png"}], R.BAD_ROW),
        ([{"type": "image", "image": "a.png", "text": "a"}], R.BAD_ROW),
        ([{"type": ["text"]}], R.BAD_ROW),
        ([{"type": "text", "text": "a"}, {"type": "reasoning", "text": "b"}], R.BAD_ROW),
        ([CALL, {"type": "text", "text": "a"}], R.BAD_ROW),
        ([{"type": "tool_call"}], R.BAD_ROW),
        ([{"type": "tool_call", "value": "x"}], R.BAD_TOOL_CALL),
        ([{"type": "image", "index": 1}], R.BAD_ROW),
        ([{"type": "image", "max_pixels": 1}], R.BAD_MEDIA_ENTRY),
        ([{"type": "video", "fps": 1}], R.BAD_MEDIA_ENTRY),
        ([{"type": "image", "image": {"bytes": "x"}}], R.UNSUPPORTED_MEDIA),
        ([{"type": "image_url", "image_url": {"url": "http://x/a.jpg"}}], R.UNSUPPORTED_MEDIA),
        ([{"type": "input_audio"}], R.MEDIA_COUNT_MISMATCH),
        ([{"type": "audio", "sampling_rate": 8000}], R.BAD_MEDIA_ENTRY),
        ([{"type": "video", "video": "v.mp4", "use_audio_in_video": True}], R.BAD_MEDIA_ENTRY),
        ([3], R.BAD_TYPE),
        ([["hi"]], R.BAD_TYPE),
        ([{"type": "text"}], R.BAD_TYPE),
        ([{"type": "text", "text": 3}], R.BAD_TYPE),
    ],
)
def test_a_part_that_cannot_be_used_is_rejected(parts: Any, reason: RejectReason) -> None:
    assert rejected(chat(USER, {"role": "assistant", "content": parts}), "messages")[0] == reason


def test_reasoning_and_tool_call_parts_of_a_user_are_rejected() -> None:
    assert rejected(asked([{"type": "reasoning", "text": "x"}]), "messages")[0] == R.BAD_ROW
    assert rejected(asked([CALL]), "messages")[0] == R.BAD_ROW


def test_the_unknown_part_type_is_named() -> None:
    assert "'sticker'" in rejected(asked([{"type": "sticker"}]), "messages")[1]


def test_a_plain_string_is_verbatim_unless_the_row_has_a_media_column() -> None:
    assert convert(asked(" <image> "), "messages").messages[0]["content"] == texts(" <image> ")
    assert convert(asked(" <image> a", images=["a"]), "messages").messages[0]["content"] == [
        *texts(" "),
        IMAGE,
        *texts(" a"),
    ]


def test_structured_and_plain_content_mix_in_any_format() -> None:
    row = chat({"role": "user", "content": "<image>"}, ANSWER, USER | {"content": [IMAGE]}, images=["1", "2"])
    assert uris(convert(row, "sharegpt")) == uris(convert(row, None)) == ["/m/1", "/m/2"]


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
        ([USER], R.BAD_ROW),
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
