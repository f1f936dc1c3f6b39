"""Common Voice as it is unpacked: a table for each split, sounds in clips/; and in the columns that its copies have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vlm_prep.core.errors import InputError
from vlm_prep.core.records import Rejected, Sample
from vlm_prep.ingest.source import open_samples

COLUMNS = ("client_id", "path", "sentence_id", "sentence", "up_votes", "locale", "segment")
SAID = ("Merhaba.", '"Evet" dedi.', "")


@pytest.fixture
def unpacked(tmp_path: Path) -> Path:
    (tmp_path / "tr" / "clips").mkdir(parents=True)
    rows = [("c", f"{name}.mp3", str(name), text, "2", "tr", "") for name, text in enumerate(SAID)]
    text = "".join("\t".join(row) + "\n" for row in (COLUMNS, *rows))
    for split in ("train", "validated"):
        (tmp_path / "tr" / f"{split}.tsv").write_text(text)
    (tmp_path / "tr" / "clip_durations.tsv").write_text("clip\tduration[ms]\n0.mp3\t3456\n")
    (tmp_path / "tr" / "reported.tsv").write_text("sentence_id\tsentence\tlocale\treason\n")
    return tmp_path / "tr"


def read(source: str | Path, **options: Any) -> list[tuple[str, str] | str]:
    """The file's name and the answer of each row, or the reason of its reject."""
    samples = open_samples(source, **options)
    return [
        each.reason
        if isinstance(each, Rejected)
        else ("/".join(Path(each.media[0].uris[0]).parts[-2:]), each.messages[-1]["content"][0]["text"])
        for each in samples.read(0, len(samples))
    ]


ROWS = [("clips/0.mp3", "Merhaba."), ("clips/1.mp3", '"Evet" dedi.')]


@pytest.mark.parametrize("options", [{}, {"split": "validated"}, {"user_prompt": "Write it down."}])
@pytest.mark.parametrize("preset", ["", "preset:asr="])
def test_a_split_is_read_with_nothing_else_said(unpacked: Path, preset: str, options: dict[str, Any]) -> None:
    assert read(f"{preset}{unpacked}", **options) == [*ROWS, "empty_transcript"]


def test_its_tables_are_read_as_they_are(unpacked: Path, tmp_path: Path) -> None:
    assert read(unpacked / "validated.tsv") == [*ROWS, "empty_transcript"]
    (unpacked / "clips").rename(tmp_path / "clips")  # elsewhere: by what the user says, as ever
    there = {"format": "asr", "media_dir": tmp_path / "clips"}
    assert read(unpacked / "validated.tsv", **there) == [*ROWS, "empty_transcript"]


def test_the_preset_takes_mozillas_columns_and_those_of_the_set_on_the_hub(unpacked: Path, tmp_path: Path) -> None:
    assert read(f"preset:cv17={unpacked}", split="validated") == [*ROWS, "missing_column"]
    cell = {"bytes": b"ID3", "path": "a.mp3"}
    for name in ("sentence", "transcription"):
        table = tmp_path / f"{name}.parquet"
        pq.write_table(pa.Table.from_pylist([{"path": "a.mp3", "audio": cell, name: "Merhaba."}]), table)
        assert read(f"preset:cv17={table}") == [("audio/bytes", "Merhaba.")]


def test_a_split_that_is_not_there_and_a_part_of_one_say_what_there_is(unpacked: Path) -> None:
    with pytest.raises(InputError, match=r"no split 'dev'") as caught:
        read(unpacked, split="dev")
    assert "train, validated" in str(caught.value.hint)
    with pytest.raises(InputError, match="one whole split is read"):
        read(unpacked, split="validated[:2]")
    (unpacked / "train.tsv").unlink()
    assert len(read(unpacked)) == 3  # the only one


def test_a_column_of_media_takes_the_first_that_says_something(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"audio": null, "path": "a.wav", "t": "x"}\n{"audio": "b.wav", "path": "a.wav", "t": "y"}\n')
    mapping = {"audios": {"first": ["audio", "path"]}, "turns": [{"user": ["audio"]}, {"assistant": "{t}"}]}
    samples = open_samples(path, mapping=mapping)
    found = [each for each in samples.read(0, 2) if isinstance(each, Sample)]
    assert [Path(each.media[0].uris[0]).name for each in found] == ["a.wav", "b.wav"]


def test_beside_bytes_a_path_is_their_name_and_not_left_unread(tmp_path: Path) -> None:
    row = {"path": "a.mp3", "audio": {"bytes": b"ID3", "path": "a.mp3"}, "sentence": "x", "locale": "tr"}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "a.parquet")
    (sample,) = open_samples(tmp_path / "a.parquet").read(0, 1)
    assert isinstance(sample, Sample) and [str(each) for each in sample.unread] == ["row.locale"]
