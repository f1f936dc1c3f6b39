"""Sources that are no files of rows: tars, archives, folders, databases, sets of speech, other tools' descriptions."""

from __future__ import annotations

import io
import json
import sqlite3
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from vlm_prep.core.errors import InputError
from vlm_prep.core.records import Sample
from vlm_prep.core.settings import IngestConfig
from vlm_prep.ingest.ingest_run import ingest
from vlm_prep.ingest.source import open_samples
from vlm_prep.shards.layout import read_rejects


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLM_PREP_CACHE", str(tmp_path / "cache"))


def picture(shade: int = 9) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (8, 6), (shade, 0, 0)).save(data, "PNG")
    return data.getvalue()


def sound(seconds: float = 1.0) -> bytes:
    data = io.BytesIO()
    soundfile.write(data, np.zeros(int(8000 * seconds), np.float32), 8000, format="WAV", subtype="PCM_16")
    return data.getvalue()


def tar(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def written(source: str | Path, out: Path, options: Callable[..., Any], **how: Any) -> tuple[list[Sample], list[Any]]:
    """Ingest a source with its media; return its samples and its rejects."""
    manifest = ingest(open_samples(source, **how), IngestConfig(), options(out, max_reject_rate=1.0))
    assert manifest
    totals = manifest.totals
    assert totals["rows_in"] == totals["rows_written"] + totals["rows_rejected"]
    samples = open_samples(out)
    return [row for row in samples.read(0, len(samples)) if isinstance(row, Sample)], read_rejects(out)


def chat(*tags: str) -> bytes:
    turns = [{"from": "human", "value": "".join(tags) + "What?"}, {"from": "gpt", "value": "A cup."}]
    return json.dumps({"id": "1", "conversations": turns}).encode()


CAPTION = ["user=<image>What?", "assistant={text}"]


@pytest.mark.parametrize("kind", ["zip", "stored", "tar"])
def test_media_in_an_archive_beside_the_rows(kind: str, tmp_path: Path, options: Callable[..., Any]) -> None:
    path = tmp_path / f"media.{'tar' if kind == 'tar' else 'zip'}"
    if kind == "tar":
        tar(path, {"a/b.png": picture(), "./c.png": picture(7), "empty.png": b""})
    else:
        how = zipfile.ZIP_STORED if kind == "stored" else zipfile.ZIP_DEFLATED
        with zipfile.ZipFile(path, "w", how) as archive:
            for name, data in {"a/b.png": picture(), "c.png": picture(7), "empty.png": b""}.items():
                archive.writestr(name, data)
    names = ["a/b.png", "c.png", "d.png", "empty.png", "../../etc/passwd"]
    rows = [{"image": f"{path.name}::{name}", "text": "A cup."} for name in names]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    samples, rejects = written(tmp_path / "rows.jsonl", tmp_path / "out", options, turns=CAPTION)
    assert [(each.media[0].header.width, each.media[0].header.height) for each in samples if each.media[0].header] == [
        (8, 6)
    ] * 2
    assert [each["reason"] for each in rejects] == ["missing_key", "empty_file", "missing_key"]


def test_an_archive_is_confined_as_other_media_are(tmp_path: Path, options: Callable[..., Any]) -> None:
    tar(tmp_path / "elsewhere" / "a.tar", {"a.png": picture()})
    data = tmp_path / "data" / "rows.jsonl"
    data.parent.mkdir()
    data.write_text(json.dumps({"image": "../elsewhere/a.tar::a.png", "text": "A cup."}))
    config = IngestConfig(media_root=[str(tmp_path / "data")])
    ingest(open_samples(data, turns=CAPTION), config, options(tmp_path / "out", max_reject_rate=1.0))
    assert [each["reason"] for each in read_rejects(tmp_path / "out")] == ["outside_media_root"]


def test_tars_of_pictures_and_texts_are_rows(tmp_path: Path, options: Callable[..., Any]) -> None:
    members = {
        f"{number:04}.{end}": data for number in range(3) for end, data in (("png", picture()), ("txt", b"A cup."))
    }
    tar(tmp_path / "shards" / "s-000.tar", members)
    tar(tmp_path / "shards" / "s-001.tar", {"9.jpg": picture(), "9.txt": b"Last."})
    whole, _ = written(tmp_path / "shards", tmp_path / "a", options, turns=CAPTION)
    ranged, _ = written(tmp_path / "shards" / "s-{000..001}.tar", tmp_path / "b", options, turns=CAPTION)
    assert [each.messages[1]["content"][0]["text"] for each in whole] == ["A cup."] * 3 + ["Last."]
    assert [each.media for each in ranged] == [each.media for each in whole]
    with pytest.raises(InputError, match=r"1 tars of the range are missing, e.g. s-002.tar"):
        open_samples(tmp_path / "shards" / "s-{000..002}.tar", turns=CAPTION)


def test_tars_of_chats_with_several_pictures_and_a_damaged_row(tmp_path: Path, options: Callable[..., Any]) -> None:
    named = json.loads(chat("<image>", "<image>")) | {"images": ["x/d.2.jpg", "x/d.1.jpg"]}
    two = chat("<image>", "<image>")
    members = {"a.json": chat("<image>"), "a.jpg": picture()}
    members |= {"b.0.jpg": picture(), "b.1.jpg": picture(), "b.json": two, "c.json": b"{", "c.jpg": picture()}
    members |= {"d.1.jpg": picture(), "d.2.jpg": picture(), "d.json": json.dumps(named).encode(), "e.json": chat()}
    samples, rejects = written(tar(tmp_path / "a.tar", members), tmp_path / "out", options)
    places = [[uri.rpartition("::")[2] for media in each.media for uri in media.uris] for each in samples]
    assert places == [["a.jpg"], ["b.0.jpg", "b.1.jpg"], ["d.2.jpg", "d.1.jpg"], []]
    assert [(each["reason"], each["line"]) for each in rejects] == [("bad_row", 3)]


def test_speech_in_tars_has_its_text(tmp_path: Path, options: Callable[..., Any]) -> None:
    path = tar(tmp_path / "a.tar", {"1.wav": sound(), "1.txt": b"hello", "2.wav": sound(), "2.txt": b" "})
    samples, rejects = written(path, tmp_path / "out", options)
    assert [each.messages[-1]["content"][0]["text"] for each in samples] == ["hello"]
    assert [each["reason"] for each in rejects] == ["empty_transcript"]


def test_a_folder_of_pictures_with_texts_or_in_classes(tmp_path: Path, options: Callable[..., Any]) -> None:
    beside = tmp_path / "beside"
    beside.mkdir()
    for number in (2, 10):
        (beside / f"{number}.png").write_bytes(picture())
        (beside / f"{number}.txt").write_text(f"Cup {number}.\n")
    (beside / "11.png").write_bytes(picture())
    samples, rejects = written(beside, tmp_path / "a", options, turns=CAPTION)
    assert [each.messages[1]["content"][0]["text"] for each in samples] == ["Cup 2.", "Cup 10."]
    assert [each["reason"] for each in rejects] == ["missing_column"]
    for name in ("cat", "dog"):
        (tmp_path / "classes" / name).mkdir(parents=True)
        (tmp_path / "classes" / name / "1.png").write_bytes(picture())
    samples, _ = written(tmp_path / "classes", tmp_path / "b", options, turns=["user=<image>", "assistant={label}"])
    assert [each.messages[1]["content"][0]["text"] for each in samples] == ["cat", "dog"]


def speech_folders(root: Path) -> dict[str, Path]:
    libri = root / "libri" / "dev" / "84" / "121"
    aishell, fleurs, giga = (root / name for name in ("aishell", "fleurs", "giga"))
    for folder in (
        libri,
        aishell / "wav" / "train" / "S1",
        aishell / "transcript",
        fleurs / "audio" / "train",
        giga / "audio",
    ):
        folder.mkdir(parents=True)
    for number in (1, 2):
        (libri / f"84-121-000{number}.flac").write_bytes(sound())
        (aishell / "wav" / "train" / "S1" / f"B{number}.wav").write_bytes(sound())
        (fleurs / "audio" / "train" / f"{number}.wav").write_bytes(sound())
    (libri / "84-121.trans.txt").write_text("84-121-0001 ONE\n84-121-0002 TWO\n")
    (aishell / "transcript" / "aishell_transcript_v0.8.txt").write_text("B1 ONE\nB2 TWO\nB3 NOT HERE\n")
    lines = [f"{number}\t{number}.wav\tRaw\t{text}\tx\t1\tMALE\n" for number, text in ((1, "ONE"), (2, "TWO"))]
    (fleurs / "train.tsv").write_text("".join(lines))
    (giga / "audio" / "p.wav").write_bytes(sound(3))
    parts = [
        {"sid": str(at), "begin_time": at, "end_time": at + 1, "text_tn": text}
        for at, text in enumerate(("ONE", "TWO"))
    ]
    (giga / "GigaSpeech.json").write_text(json.dumps({"audios": [{"path": "audio/p.wav", "segments": parts}]}))
    return {"librispeech": root / "libri", "aishell": aishell, "fleurs": fleurs, "gigaspeech": giga}


@pytest.mark.parametrize("name", ["librispeech", "aishell", "fleurs", "gigaspeech"])
def test_sets_of_speech_are_read_as_they_are_unpacked(name: str, tmp_path: Path, options: Callable[..., Any]) -> None:
    folder = speech_folders(tmp_path)[name]
    for source in (str(folder), f"preset:{name}={folder}"):
        out = tmp_path / f"out-{source.startswith('preset')}"
        samples, rejects = written(source, out, options, user_prompt="Transcribe.")
        assert [each.messages[-1]["content"][0]["text"] for each in samples] == ["ONE", "TWO"] and rejects == []
        headers = [each.media[0].header for each in samples]
        assert [header and header.samples for header in headers] == [8000, 8000]


def test_a_table_of_a_database_is_a_table(tmp_path: Path, options: Callable[..., Any]) -> None:
    path = tmp_path / "a.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE shots (image BLOB, text TEXT, n INTEGER)")
        connection.executemany("INSERT INTO shots VALUES (?, ?, ?)", [(picture(), "A cup.", 1), (None, "?", 2)])
    samples, rejects = written(path, tmp_path / "out", options, turns=CAPTION)
    assert len(samples) == 1 and [each["reason"] for each in rejects] == ["missing_media"]
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE other (a)")
    with pytest.raises(InputError, match=r"a.sqlite::TABLE; it has other, shots"):
        open_samples(path, turns=CAPTION)
    assert len(open_samples(f"{path}::shots", turns=CAPTION)) == 2


def test_a_description_of_llama_factory_is_read_or_refused(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "<image>q"}, {"from": "gpt", "value": "a"}]
    (tmp_path / "a.json").write_text(json.dumps([{"conversations": turns, "images": ["a.png"]}]))
    (tmp_path / "b.json").write_text(json.dumps([{"q": "Q", "r": "R"}] * 4))
    info = {
        "talks": {
            "file_name": "a.json",
            "formatting": "sharegpt",
            "columns": {"messages": "conversations", "images": "images"},
        },
        "pairs": {"file_name": "b.json", "columns": {"prompt": "q", "response": "r"}, "num_samples": 3},
        "preferences": {"file_name": "b.json", "ranking": True, "columns": {"chosen": "q"}},
        "script": {"script_url": "x"},
    }
    path = tmp_path / "dataset_info.json"
    path.write_text(json.dumps(info))
    samples = open_samples(path, datasets=["talks", "pairs"])
    assert [row.sample_id for row in samples.read(0, len(samples))] == ["pairs/0", "pairs/1", "pairs/2", "talks/0"]
    for name, what in (("preferences", "preference data"), ("script", "dataset script")):
        with pytest.raises(InputError, match=what):
            open_samples(path, datasets=[name])


def test_cuts_of_lhotse_are_read_by_a_preset(tmp_path: Path, options: Callable[..., Any]) -> None:
    (tmp_path / "a.wav").write_bytes(sound(3))
    source = {"type": "file", "channels": [0], "source": "a.wav"}
    recording = {"id": "r", "sources": [source], "sampling_rate": 8000}
    cut = {"id": "1", "start": 1.0, "duration": 1.5, "channel": 0, "type": "MonoCut", "recording": recording}
    cut["supervisions"] = [{"id": "s", "text": "ONE"}]
    other = {**cut, "type": "MultiCut"}
    (tmp_path / "cuts.jsonl").write_text(json.dumps(cut) + "\n" + json.dumps(other) + "\n")
    samples, rejects = written(f"preset:lhotse={tmp_path / 'cuts.jsonl'}", tmp_path / "out", options)
    assert samples[0].media[0].header and samples[0].media[0].header.samples == 12000
    assert [each["reason"] for each in rejects] == ["not_wanted"]


def test_a_changed_source_is_read_anew(tmp_path: Path) -> None:
    tar(tmp_path / "a.tar", {"1.json": chat()})
    assert len(open_samples(tmp_path / "a.tar")) == 1
    tar(tmp_path / "a.tar", {"1.json": chat(), "2.json": chat()})
    assert len(open_samples(tmp_path / "a.tar")) == 2


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("metadata.csv", "text,file_name\n1.5 red,a.png\n"),
        ("metadata.jsonl", '{"file_name": "a.png", "text": "1.5 red"}\n'),
    ],
)
def test_the_pictures_of_an_imagefolder_are_those_of_its_metadata(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / "set" / "train").mkdir(parents=True)
    (tmp_path / "set" / "train" / name).write_text(text)
    (tmp_path / "set" / "train" / "a.png").write_bytes(b"x")
    (row,) = open_samples(tmp_path / "set", turns=["user=<image>What?", "assistant={text}"]).read(0, 1)
    assert isinstance(row, Sample), row.message
    assert [media.uris for media in row.media] == [(str(tmp_path / "set" / "train" / "a.png"),)]
    with pytest.raises(InputError, match="one whole split"):
        open_samples(tmp_path / "set", split="train[:5]")
