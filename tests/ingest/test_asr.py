"""Rows of audio and transcript: the conversation they become, what is rejected, and what is detected."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vlm_prep.core.errors import InputError, Reject
from vlm_prep.core.records import Rejected, Sample
from vlm_prep.ingest import RowSource, load_source
from vlm_prep.ingest.source import open_samples
from vlm_prep.media.probe import probe

AUDIO = {"type": "audio"}
ROW = {"audio": "a.wav", "text": " Hello  there.\n"}


def text(value: str) -> dict[str, str]:
    return {"type": "text", "text": value}


def read(folder: Path, *rows: Any, **options: Any) -> list[Sample | Rejected]:
    path = folder / "speech.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    samples = open_samples(path, **options)
    return list(samples.read(0, len(samples)))


def one(folder: Path, row: Any, **options: Any) -> Sample:
    (sample,) = read(folder, row, **options)
    assert isinstance(sample, Sample)
    return sample


def refused(folder: Path, *rows: Any, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        read(folder, *rows, **options)
    return str(caught.value)


# ---- the conversation ----


@pytest.mark.parametrize("system", [None, "", " \n", "You write down speech. "])
@pytest.mark.parametrize("user", [None, "", "  ", "Transcribe:\n"])
def test_prompts_stand_where_they_are_given_and_a_blank_one_is_none(
    tmp_path: Path, system: str | None, user: str | None
) -> None:
    sample = one(tmp_path, ROW, system_prompt=system, user_prompt=user)
    turns = [(message["role"], message["content"]) for message in sample.messages]
    expected = [
        ("user", [text(user), AUDIO] if user and user.strip() else [AUDIO]),
        ("assistant", [text(" Hello  there.\n")]),
    ]
    if system and system.strip():
        expected.insert(0, ("system", [text(system)]))
    assert turns == expected
    assert [(media.kind, media.uris) for media in sample.media] == [("audio", (str(tmp_path / "a.wav"),))]


def test_placeholders_in_a_transcript_are_text(tmp_path: Path) -> None:
    sample = one(tmp_path, {"audio": "a.wav", "text": "say <audio> twice"})
    assert sample.messages[-1]["content"] == [text("say <audio> twice")]


@pytest.mark.parametrize("name", ["text", "sentence", "transcription", "transcript"])
@pytest.mark.parametrize("audio", ["audio", "audio_filepath", "audio_path"])
def test_usual_columns_are_detected_as_asr(tmp_path: Path, name: str, audio: str) -> None:
    sample = one(tmp_path, {"id": 3, audio: {"path": "a.wav", "bytes": None}, name: "words", "duration": 1.5})
    assert sample.messages[-1]["content"] == [text("words")]


@pytest.mark.parametrize("audio", ["path", "file", "file_name", "wav"])
def test_paths_by_their_name_alone_are_read_when_asr_is_asked_for(tmp_path: Path, audio: str) -> None:
    assert one(tmp_path, {audio: "a.wav", "text": "words"}, format="asr").media[0].uris == (str(tmp_path / "a.wav"),)


def test_beside_audio_a_path_is_only_a_name(tmp_path: Path) -> None:
    sample = one(tmp_path, {"path": "b.wav", "audio": "a.wav", "sentence": "words"})
    assert sample.media[0].uris == (str(tmp_path / "a.wav"),)


def test_columns_can_be_named(tmp_path: Path) -> None:
    row = {"clip": "a.wav", "words": "yes", "text": "no", "audio": "no.wav"}
    sample = one(tmp_path, row, format="asr", columns={"audio": "clip", "text": "words"})
    assert sample.media[0].uris == (str(tmp_path / "a.wav"),)
    assert sample.messages[-1]["content"] == [text("yes")]


def test_chats_with_audio_are_not_taken_for_asr(tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "<audio>"}, {"role": "assistant", "content": "x"}], "text": "t"}
    path = tmp_path / "chat.jsonl"
    path.write_text(json.dumps(row | {"audio": "a.wav"}))
    assert load_source(path)[0].format == "sharegpt"


# ---- rows that are rejected ----


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"text": ""}, "empty_transcript"),
        ({"text": " \n\t"}, "empty_transcript"),
        ({"text": None}, "empty_transcript"),
        ({"text": 3}, "bad_type"),
        ({"text": ["a"]}, "bad_type"),
        ({"audio": None}, "missing_media"),
        ({"audio": []}, "missing_media"),
        ({"audio": ["a.wav", "b.wav"]}, "media_count_mismatch"),
        ({"audio": ""}, "missing_media"),
        ({"audio": 3}, "bad_type"),
        ({"audio": {"array": [0.0], "sampling_rate": 16000}}, "unsupported_media"),
        ({"audio": {"path": "a.wav", "sampling_rate": 16000}}, "bad_media_entry"),
        ({"audio": "https://x.org/a.wav"}, "unsupported_media"),
        ({"offset": -2.5}, "bad_media_entry"),
        ({"start_time": 3, "end_time": 2.5}, "bad_media_entry"),
    ],
)
def test_a_row_that_cannot_be_used_is_rejected(tmp_path: Path, row: Any, reason: str) -> None:
    good, bad = read(tmp_path, ROW, ROW | row, format="asr")
    assert isinstance(good, Sample) and isinstance(bad, Rejected)
    assert (bad.reason, bad.line, bad.sample_id) == (reason, 2, "speech/1")


def test_a_row_without_a_transcript_is_rejected_with_what_it_has(tmp_path: Path) -> None:
    _, bad = read(tmp_path, ROW, {"audio": "a.wav", "words": "x"})
    assert isinstance(bad, Rejected) and bad.reason == "missing_column" and "'audio', 'words'" in bad.message


def test_an_offset_of_nothing_is_no_part_of_a_file(tmp_path: Path) -> None:
    assert one(tmp_path, ROW | {"offset": 0, "start": None, "duration": 3.2})


# ---- sources that are refused ----


def test_two_transcripts_are_refused_with_the_option_that_chooses(tmp_path: Path) -> None:
    message = refused(tmp_path, ROW | {"sentence": "b"}, format="asr")
    assert "'text' or 'sentence'" in message and "`columns=text=text`" in message


def test_rows_without_audio_or_words_are_refused(tmp_path: Path) -> None:
    assert "no audio column" in refused(tmp_path, {"sound": "a.wav", "text": "b"}, format="asr")
    assert "no text column" in refused(tmp_path, {"audio": "a.wav", "words": "b"}, format="asr")
    assert "no column 'sentence'" in refused(tmp_path, ROW, format="asr", columns={"text": "sentence"})


def test_columns_that_are_empty_in_the_first_rows_are_found(tmp_path: Path) -> None:
    first, second = read(tmp_path, {"audio": None, "text": None}, ROW, format="asr")
    assert isinstance(first, Rejected) and isinstance(second, Sample)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"user_prompt": "<audio>Transcribe."}, "user_prompt holds <audio>"),
        ({"system_prompt": "x <IMAGE>"}, "system_prompt holds <IMAGE>"),
        ({"min_duration": -1.0}, "min_duration is -1"),
        ({"max_duration": float("nan")}, "max_duration is nan"),
        ({"min_duration": 3.0, "max_duration": 2.0}, "more than max_duration"),
        ({"split": "train"}, "single file"),
    ],
)
def test_options_that_make_no_sense_are_refused(tmp_path: Path, options: Any, message: str) -> None:
    assert message in refused(tmp_path, ROW, **options)


def test_prompts_for_other_formats_are_refused(tmp_path: Path) -> None:
    chat = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    assert "belongs to format asr" in refused(tmp_path, chat, user_prompt="x")


# ---- meta files and bounds ----


def test_a_meta_file_says_prompts_and_bounds(tmp_path: Path, kit: Path) -> None:
    entry = {
        "file_name": str(kit / "data" / "audio" / "transcripts.jsonl"),
        "media_dir": str(kit / "data"),
        "user_prompt": "Transcribe.",
        "min_duration": 2.0,
        "max_duration": 4.0,
    }
    path = tmp_path / "meta.json"
    path.write_text(json.dumps({"speech": entry}))
    samples = open_samples(path)
    described = samples.describe()[0]
    assert {name: described[name] for name in ("user_prompt", "min_duration", "max_duration", "format")} == {
        "user_prompt": "Transcribe.",
        "min_duration": 2.0,
        "max_duration": 4.0,
        "format": "asr",
    }
    kept, reasons = 0, []
    for sample in samples.read(0, len(samples)):
        assert isinstance(sample, Sample)
        try:
            header = probe(sample.media[0])[0].header
        except Reject as reject:
            reasons.append(reject.reason.value)
        else:
            assert header is not None and header.samples is not None and header.sampling_rate is not None
            assert 2.0 <= header.samples / header.sampling_rate <= 4.0
            kept += 1
    assert kept + len(reasons) == len(samples) == 72
    assert kept > 10 and {"audio_too_short", "audio_too_long"} == set(reasons)


def test_bounds_hold_for_audio_in_chats_too(tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "<audio>"}, {"role": "assistant", "content": "x"}], "audio": "a"}
    assert one(tmp_path, row, max_duration=30.0).media[0].max_seconds == 30.0


def test_prompts_and_bounds_are_part_of_the_identity(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(ROW))
    found = [
        open_samples(tmp_path / "a.jsonl", **options).identity()
        for options in ({}, {"user_prompt": " "}, {"user_prompt": "x"}, {"system_prompt": "x"}, {"min_duration": 1.0})
    ]
    assert found[0] == found[1]
    assert len({json.dumps(each, default=str) for each in found}) == 4


def test_the_kits_transcripts_are_read_without_settings(kit: Path) -> None:
    (spec,) = load_source(kit / "data" / "audio" / "transcripts.jsonl", media_dir=kit / "data")
    source = RowSource.open(spec)
    samples = list(source.read(0, len(source)))
    assert len(samples) == 72 and all(isinstance(each, Sample) for each in samples)
