"""Data sets of Parquet and Arrow files: splits, rows, media in cells, digests, and the other formats over them."""

from __future__ import annotations

import base64
import io
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from vlm_prep.core.errors import InputError
from vlm_prep.core.records import Media, Rejected, Sample
from vlm_prep.ingest.embedded import EmbeddedText
from vlm_prep.ingest.source import Samples, open_samples
from vlm_prep.media.files import read_bytes
from vlm_prep.media.probe import probe

PICTURE = Path(__file__).resolve().parents[2] / "vlm_prep" / "builtin" / "data"


def sound(folder: Path, seconds: float) -> bytes:
    path = folder / "sound.flac"
    soundfile.write(path, np.sin(np.arange(round(seconds * 8000)) / 9).astype(np.float32), 8000)
    return path.read_bytes()


def speech(folder: Path, count: int, first: int = 0) -> list[dict[str, Any]]:
    return [
        {"audio": {"bytes": sound(folder, 0.5 + n / 10), "path": f"{n}.flac"}, "sentence": f"words {n}"}
        for n in range(first, first + count)
    ]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)
    return path


def read(samples: Samples) -> list[Sample | Rejected]:
    return list(samples.read(0, len(samples)))


def media_of(out: list[Sample | Rejected]) -> list[Media]:
    return [media for each in out if isinstance(each, Sample) for media in each.media]


def refused(path: Path, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        open_samples(path, **options)
    return str(caught.value)


def picture() -> bytes:
    return next(path for path in sorted(PICTURE.rglob("*")) if path.suffix in (".jpg", ".png")).read_bytes()


# ---- files and splits ----


def test_the_kits_speech_is_read_by_split(kit: Path) -> None:
    folder = kit / "data" / "audio_dataset"
    train, test = open_samples(folder), open_samples(folder, split="test")
    assert (len(train), len(test)) == (60, 12)
    assert train.describe()[0]["split"] == "train" and test.describe()[0]["split"] == "test"
    for sample in read(test):
        assert isinstance(sample, Sample)
        found, data = probe(sample.media[0], keep_bytes=True)
        assert found.header is not None and data is not None
        wave, rate = soundfile.read(io.BytesIO(data[0]))
        assert (found.header.samples, found.header.sampling_rate) == (len(wave), rate)


def test_shards_of_a_split_are_one_dataset_in_order(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    write(folder / "data" / "train-00000-of-00002.parquet", speech(tmp_path, 5))
    write(folder / "data" / "train-00001-of-00002.parquet", speech(tmp_path, 3, first=5))
    write(folder / "data" / "test-00000-of-00001.parquet", speech(tmp_path, 1))
    samples = open_samples(folder)
    out = read(samples)
    assert [each.sample_id for each in out] == [f"set/{n}" for n in range(8)]
    assert [each.messages[-1]["content"][0]["text"] for each in out if isinstance(each, Sample)] == [
        f"words {n}" for n in range(8)
    ]
    assert (out[6].source, out[6].line) == ("set/data/train-00001-of-00002.parquet", 2)
    headers = [probe(media)[0].header for media in media_of(out)]
    assert [header.samples for header in headers if header] == [4000 + 800 * n for n in range(8)]
    joined = [each for start in range(0, 8, 3) for each in samples.read(start, min(8, start + 3))]
    assert joined == out


def test_one_file_is_a_dataset_and_picks_are_those_of_json(tmp_path: Path) -> None:
    path = write(tmp_path / "speech.parquet", speech(tmp_path, 10))
    out = read(open_samples(path, sample_ratio=0.5))
    assert [each.sample_id for each in out] == [f"speech/{row}" for row in (1, 0, 4, 9, 6)]
    assert all(isinstance(each, Sample) for each in out)


@pytest.mark.parametrize("saved", ["dataset", "dict"])
def test_what_save_to_disk_wrote_is_read(tmp_path: Path, saved: str) -> None:
    part = datasets.Dataset.from_list(speech(tmp_path, 4))
    whole = part if saved == "dataset" else datasets.DatasetDict(train=part, dev=part.select(range(1)))
    whole.save_to_disk(str(tmp_path / "set"), **({"num_shards": 2} if saved == "dataset" else {}))
    out = read(open_samples(tmp_path / "set"))
    assert len(out) == 4 and all(isinstance(each, Sample) for each in out)
    assert [probe(media)[0].header.samples for media in media_of(out)] == [4000, 4800, 5600, 6400]  # type: ignore[union-attr]
    if saved == "dict":
        assert len(open_samples(tmp_path / "set", split="dev")) == 1


def test_an_audio_feature_needs_no_decoder(tmp_path: Path) -> None:
    (tmp_path / "a.flac").write_bytes(sound(tmp_path, 1.0))
    rows = {"audio": [str(tmp_path / "a.flac")], "text": ["words"]}
    part = datasets.Dataset.from_dict(rows).cast_column("audio", datasets.Audio())
    (tmp_path / "set").mkdir()
    part.to_parquet(str(tmp_path / "set" / "train.parquet"))
    (media,) = media_of(read(open_samples(tmp_path / "set")))
    assert read_bytes(media.uris[0]) == (tmp_path / "a.flac").read_bytes()


def test_splits_are_refused_with_those_there_are(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    write(folder / "test.parquet", speech(tmp_path, 1))
    assert len(open_samples(folder)) == 1
    write(folder / "validation.parquet", speech(tmp_path, 1))
    message = refused(folder)
    assert "several splits" in message and "test" in message and "`split`" in message
    assert "Did you mean 'validation'" in refused(folder, split="validatoin")


def test_a_meta_file_names_folders_and_splits(tmp_path: Path) -> None:
    write(tmp_path / "set" / "train.parquet", speech(tmp_path, 3))
    write(tmp_path / "set" / "test.parquet", speech(tmp_path, 2))
    entries = {"a": {"file_name": "set"}, "b": {"file_name": "set", "split": "test", "format": "asr"}}
    (tmp_path / "meta.json").write_text(json.dumps(entries))
    out = read(open_samples(tmp_path / "meta.json"))
    assert [each.sample_id for each in out] == ["a/0", "a/1", "a/2", "b/0", "b/1"]
    assert [entry["media_dir"] for entry in open_samples(tmp_path / "meta.json").describe()] == [".", "."]


def test_a_folder_without_tables_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("{}")
    assert "is a folder" in refused(tmp_path) and "vlm-prep ingest" in refused(tmp_path)


def test_several_configurations_are_refused_with_their_names(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    for name in ("en", "de"):
        write(folder / name / "train.parquet", speech(tmp_path, 1))
    configs = [{"config_name": name, "data_files": f"{name}/*.parquet"} for name in ("en", "de")]
    (folder / "README.md").write_text(f"---\n{json.dumps({'configs': configs})}\n---\n")
    message = refused(folder)
    assert "'de'" in message and "'en'" in message and "`subset`" in message
    assert len(open_samples(folder / "de")) == 1


def test_a_damaged_shard_is_refused_with_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    write(folder / "train-00000-of-00002.parquet", speech(tmp_path, 2))
    second = write(folder / "train-00001-of-00002.parquet", speech(tmp_path, 2))
    second.write_bytes(second.read_bytes()[:-10])
    assert "train-00001-of-00002.parquet" in refused(folder)


# ---- identity and processes ----


def test_the_identity_is_the_content(tmp_path: Path) -> None:
    rows = speech(tmp_path, 4)
    for place in ("one", "two"):
        write(tmp_path / place / "set" / "train-0.parquet", rows[:2])
        write(tmp_path / place / "set" / "train-1.parquet", rows[2:])
    one, two = (open_samples(tmp_path / place / "set").identity() for place in ("one", "two"))
    assert one == two and str(tmp_path) not in json.dumps(one)
    write(tmp_path / "two" / "set" / "train-1.parquet", [rows[3], rows[2]])
    assert open_samples(tmp_path / "two" / "set").identity() != one


def test_a_pickled_source_reads_the_same_in_another_process(tmp_path: Path) -> None:
    samples = open_samples(write(tmp_path / "speech.parquet", speech(tmp_path, 5)))
    code = (
        "import pickle, sys; samples = pickle.load(sys.stdin.buffer); "
        "pickle.dump(list(samples.read(0, len(samples))), sys.stdout.buffer)"
    )
    done = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(samples), capture_output=True, check=True)
    assert pickle.loads(done.stdout) == read(samples)


# ---- the other formats ----


def chat_with(content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content}, {"role": "assistant", "content": "An answer."}]


@pytest.mark.parametrize(
    "entries",
    [
        lambda data: [{"bytes": data, "path": "x.jpg"}],
        lambda data: {"bytes": data, "path": None},
        lambda data: [data],
        lambda data: data,
        lambda data: f"data:image/jpeg;base64,{base64.b64encode(data).decode()}",
    ],
    ids=["cells", "cell", "binaries", "binary", "data URL"],
)
def test_chats_with_pictures_in_cells_are_read(tmp_path: Path, entries: Callable[[bytes], Any]) -> None:
    data = picture()
    row = {"messages": chat_with("<image>What?"), "images": entries(data)}
    (sample,) = read(open_samples(write(tmp_path / "chats.parquet", [row])))
    assert isinstance(sample, Sample), sample
    assert sample.messages[0]["content"] == [{"type": "image"}, {"type": "text", "text": "What?"}]
    found, kept = probe(sample.media[0], keep_bytes=True)
    assert kept == (data,) and found.header is not None and found.header.width > 0


def test_typed_parts_with_bytes_are_read(tmp_path: Path) -> None:
    part = {"type": "image", "image": {"bytes": picture(), "path": "x.jpg"}, "text": None}
    row = {"messages": [
        {"role": "user", "content": [part, {"type": "text", "image": None, "text": "What?"}]},
        {"role": "assistant", "content": [{"type": "text", "image": None, "text": "A cat."}]},
    ]}  # fmt: skip
    (sample,) = read(open_samples(write(tmp_path / "chats.parquet", [row])))
    assert isinstance(sample, Sample), sample
    assert sample.messages[0]["content"] == [{"type": "image"}, {"type": "text", "text": "What?"}]
    assert read_bytes(sample.media[0].uris[0]) == picture()


def test_nulls_that_arrow_adds_to_structs_do_not_reach_tool_schemas(tmp_path: Path) -> None:
    tools = [
        {"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}},
        {"name": "say", "parameters": {"type": "object", "properties": {"text": {"type": "string"}}}},
    ]
    rows = [{"messages": chat_with("hi"), "tools": [tool]} for tool in tools]
    out = read(open_samples(write(tmp_path / "tools.parquet", rows)))
    schemas = [each.tools[0]["function"] for each in out if isinstance(each, Sample) and each.tools]
    assert schemas == tools


def test_a_value_that_cannot_be_read_rejects_its_row(tmp_path: Path) -> None:
    words = pa.array([b"good", b"\xff\xfe"], pa.binary()).view(pa.string())
    table = pa.table({"audio": ["a.wav", "b.wav"], "text": words})
    pq.write_table(table, tmp_path / "speech.parquet")
    good, bad = read(open_samples(tmp_path / "speech.parquet", format="asr"))
    assert isinstance(good, Sample) and isinstance(bad, Rejected)
    assert (bad.reason, bad.line) == ("bad_row", 2)


def test_binary_where_words_should_be_is_rejected(tmp_path: Path) -> None:
    (bad,) = read(open_samples(write(tmp_path / "a.parquet", [{"audio": "a.wav", "text": b"words"}])))
    assert isinstance(bad, Rejected) and bad.reason == "bad_type"


# ---- media in JSON ----


def test_data_urls_and_input_audio_in_json_are_read_from_their_rows(tmp_path: Path) -> None:
    wave, url = sound(tmp_path, 1.0), f"data:image/jpeg;base64,{base64.b64encode(picture()).decode()}"
    parts = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "input_audio", "input_audio": {"data": base64.b64encode(wave).decode(), "format": "flac"}},
        {"type": "text", "text": "data:text/plain;base64,aGk="},
    ]
    row = {"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "x"}]}
    for name, text in (
        ("a.jsonl", "\n" + json.dumps(row) + "\n" + json.dumps(row, ensure_ascii=False)),
        ("a.json", json.dumps([row, row], indent=1)),
    ):
        (tmp_path / name).write_text(text)
        out = read(open_samples(tmp_path / name))
        assert len(out) == 2
        for sample in out:
            assert isinstance(sample, Sample), sample
            assert sample.messages[0]["content"][2] == parts[2]
            assert type(sample.messages[0]["content"][2]["text"]) is str
            assert [read_bytes(media.uris[0]) for media in sample.media] == [picture(), wave]


@pytest.mark.parametrize("url", ["data:image/svg+xml,<svg/>", "data:image/png"])
def test_a_data_url_that_is_not_base64_is_rejected(tmp_path: Path, url: str) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"messages": chat_with("<image>"), "images": [url]}))
    (bad,) = read(open_samples(tmp_path / "a.jsonl"))
    assert isinstance(bad, Rejected) and bad.reason == "unsupported_media"


def test_a_row_nested_too_deeply_to_be_searched_is_rejected(tmp_path: Path) -> None:
    deep = '{"messages": "data:", "x": ' + "[" * 1000 + "]" * 1000 + "}"
    (tmp_path / "a.jsonl").write_text(json.dumps({"messages": chat_with("hi")}) + "\n" + deep)
    good, bad = read(open_samples(tmp_path / "a.jsonl"))
    assert isinstance(good, Sample) and isinstance(bad, Rejected)
    assert bad.reason in ("bad_row", "bad_json", "bad_type")


def test_text_that_may_be_media_survives_pickling() -> None:
    copy = pickle.loads(pickle.dumps(EmbeddedText("data:x", "a::0/b")))
    assert (copy, copy.uri, type(copy)) == ("data:x", "a::0/b", EmbeddedText)
