"""Placeholders as other models write them, media given twice, and columns that hold lists as text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ingest.spelt import ANSWER, USER, R, chat, read, refused

from vlm_prep.core.records import Sample
from vlm_prep.ingest.source import open_samples

TWO = ["a.png", "b.png"]


def ask(content: Any, **columns: Any) -> dict[str, Any]:
    return chat({"role": "user", "content": content}, ANSWER, **columns)


def names(sample: Sample) -> list[str]:
    return [media.uris[0].removeprefix("/m/") for media in sample.media]


# ---- tags ----


@pytest.mark.parametrize(
    "tag",
    [
        *("<image_1>", "<image 1>", "<image-1>", "<image1>", "<|image_1|>", "<IMAGE_01>", "<img_0>"),
        *("[image_1]", "[Image 1]", "{image1}"),
    ],
)
def test_a_numbered_tag_is_the_place_of_its_picture(tag: str) -> None:
    sample = read(ask(f"{tag}hi", image="a.png"))
    assert sample.messages == read(ask("<image>hi", image="a.png")).messages
    assert names(sample) == ["a.png"] and sample.notes == ("read_tag_spellings",)


@pytest.mark.parametrize(
    "tag",
    [
        "<|image|>",
        "<|image_pad|>",
        "<|vision_start|><|image_pad|><|vision_end|>",
        "<image_placeholder>",
        "<Img><ImageHere></Img>",
        "<img><IMG_CONTEXT></img>",
        *(
            "<image >",
            "< image >",
            "<image/>",
            "<image />",
            "<img>",
            "<img></img>",
            "[image]",
            "[IMG]",
            "{image}",
            "{{image}}",
            "<vila/image>",
        ),
        "<start_of_image>",
        "<|media_begin|>image<|media_content|><|media_pad|><|media_end|>",
    ],
)
def test_another_models_placeholder_is_the_place_of_the_next_picture(tag: str) -> None:
    sample = read(ask(f"{tag}hi{tag}", images=TWO))
    assert sample.messages == read(ask("<image>hi<image>", images=TWO)).messages and names(sample) == TWO


@pytest.mark.parametrize("tag", ["<image></image>", "<Image> </Image>", "<image>\n</image>"])
def test_a_tag_that_is_closed_at_once_leaves_nothing_in_the_text(tag: str) -> None:
    sample = read(ask(f"{tag}hi", image="a.png"))
    assert sample.messages == read(ask("<image>hi", image="a.png")).messages
    assert sample.notes == ("read_tag_spellings",)


def test_brackets_beside_a_usual_tag_are_words_and_other_counts_are_named() -> None:
    assert read(ask("[image] and <image>", image="a.png")).messages[0]["content"][0]["text"] == "[image] and "
    reason, words = refused(ask("[image]?", images=TWO), missing_tags="first")
    assert reason == R.MEDIA_COUNT_MISMATCH and "'[image]' in the texts" in words


def test_tags_of_videos_and_sound_are_read_alike() -> None:
    sample = read(ask("<video_1>?<|audio_bos|><|AUDIO|><|audio_eos|>", video="v.mp4", audio="a.wav"))
    assert [part["type"] for part in sample.messages[0]["content"]] == ["video", "text", "audio"]


@pytest.mark.parametrize(("text", "order"), [("<image_2> or <image_1>?", [1, 0]), ("<image_0> or <image_1>?", [0, 1])])
def test_numbers_say_which_picture(text: str, order: list[int]) -> None:
    assert names(read(ask(text, images=TWO))) == [TWO[place] for place in order]


@pytest.mark.parametrize("tag", ["<speech>", "<sound>", "<vila/sound>", "<Speech><SpeechHere></Speech>", "[audio]"])
def test_other_names_of_sound_are_its_places(tag: str) -> None:
    assert [part["type"] for part in read(ask(f"{tag}?", audio="a.wav")).messages[0]["content"]] == ["audio", "text"]


def test_numbers_count_over_all_prompts_and_not_over_answers() -> None:
    system, first, more = ({"role": role, "content": text} for role, text in (
        ("system", "See <image_1>."), ("user", [{"type": "text", "text": "<image_2>?"}]), ("user", "<image_3>"),
    ))  # fmt: skip
    answer = {"role": "assistant", "content": "<image_2> it is."}
    sample = read(chat(system, first, answer, more, ANSWER, images=["a.png", "b.png", "c.png"]))
    assert names(sample) == ["a.png", "b.png", "c.png"]
    assert sample.messages[2]["content"] == [{"type": "text", "text": "<image_2> it is."}]


def test_numbers_beside_usual_tags_or_without_media_are_words() -> None:
    for row in (ask("<image>Is <image_1> a cat?", image="a.png"), ask("What does <image_1> mean?")):
        assert any("<image_1>" in part.get("text", "") for part in read(row).messages[0]["content"])
        assert read(row).notes == ()


@pytest.mark.parametrize(
    "text", ["<image_1>", "<image_1><image_3>", "<image_1><image_1><image_2>", "<image_2><image_3>"]
)
def test_numbers_that_do_not_name_each_picture_once_are_refused_with_them(text: str) -> None:
    for missing in ("reject", "first"):  # media put first would leave the numbers in the text
        reason, words = refused(ask(text, images=TWO), missing_tags=missing)
        assert reason == R.MEDIA_COUNT_MISMATCH and text[:9] in words and "missing_tags" not in words


def test_a_number_again_is_the_same_picture_where_that_is_said() -> None:
    row = ask("<image_2><image_1> or <image_2>?", images=TWO)
    sample = read(row, repeated_tags="same")
    assert names(sample) == ["b.png", "a.png", "b.png"] and "read_media_again" in sample.notes
    assert refused(row)[0] == R.MEDIA_COUNT_MISMATCH


def test_a_null_that_a_number_asks_for_is_missing_and_one_of_another_kind_is_none() -> None:
    assert refused(ask("<image_1>?", image=None))[0] == R.MISSING_MEDIA
    assert refused(ask("<image_1><image_2>?", images=["a.png", None]))[0] == R.MISSING_MEDIA
    assert refused(ask("<image_1><image_2>?", images=["a.png", None, "b.png"]))[0] == R.MEDIA_COUNT_MISMATCH
    assert names(read(ask("<image_1>?", images=["a.png", None], video=None))) == ["a.png"]


# ---- twice ----


def test_media_that_parts_and_the_column_name_alike_are_one() -> None:
    parts = [{"type": "image", "image": "a.png"}, {"type": "text", "text": "hi"}]
    for column in ("a.png", ["./a.png"], ["a.png", None], [{"path": "a.png"}]):
        for missing in ("reject", "first"):
            sample = read(ask(parts, images=column), missing_tags=missing)
            assert names(sample) == ["a.png"] and sample.notes == ("read_doubles",)
    for missing in ("reject", "first"):
        reason, words = refused(ask(parts, images=["b.png"]), missing_tags=missing)
        assert reason == R.MEDIA_COUNT_MISMATCH and "the messages name 1 of their own" in words


# ---- columns ----


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ('["a.png"]', ["a.png"]),
        ('[["a.png"]]', ["a.png"]),
        ('[{"path": "a.png"}]', ["a.png"]),
        ('{"path": "a.png"}', ["a.png"]),
        ([[["a.png"]]], ["a.png"]),
    ],
)
def test_a_list_as_json_text_is_the_list(value: Any, wanted: list[str]) -> None:
    assert names(read(ask("<image>hi", images=value))) == wanted


def test_an_empty_list_as_text_is_no_media_and_a_name_in_brackets_a_name() -> None:
    assert read(chat(images="[]")).media == ()
    assert names(read(ask("<image>", image="[1] a.png]"))) == ["[1] a.png]"]
    assert names(read(ask("<image>", image="[1]"))) == ["[1]"]


def test_a_list_in_pythons_words_is_read_where_that_is_said() -> None:
    row = ask("<image><image>", images="['a.png', 'b.png']")
    reason, words = refused(row)
    assert reason == R.BAD_JSON and "lenient_json=true" in words
    assert names(read(row, lenient_json=True)) == TWO


def test_a_csv_holds_lists_of_media(tmp_path: Path) -> None:
    text = '"[{""role"": ""user"", ""content"": ""<image><image>""}, {""role"": ""assistant"", ""content"": ""x""}]"'
    (tmp_path / "t.csv").write_text(f'messages,images\n{text},"[""a.png"", ""b.png""]"\n')
    (sample,) = open_samples(tmp_path / "t.csv").read(0, 1)
    assert isinstance(sample, Sample) and [Path(media.uris[0]).name for media in sample.media] == TWO


def test_a_list_in_a_list_of_videos_is_frames_or_films_by_their_names() -> None:
    film = read(ask("<video>", video=[["v.mp4"]]))
    assert names(film) == ["v.mp4"] and not film.media[0].frame_list and film.notes == ("read_nested_media",)
    frames = read(ask("<video>", video=[TWO]))
    assert frames.media[0].frame_list


@pytest.mark.parametrize(
    "entry", [{"frames": TWO, "fps": 2}, {"video": TWO, "sample_fps": "2"}, {"path": TWO, "fps": "2.0"}]
)
def test_frames_and_their_rate_go_by_usual_names(entry: dict[str, Any]) -> None:
    for row in (ask("<video>", video=[entry]), ask([{"type": "video", **entry}])):
        (media,) = read(row).media
        assert (media.frame_list, media.fps, len(media.uris)) == (True, 2.0, 2) and read(row).unread == {}


def test_a_column_of_frames_is_a_video_and_a_number_of_them_is_unread() -> None:
    assert read(ask("<video>", frames=TWO)).media[0].frame_list
    assert read(ask("<video>", video="v.mp4", frames=32)).unread == {"row.frames": 32}
    assert read(chat(USER, ANSWER, frames=32)).unread == {"row.frames": 32}
