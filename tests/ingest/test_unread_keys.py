"""Keys that nobody reads, sources of another shape, and the short ways through, which lead where the long ones do."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from ingest.spelt import ANSWER, USER, R, chat, read, refused

from vlm_prep.core.errors import InputError, Reject, RejectReason
from vlm_prep.core.records import Rejected, Sample
from vlm_prep.core.settings import IngestConfig
from vlm_prep.ingest.formats.entries import absolute_uri
from vlm_prep.ingest.ingest_run import ingest
from vlm_prep.ingest.source import open_samples
from vlm_prep.report import statistics


def trains(sample: Sample) -> list[Any]:
    return [message.get("train") for message in sample.messages if message["role"] == "assistant"]


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
    (part,) = read(row | {"start": 3, "end": 9}).media
    assert (part.start, part.end) == (3.0, 9.0)
    assert refused(row | {"start_frame": 3, "end_frame": 9})[0] == R.UNREAD_KEY
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
    with pytest.raises(InputError, match="instruction=question`, `columns=output=answer"):
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
