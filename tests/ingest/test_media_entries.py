"""Media of a row in each format: columns, entries, and parts of messages that are media."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ingest.chats import ANSWER, IMAGE, LLAVA, USER, R, asked, chat, convert, rejected, texts, uris

from vlm_prep.core.errors import RejectReason

VIDEO = {"type": "video"}
AUDIO = {"type": "audio"}


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
    assert "image 0 has min_pixels (1), which is not applied: `min_pixels` sets it for the run" in message
    assert "`ignore_keys=min_pixels` reads it without" in message
    (media,) = convert(asked("<image>", images=[{"path": "a", "crop": [0], "size": []}]), ignore_keys=("crop",)).media
    assert media.uris == ("/m/a",)
    assert convert(
        asked("<image>", images=[{"path": "a", "rotate": 0, "start": 0.0, "use_audio_in_video": False}])
    ).media
    part = {"type": "image", "image": "a", "rotate": 90}
    assert "message 1, part 0 has rotate (90)" in rejected(asked([part]))[1]
    assert convert(asked([part]), ignore_keys=("rotate",)).media


def test_keys_one_level_below_a_part_are_told_when_nobody_reads_them() -> None:
    part = {"type": "image_url", "image_url": {"url": "a.png", "detail": "high"}}
    assert convert(asked([part])).unread == {"part.detail": "high"}


def test_media_that_fit_no_tag_name_the_column_that_nobody_reads() -> None:
    reason, message = rejected(asked("<image>What?", depicted="a.png", note="b"))
    assert reason == R.MEDIA_COUNT_MISMATCH
    assert "nobody reads the row's 'depicted' ('a.png'): `columns` says what it holds, e.g. images=depicted" in message


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
        ({"path": "a.wav", "offset": "late"}, R.BAD_MEDIA_ENTRY),
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
    verbatim = convert(asked(" <image> "), "messages", is_given_format=True)
    assert verbatim.messages[0]["content"] == texts(" <image> ")
    assert convert(asked(" <image> a", images=["a"]), "messages").messages[0]["content"] == [
        *texts(" "),
        IMAGE,
        *texts(" a"),
    ]


def test_structured_and_plain_content_mix_in_any_format() -> None:
    row = chat({"role": "user", "content": "<image>"}, ANSWER, USER | {"content": [IMAGE]}, images=["1", "2"])
    assert uris(convert(row, "sharegpt")) == uris(convert(row, None)) == ["/m/1", "/m/2"]


# ---- rates of lists of frames, and parts that name nothing ----


@pytest.mark.parametrize(("said", "rates"), [({"fps": 2}, [2.0, 2.0]), ({"sample_fps": ["2", 4]}, [2.0, 4.0])])
def test_a_rate_of_the_row_is_that_of_its_lists_of_frames(said: dict[str, Any], rates: list[float]) -> None:
    sample = convert(asked("<video><video>", videos=[["0.jpg", "1.jpg"], ["2.jpg", "3.jpg"]], **said))
    assert [media.fps for media in sample.media] == rates and sample.unread == {}


def test_a_rate_of_the_row_is_not_that_of_a_file_nor_of_an_entry_with_its_own() -> None:
    videos = ["v.mp4", {"video": ["0.jpg", "1.jpg"], "fps": 4}]
    sample = convert(asked("<video><video>", videos=videos, fps=30))
    assert [media.fps for media in sample.media] == [None, 4.0] and sample.unread == {"row.fps": 30}
    reason, message = rejected(asked("<video>", videos=[["0.jpg", "1.jpg"]], fps=[1, 2]))
    assert reason == R.BAD_MEDIA_ENTRY and "2 rates for 1 video(s)" in message


def test_of_two_rates_one_is_read_by_ignoring_the_other() -> None:
    entry = {"video": ["0.jpg", "1.jpg"], "sample_fps": 2, "raw_fps": 30}
    reason, message = rejected(asked("<video>", videos=[entry]))
    assert reason == R.BAD_MEDIA_ENTRY and "`ignore_keys=raw_fps` reads sample_fps" in message
    (video,) = convert(asked("<video>", videos=[entry]), ignore_keys=("raw_fps",)).media
    assert video.fps == 2.0


@pytest.mark.parametrize("part", [{"type": "image", "image": ""}, {"type": "image_url", "image_url": {"url": ""}}])
def test_a_part_whose_path_is_empty_is_the_next_of_the_column_or_missing(part: dict[str, Any]) -> None:
    assert uris(convert(asked([part], images=["a.jpg"]), "messages")) == ["/m/a.jpg"]
    reason, message = rejected(asked([part]), "messages")
    assert reason == R.MISSING_MEDIA and "give it a path" in message and "images" in message


def test_content_of_a_part_of_media_is_its_path() -> None:
    assert uris(convert(asked([{"type": "image", "content": "a.jpg"}]), "messages")) == ["/m/a.jpg"]
