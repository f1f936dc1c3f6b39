"""Rows as five tools export them: what means one thing is read and counted, the rest is rejected with its words."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from vlm_prep.core.errors import InputError, Reject, RejectReason
from vlm_prep.core.records import Rejected, Sample
from vlm_prep.core.settings import IngestConfig
from vlm_prep.ingest.embedded import EmbeddedBytes
from vlm_prep.ingest.formats import to_sample
from vlm_prep.ingest.formats.entries import absolute_uri
from vlm_prep.ingest.ingest_run import ingest
from vlm_prep.ingest.source import open_samples
from vlm_prep.ingest.spec import DatasetSpec
from vlm_prep.report import statistics

R = RejectReason
USER = {"role": "user", "content": "hi"}
ANSWER = {"role": "assistant", "content": "ho"}


def read(row: dict[str, Any], **options: Any) -> Sample:
    spec = DatasetSpec(name="d", file=Path("/d/d.jsonl"), file_name="d.jsonl", media_dir=Path("/m"), **options)
    return to_sample(row, spec, sample_id="d/0", source="d.jsonl", line=1)


def refused(row: dict[str, Any], **options: Any) -> tuple[RejectReason, str]:
    with pytest.raises(Reject) as caught:
        read(row, **options)
    assert " at 0x" not in caught.value.message
    return caught.value.reason, caught.value.message


def chat(*messages: Any, **columns: Any) -> dict[str, Any]:
    return {"messages": list(messages) or [USER, ANSWER], **columns}


def trains(sample: Sample) -> list[Any]:
    return [message.get("train") for message in sample.messages if message["role"] == "assistant"]


# ---- tags ----


@pytest.mark.parametrize("user", ["user", "human", "Human", "USER"])
@pytest.mark.parametrize("assistant", ["assistant", "gpt", "GPT", "bot", "model", "Assistant"])
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
        ({"role": "user", "text": "x"}, R.BAD_TYPE, "tags.content_tag"),
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


def test_a_path_beside_a_column_of_bytes_is_its_name() -> None:
    row = chat({"role": "user", "content": "<image>hi"}, ANSWER, image=EmbeddedBytes("u::1"), image_path="x/a.png")
    sample = read(row)
    assert (sample.media[0].uris, sample.unread) == (("u::1",), {"row.image_path": "x/a.png"})


def test_media_without_a_tag_is_refused_with_the_setting_that_places_it() -> None:
    row = chat({"role": "system", "content": "s"}, USER, ANSWER, USER, ANSWER, images=["a.png", "b.png"], audio="a.wav")
    reason, words = refused(row)
    assert reason == R.MEDIA_COUNT_MISMATCH and "missing_tags=first" in words and "<image> and <audio>" in words
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


# ---- keys that nobody reads ----


@pytest.mark.parametrize(
    ("key", "value", "train"),
    [
        *((key, value, value) for key in ("train_on_turn", "training", "loss", "train") for value in (True, False)),
        *(
            (key, value, bool(value))
            for key in ("loss_mask", "loss_scale", "loss", "weight")
            for value in (0, 1, 0.0, 1.0)
        ),
    ],
)
def test_a_message_says_in_any_tools_words_whether_it_is_trained(key: str, value: Any, train: bool) -> None:
    assert trains(read(chat(USER, ANSWER | {key: value}))) == [train]


def test_mask_history_trains_the_last_answer_alone() -> None:
    row = chat(USER, ANSWER, USER, ANSWER, mask_history=True)
    assert trains(read(row)) == [False, None]
    assert trains(read(row | {"mask_history": False})) == [None, None]
    assert refused(row | {"mask_history": "yes"})[0] == R.BAD_TYPE
    assert refused(chat(USER, ANSWER | {"train": True}, USER, ANSWER, mask_history=True))[0] == R.BAD_TYPE


@pytest.mark.parametrize(
    "columns",
    [
        {"rejected_response": "no"},
        {"chosen": [ANSWER], "rejected": [ANSWER]},
        {"label": 1},
        {"loss_mask": [0, 1]},
        {"mask": "User"},
        {"chat_template_kwargs": {"enable_thinking": False}},
    ],
)
def test_a_column_that_changes_the_task_rejects_the_row_until_it_is_ignored(columns: dict[str, Any]) -> None:
    reason, words = refused(chat(**columns))
    assert reason == R.UNREAD_KEY and f"ignore_keys={next(iter(columns))}" in words
    assert read(chat(**columns), ignore_keys=tuple(columns)).unread == {}


def test_empty_columns_of_that_kind_say_nothing() -> None:
    assert read(chat(label=None, rejected_response="", mask=[])).unread == {}


@pytest.mark.parametrize("keys", [{"mask": 1}, {"images": ["a.png"]}, {"training_detail": [{"begin_offset": 0}]}])
def test_a_key_of_a_message_that_changes_its_meaning_rejects_the_row(keys: dict[str, Any]) -> None:
    assert refused(chat(USER, ANSWER | keys))[0] == R.UNREAD_KEY


def test_objects_reject_the_row_where_the_text_waits_for_them() -> None:
    objects = {"ref": ["cup"], "bbox": [[1, 2, 3, 4]]}
    assert refused(chat(USER, {"role": "assistant", "content": "<bbox>"}, objects=objects))[0] == R.UNREAD_KEY
    assert read(chat(objects=objects)).unread == {"row.objects": objects}


def test_a_part_of_a_video_is_not_the_whole() -> None:
    row = chat({"role": "user", "content": "<video>"}, ANSWER, video="v.mp4")
    assert refused(row | {"start": 3, "end": 9})[0] == R.UNREAD_KEY
    assert read(row | {"start": 0, "end": None}).media
    assert read(chat(start=3)).unread == {"row.start": 3}


def test_what_is_not_read_is_told_with_its_place() -> None:
    message = {"role": "user", "content": [{"type": "text", "text": "<b>", "cache": 1}], "name": "bob", "id": 3}
    row = chat(message, ANSWER, images=[], score=0.5, thumb="t.png", note="")
    assert read(row).unread == {
        "part.cache": 1, "message.name": "bob", "message.id": 3, "row.score": 0.5, "row.thumb": "t.png"
    }  # fmt: skip


def test_a_user_turn_that_asks_to_be_trained_is_told() -> None:
    assert read(chat(USER | {"weight": 1}, ANSWER)).unread == {"message.weight of user turns": 1}
    assert read(chat(USER | {"weight": 0}, ANSWER)).unread == {}


def test_stats_and_dry_run_say_what_is_not_read_and_what_was_read_otherwise(tmp_path: Path, options: Any) -> None:
    rows = [chat(score=n, thumb="\x1b.png") for n in range(3)] + [chat(USER, ANSWER | {"loss_mask": 0})]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    samples = open_samples(file)
    (first,) = samples.first_rows()
    assert first["notes"] == {"read_training_keys": 1} and first["unread_keys"]["row.score"]["rows"] == 3
    manifest = ingest(samples, IngestConfig(), options(tmp_path / "out"))
    assert manifest is not None
    assert manifest.totals["unread_keys"]["rows"]["row.thumb"] == {"rows": 3, "example": "'\\x1b.png'", "media": True}
    text = statistics.render(statistics.collect(tmp_path / "out"))
    assert "1 rows with training options under another tool's name" in text
    assert "row.thumb holds what looks like media ('\\x1b.png') and is NOT read" in text and "\x1b" not in text


# ---- shape first ----


def test_a_source_of_another_shape_stops_with_the_setting_that_reads_it(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"chat": [USER, ANSWER], "n": n}) + "\n" for n in range(3)))
    with pytest.raises(InputError) as caught:
        open_samples(file)
    assert "none of the first 3 rows" in str(caught.value) and "messages=chat" in str(caught.value)
    assert len(open_samples(file, columns={"messages": "chat"})) == 3


def test_question_and_answer_columns_are_named(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"question": "a", "answer": "b"}) + "\n")
    with pytest.raises(InputError, match="instruction=question` and `columns=output=answer"):
        open_samples(file)
    columns = {"instruction": "question", "output": "answer"}
    assert len(open_samples(file, format="alpaca", columns=columns)) == 1


def test_a_text_column_that_no_row_has_stops(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"audio": "a.wav", "text": "b"}) + "\n")
    with pytest.raises(InputError, match="no column 'sentence'"):
        open_samples(file, format="asr", columns={"text": "sentence"})
    file.write_text(json.dumps(chat()) + "\n")
    with pytest.raises(InputError, match="sentence"):
        open_samples(file, columns={"text": "sentence"})


# ---- the kit's cases ----

TOOL_TABLES = ("rows.jsonl", "text.jsonl", "struct.parquet", "text.parquet", "empty.jsonl", "withid.jsonl")
CASES: dict[str, dict[int, RejectReason]] = {
    "01-mixed-image-types/rows.jsonl": {},
    "01-mixed-image-types/rows.json": {},
    "12-unread-columns/rows.jsonl": dict.fromkeys((0, 1, 2), R.UNREAD_KEY)
    | dict.fromkeys((9, 10), R.MEDIA_COUNT_MISMATCH),
    "16-images-in-answers/rows.jsonl": {},
    "09-reasoning/rows.jsonl": {8: R.BAD_ROW},
    **{f"10-tool-tables/{name}": {} for name in TOOL_TABLES},
    "17-double-keys/rows.jsonl": {11: R.BAD_TYPE, 12: R.BAD_TYPE},
    "17-double-keys/plain_first.jsonl": {10: R.BAD_TYPE, 11: R.BAD_TYPE},
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_cases_are_read_as_their_writers_meant_them(kit: Path, case: str) -> None:
    samples = open_samples(kit / "cases" / case)
    results = list(samples.read(0, len(samples)))
    assert {n: each.reason for n, each in enumerate(results) if isinstance(each, Rejected)} == CASES[case]
    if case.startswith("01"):
        counts = Counter(len(each.media) for each in results if isinstance(each, Sample))
        assert counts == {0: 4, 1: 6, 2: 3}


# ---- the quick ways through, which must lead where the long ones do ----


@pytest.mark.parametrize("folder", ["/m", "/", "/m/..", "//m"])
@pytest.mark.parametrize(
    "written",
    [
        "a.png",
        "./a.png",
        "../a.png",
        "a/../b.png",
        "a//b.png",
        "a/",
        " a.png",
        "a\nb",
        "...",
        "/a.png",
        "~a",
        "é/%20.png",
    ],
)
def test_a_plain_path_becomes_what_any_path_becomes(folder: str, written: str) -> None:
    assert absolute_uri(written, Path(folder), "image 0") == absolute_uri(written, folder, "image 0")


@pytest.mark.parametrize("text", ["hi", "", "a < b", "<image>", "x<IMAGE>\n<video> y", "<|im_end|>"])
@pytest.mark.parametrize("role", ["user", "assistant", "system", "human", "tool", "function_call", "User"])
def test_a_message_of_role_and_text_alone_becomes_what_one_with_more_keys_becomes(role: str, text: str) -> None:
    def outcome(message: dict[str, Any]) -> Any:
        try:
            sample = read(chat(message, USER, ANSWER, images=["a.png"], videos=["v.mp4"]))
        except Reject as reject:
            return reject.reason, reject.message
        return sample.messages, sample.media, sample.strings, sample.notes

    message = {"role": role, "content": text}
    assert outcome(message) == outcome({**message, "id": None})


def test_a_part_without_a_type_that_holds_two_things_says_both() -> None:
    row = chat({"role": "user", "content": [{"image": "a.png", "text": "hi"}]}, ANSWER)
    reason, message = refused(row)
    assert reason is R.BAD_ROW
    assert message == "message 1, part 0 has no type, and text ('hi') and image ('a.png'); give each a part of its own"
