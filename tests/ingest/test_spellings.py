"""Rows as five tools export them: what means one thing is read and counted, the rest is rejected with its words."""

from __future__ import annotations

from typing import Any

import pytest
from ingest.spelt import ANSWER, USER, R, chat, read, refused

from vlm_prep.core.errors import RejectReason
from vlm_prep.ingest.embedded import EmbeddedBytes

# ---- tags ----


@pytest.mark.parametrize("user", ["user", "human", "Human", "USER"])
@pytest.mark.parametrize("assistant", ["assistant", "gpt", "GPT", "bot", "model", "Assistant", "ai"])
@pytest.mark.parametrize("keys", [("role", "content"), ("from", "value"), ("from", "content"), ("role", "value")])
def test_each_message_is_read_by_its_own_keys_and_role_names(user: str, assistant: str, keys: tuple[str, str]) -> None:
    role, content = keys
    sample = read(chat({role: user, content: "hi"}, {role: assistant, content: "ho"}))
    assert sample.messages == read(chat()).messages
    usual = (user, assistant, *keys) == ("user", "assistant", "role", "content")
    assert sample.notes == (() if usual else ("read_other_tags",))


@pytest.mark.parametrize(
    "message",
    [
        {"role": "assistant", "from": "gpt", "content": "ho", "value": "ho"},
        {"role": "assistant", "from": None, "content": "ho", "value": None},
        {"role": None, "from": "gpt", "content": None, "value": "ho"},
        {"from": "gpt", "role": "assistant", "content": "ho"},
    ],
)
def test_both_keys_of_a_pair_may_stand_where_they_say_one_thing(message: Any) -> None:
    assert read(chat(USER, message)).messages[1] == {"role": "assistant", "content": [{"type": "text", "text": "ho"}]}


@pytest.mark.parametrize(
    ("message", "reason", "words"),
    [
        ({"role": "user", "from": "gpt", "content": "x"}, R.BAD_ROW, "role 'user' and from 'gpt' are different roles"),
        ({"role": "user", "content": "x", "value": "y"}, R.BAD_ROW, "content ('x') and value ('y') differ"),
        ({"role": "user", "content": "", "value": "y"}, R.BAD_ROW, "tags.content_tag"),
        ([USER, ANSWER], R.BAD_TYPE, "the messages stand in a list of their own"),
        ({"role": "user", "content": 12}, R.BAD_TYPE, "content is a number (12)"),
        ({"role": "user", "content": True}, R.BAD_TYPE, "a boolean (true)"),
        ({"role": "user", "body": "x"}, R.BAD_TYPE, "tags.content_tag"),
        ({"speaker": "user", "content": "x"}, R.BAD_TYPE, "tags.role_tag"),
        ({"role": "bad\x1b[31mrole", "content": "x"}, R.UNKNOWN_ROLE, "'bad\\x1b[31mrole'"),
        ("hi", R.BAD_TYPE, "message 1 is a string ('hi')"),
    ],
)
def test_what_may_mean_two_things_is_rejected_in_the_rows_words(message: Any, reason: RejectReason, words: str) -> None:
    found, said = refused(chat(message, ANSWER))
    assert found == reason and words in said


def test_a_key_of_the_other_pair_that_is_no_role_is_no_role() -> None:
    sample = read(chat(USER | {"from": "coco"}, ANSWER))
    assert sample.messages == read(chat()).messages and sample.unread == {"message.from": "coco"}


def test_tags_the_user_names_are_read_under_that_name_alone() -> None:
    options: dict[str, Any] = {"tags": {"user_tag": "gpt", "assistant_tag": "human"}}
    options["given_tags"] = frozenset(options["tags"])
    sample = read(chat({"role": "gpt", "content": "hi"}, {"role": "human", "content": "ho"}), **options)
    assert sample.messages == read(chat()).messages
    assert refused(chat(USER, ANSWER), **options)[0] == R.UNKNOWN_ROLE


# ---- media columns ----


@pytest.mark.parametrize("empty", [None, "", [], [None], [""], [[]], {}, {"bytes": None}, float("nan")])
def test_an_empty_media_column_is_no_media_and_missing_where_a_tag_asks(empty: Any) -> None:
    assert read(chat(images=empty)).media == ()
    asked = chat({"role": "user", "content": "<image>hi"}, ANSWER, image=empty)
    assert refused(asked)[0] == (R.MEDIA_COUNT_MISMATCH if empty == [] else R.MISSING_MEDIA)


@pytest.mark.parametrize(
    "images", [["a.png", None], [None, "a.png"], ["a.png", ""], [["a.png"]], ["a.png", {"path": None}]]
)
def test_what_is_empty_in_a_list_is_left_out_where_the_tags_fit(images: Any) -> None:
    sample = read(chat({"role": "user", "content": "<image>hi"}, ANSWER, images=images))
    assert [media.uris for media in sample.media] == [("/m/a.png",)] and len(sample.notes) == 1


def test_a_null_that_a_tag_asks_for_is_missing() -> None:
    reason, words = refused(chat({"role": "user", "content": "<image><image>"}, ANSWER, images=["a.png", None]))
    assert (reason, "image 1" in words) == (R.MISSING_MEDIA, True)


def test_a_list_in_a_list_of_pictures_is_its_pictures() -> None:
    row = chat({"role": "user", "content": "<image><image>"}, ANSWER, image=[["a.png", "b.png"]])
    assert [media.uris[0] for media in read(row).media] == ["/m/a.png", "/m/b.png"]


def test_equal_media_under_two_names_are_one_and_others_are_refused() -> None:
    row = chat({"role": "user", "content": "<image>"}, ANSWER, image="a.png")
    for same in (["a.png"], [{"path": "a.png"}], "a.png"):
        assert read(row | {"images": same}).notes == ("read_doubles",)
    reason, words = refused(row | {"images": ["b.png"]})
    assert reason == R.BAD_ROW and "'a.png'" in words and "b.png" in words and "columns.images" in words


@pytest.mark.parametrize("name", ["image_path", "image_file", "image_paths", "img", "img_path", "image_url"])
def test_a_picture_under_a_less_usual_name_is_read(name: str) -> None:
    sample = read(chat({"role": "user", "content": "<image>hi"}, ANSWER) | {name: "a.png"})
    assert (sample.media[0].uris, sample.notes) == (("/m/a.png",), ("read_media_columns",))


@pytest.mark.parametrize("name", ["file_name", "filename", "file", "img", "picture", "image_file"])
def test_a_path_under_a_less_usual_name_in_its_entry_is_read(name: str) -> None:
    sample = read(chat({"role": "user", "content": "<image>hi"}, ANSWER) | {"images": [{name: "a.png", "id": 7}]})
    assert sample.media[0].uris == ("/m/a.png",) and sample.media[0].notes == ("read_path_keys",)
    assert sample.unread == {"image.id": 7}
    parts = [{"type": "picture", name: "a.png"}, {"type": "text", "text": "hi"}]
    sample = read(chat({"role": "user", "content": parts}, ANSWER))
    assert sample.media[0].uris == ("/m/a.png",) and not sample.unread


def test_of_two_less_usual_names_of_a_path_none_is_taken() -> None:
    row = chat({"role": "user", "content": "<image>hi"}, ANSWER)
    reason, words = refused(row | {"images": [{"file_name": "a.png", "img": "b.png"}]})
    assert reason == R.BAD_MEDIA_ENTRY and "'file_name', 'img'" in words
    named = read(row | {"images": [{"path": "x/a.png", "file_name": "a.png"}]})
    assert named.media[0].uris == ("/m/x/a.png",) and named.unread == {"image.file_name": "a.png"}


def test_a_path_beside_a_column_of_bytes_is_its_name() -> None:
    row = chat({"role": "user", "content": "<image>hi"}, ANSWER, image=EmbeddedBytes("u::1"), image_path="x/a.png")
    sample = read(row)
    assert (sample.media[0].uris, sample.unread) == (("u::1",), {"row.image_path": "x/a.png"})


def test_media_without_a_tag_is_refused_with_the_setting_that_places_it() -> None:
    row = chat({"role": "system", "content": "s"}, USER, ANSWER, USER, ANSWER, images=["a.png", "b.png"], audio="a.wav")
    reason, words = refused(row)
    assert reason == R.MEDIA_COUNT_MISMATCH and "first is 'a.png'; write <image> and <audio>" in words
    assert "missing_tags=first" in words
    sample = read(row, missing_tags="first")
    kinds = [part["type"] for part in sample.messages[1]["content"]]
    assert kinds == ["image", "image", "audio", "text"] and sample.notes == ("read_media_first",)
    assert [media.uris[0] for media in sample.media] == ["/m/a.png", "/m/b.png", "/m/a.wav"]


def test_media_placed_first_stands_behind_what_a_system_turn_shows() -> None:
    system = {"role": "system", "content": "<video>"}
    row = chat(system, USER, {"role": "assistant", "content": "ho"}, video="v.mp4", images=["a.png", None])
    assert [media.uris[0] for media in read(row, missing_tags="first").media] == ["/m/v.mp4", "/m/a.png"]


def test_placed_first_is_for_rows_without_tags_only() -> None:
    row = chat({"role": "user", "content": "<image>"}, ANSWER, images=["a.png", "b.png"])
    assert refused(row, missing_tags="first")[0] == R.MEDIA_COUNT_MISMATCH


def test_media_put_first_where_no_user_speaks_is_no_advice() -> None:
    row = chat({"role": "system", "content": "S"}, {"role": "assistant", "content": "ho"}, image="a.png")
    reason, words = refused(row, missing_tags="first")
    assert reason == R.MEDIA_COUNT_MISMATCH and words.endswith(
        "`missing_tags=first` finds no user text to put them before"
    )


def test_tags_in_an_answer_are_media_where_the_counts_fit_with_them_alone() -> None:
    answer = {"role": "assistant", "content": "Here: <image> A cat."}
    sample = read(chat({"role": "user", "content": "<image>Show."}, answer, images=["a.png", "b.png"]))
    assert [part["type"] for part in sample.messages[1]["content"]] == ["text", "image", "text"]
    assert [media.uris[0] for media in sample.media] == ["/m/a.png", "/m/b.png"]
    assert sample.notes == ("read_answer_media",)
    about = read(chat({"role": "user", "content": "<image>How?"}, answer, images=["a.png"]))
    assert about.messages[1]["content"] == [{"type": "text", "text": "Here: <image> A cat."}] and about.notes == ()
    assert read(chat(USER, answer)).media == ()
    assert refused(chat(USER, answer, images=["a.png", "b.png"]))[0] == R.MEDIA_COUNT_MISMATCH


# ---- content ----

PICTURE = {"type": "image", "image": "a.png"}


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "image", "image": "a.png"}, {"type": "text", "text": "hi"}],
        [{"type": "image_url", "image_url": "a.png"}, {"type": "text", "text": "hi"}],
        [{"type": "image_url", "image_url": {"url": "a.png"}}, "hi"],
        [{"image_url": {"url": "a.png"}}, {"text": "hi"}],
        [{"image": "a.png", "text": None}, {"image": None, "text": "hi"}],
        [
            {"type": "image", "image": "a.png", "text": None, "video": None},
            {"type": "text", "text": "hi", "image": None},
        ],
        [{"type": "input_image", "image_url": "a.png"}, {"type": "input_text", "text": "hi"}],
    ],
)
def test_parts_in_any_spelling_are_the_same_parts(content: Any) -> None:
    sample = read(chat({"role": "user", "content": content}, ANSWER))
    assert sample.messages[0]["content"] == [{"type": "image"}, {"type": "text", "text": "hi"}]
    assert (sample.media[0].uris, sample.unread) == (("/m/a.png",), {})


@pytest.mark.parametrize("content", [{"type": "text", "text": "hi"}, {"text": "hi"}, ["hi"], [{"text": "hi"}]])
def test_content_as_an_object_or_a_text_in_a_list_is_one_text(content: Any) -> None:
    assert read(chat(USER | {"content": content}, ANSWER)).messages == read(chat()).messages
