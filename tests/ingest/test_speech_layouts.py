"""Sets of speech as people unpack them: what a split is, and what is said where there is none."""

from __future__ import annotations

import json
import sqlite3
import tarfile
from pathlib import Path
from typing import Any

import pytest

from vlm_prep.core.errors import InputError
from vlm_prep.core.records import Rejected, Sample
from vlm_prep.ingest.source import open_samples


def put(folder: Path, **files: str) -> Path:
    """Write files; `__` in a name is a folder, `_dot_` what stands before its ending."""
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def libri(folder: Path) -> None:
    for part, ending in (("dev-clean", "flac"), ("test", "wav")):
        put(folder / part / "8" / "1", **{"8-1_dot_trans.txt": "8-1-0 ONE\n8-1-1 TWO\n", f"8-1-0_dot_{ending}": "x"})


def mls(folder: Path) -> None:
    for part in ("train", "dev"):
        put(
            folder / part, transcripts_dot_txt="8_1_0\tein Wort\n", audio__8__1__8_1_0_dot_opus="x", segments_dot_txt=""
        )


def aishell(folder: Path) -> None:
    put(folder, transcript__aishell_transcript_v0_dot_8_dot_txt="A 而 对\nB 楼市\n", wav__train__S1__A_dot_wav="x")
    put(folder, wav__dev__S2__B_dot_wav="x")


def fleurs(folder: Path) -> None:
    for part in ("train", "dev"):
        put(folder, **{f"{part}_dot_tsv": '1\t1.wav\tDit "is.\tdit is\td\t1\tMALE\n', f"audio__{part}__1_dot_wav": "x"})


def gigaspeech(folder: Path) -> None:
    parts = [
        {"sid": f"{at}", "begin_time": at, "end_time": at + 1, "text_tn": "A <COMMA>", "subsets": names}
        for at, names in enumerate((["{XL}", "{S}"], ["{XL}"], ["{DEV}"]))
    ]
    said = {"audios": [{"path": "audio/p.opus", "segments": parts, "subsets": ["{XL}"]}]}
    put(folder, GigaSpeech_dot_json=json.dumps(said), audio__p_dot_opus="x")


def ljspeech(folder: Path) -> None:
    put(folder, metadata_dot_csv='LJ1|In "1440|In fourteen forty\nLJ2|a, b\nbroken\n', wavs__LJ1_dot_wav="x")


def kaldi(folder: Path) -> None:
    put(folder / "train", wav_dot_scp="r a.wav\nq sox b.wav |\n", text="u1 one two\nu2 three\nu3 x\n")
    put(folder / "train", segments="u1 r 0.5 1.25\nu2 q 0 1\n", a_dot_wav="x")


def said(source: Path | str, **options: Any) -> list[str]:
    """The name of the sound, its part and the words of each row; of a reject its reason."""
    samples = open_samples(source, **options)
    return [
        each.reason
        if isinstance(each, Rejected)
        else " ".join(
            [Path(each.media[0].uris[0]).name]
            + ([] if each.media[0].end is None else [f"{each.media[0].start or 0.0}-{each.media[0].end}"])
            + [each.messages[-1]["content"][0]["text"]]
        )
        for each in samples.read(0, len(samples))
    ]


@pytest.mark.parametrize(
    ("make", "split", "rows"),
    [
        (libri, "test", ["8-1-0.wav ONE", "8-1-1.flac TWO"]),
        (libri, "all", ["8-1-0.flac ONE", "8-1-1.flac TWO", "8-1-0.wav ONE", "8-1-1.flac TWO"]),
        (mls, "dev", ["8_1_0.opus ein Wort"]),
        (mls, None, ["8_1_0.opus ein Wort"] * 2),
        (aishell, "dev", ["B.wav 楼市"]),
        (aishell, "all", ["B.wav 楼市", "A.wav 而 对"]),
        (fleurs, None, ["1.wav dit is"]),
        (fleurs, "all", ["1.wav dit is"] * 2),
        (gigaspeech, None, ["p.opus 0.0-1.0 A <COMMA>", "p.opus 1.0-2.0 A <COMMA>", "p.opus 2.0-3.0 A <COMMA>"]),
        (gigaspeech, "{S}", ["p.opus 0.0-1.0 A <COMMA>"]),
        (gigaspeech, "dev", ["p.opus 2.0-3.0 A <COMMA>"]),
        (ljspeech, None, ['LJ1.wav In "1440', "LJ2.wav a, b", "bad_row"]),
        (kaldi, "train", ["a.wav 0.5-1.25 one two", "bad_row", "bad_row"]),
    ],
)
def test_a_split_is_the_rows_that_it_has(make: Any, split: str | None, rows: list[str], tmp_path: Path) -> None:
    make(tmp_path)
    assert said(tmp_path, split=split) == rows


@pytest.mark.parametrize(
    ("make", "there"),
    [
        (libri, "dev-clean, test"),
        (mls, "dev, train"),
        (aishell, "dev, train"),
        (fleurs, "dev, train"),
        (gigaspeech, "DEV, S, XL"),
        (kaldi, "train"),
    ],
)
def test_a_split_that_is_not_there_is_refused_with_those_that_are(make: Any, there: str, tmp_path: Path) -> None:
    make(tmp_path)
    with pytest.raises(InputError, match="has no split 'validation'") as caught:
        open_samples(tmp_path, split="validation")
    assert f"It has: {there}." in str(caught.value.hint)


@pytest.mark.parametrize("place", ["train/a.wav", "wav/a.wav"])
def test_kaldis_sounds_start_at_the_folder_that_is_given_or_beside_their_list(place: str, tmp_path: Path) -> None:
    put(tmp_path / "train", wav_dot_scp=f"u {place.removeprefix('train/')}\n", text="u one\n")
    put(tmp_path, **{place.replace("/", "__").replace(".", "_dot_"): "x"})
    (sample,) = open_samples(tmp_path, split="train").read(0, 1)
    assert isinstance(sample, Sample) and sample.media[0].uris == (str(tmp_path / place),)


def test_sounds_that_are_still_packed_are_said(tmp_path: Path) -> None:
    put(tmp_path / "a", transcript__aishell_transcript_v0_dot_txt="A 而\n", **{"wav__S1_dot_tar.gz": "x"})
    put(tmp_path / "f" / "data" / "af", train_dot_tsv="1\t1.wav\n", **{"audio__train_dot_tar.gz": "x"})
    for folder, what in ((tmp_path / "a", "wav/S1.tar.gz"), (tmp_path / "f" / "data" / "af", "audio/train.tar.gz")):
        with pytest.raises(InputError, match=what) as caught:
            open_samples(folder)
        assert "Unpack" in str(caught.value.hint)
    with pytest.raises(InputError, match="by language"):
        open_samples(tmp_path / "f")


def test_what_has_no_splits_refuses_one(tmp_path: Path) -> None:
    for part in ("train", "val"):
        (tmp_path / "tars" / part).mkdir(parents=True)
        with tarfile.open(tmp_path / "tars" / part / "1.tar", "w") as archive:
            for name in ("1.wav", "1.txt"):
                archive.add(put(tmp_path, x=part) / "x", name)
    with sqlite3.connect(tmp_path / "a.sqlite") as connection:
        connection.execute("CREATE TABLE rows (audio, text)")
        connection.execute("INSERT INTO rows VALUES ('a.wav', 'x')")
    for path in (tmp_path / "tars" / "val" / "1.tar", tmp_path / "a.sqlite"):
        assert len(said(path)) == 1
        with pytest.raises(InputError, match="split 'val' of what has no splits"):
            open_samples(path, split="val")
        with pytest.raises(InputError, match="subset 'b' of what has none"):
            open_samples(path, subset="b")
    assert said(tmp_path / "tars", split="val") == ["1.tar::1.wav val"]
    assert said(tmp_path / "tars", split="all") == ["1.tar::1.wav train", "1.tar::1.wav val"]
    with pytest.raises(InputError, match="no split 'test'"):
        open_samples(tmp_path / "tars", split="test")


def test_an_audiofolder_with_transcripts_is_speech(tmp_path: Path) -> None:
    put(tmp_path, train__metadata_dot_csv='file_name,transcription\na.wav,"hi, there"\n', train__a_dot_wav="x")
    assert said(tmp_path) == ["a.wav hi, there"]
    with pytest.raises(InputError, match="one whole split is read"):
        open_samples(tmp_path, split="all")


def test_a_table_of_pictures_in_data_is_found_and_is_not_told_to_be_speech(tmp_path: Path) -> None:
    put(tmp_path, data__metadata_dot_csv="file_name,text\na.png,red\n", data__a_dot_png="x")
    with pytest.raises(InputError) as caught:
        open_samples(tmp_path)
    assert "format=asr" not in str(caught.value.hint) and "user=<image>" in str(caught.value.hint)
    assert len(open_samples(tmp_path, turns=["user=<image>", "assistant={text}"])) == 1
    put(tmp_path / "b", rows_dot_jsonl='{"shot": "a.png", "text": "red"}')
    with pytest.raises(InputError) as caught:
        open_samples(tmp_path / "b" / "rows.jsonl")
    assert "`columns=images=shot` and `turns`" in str(caught.value.hint)
