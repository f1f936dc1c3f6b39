"""Object stores, against a real S3 server in its own process: rows and media read from it, stores written to it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from s3 import Server

from vlm_prep.builtin import builtin_data
from vlm_prep.core.errors import InputError, OutputError, Reject, StoreError
from vlm_prep.core.settings import IngestConfig, TokenizeConfig
from vlm_prep.engine.stage import RunOptions
from vlm_prep.ingest.ingest_run import ingest
from vlm_prep.ingest.source import open_samples
from vlm_prep.media.files import END_BYTES, read_bytes, read_ends
from vlm_prep.shards.layout import read_rejects
from vlm_prep.shards.reader import Store
from vlm_prep.shards.transfer import PART_BYTES, etag_of, pull, push
from vlm_prep.stream import ShardDataset
from vlm_prep.tokenize.tokenize_run import tokenize

PROCESSOR = "builtin:qwen2.5-vl-mini"
Options = Callable[..., RunOptions]
Tree = Callable[[Path], dict[str, str]]
Command = Callable[..., subprocess.CompletedProcess[str]]
VLM_PREP = str(Path(sys.executable).with_name("vlm-prep"))
FOLDER = builtin_data().parent


# ---- media and rows ----


@pytest.mark.parametrize("size", [1, END_BYTES, 2 * END_BYTES, 2 * END_BYTES + 1, 5 * END_BYTES])
def test_an_object_reads_like_a_file(bucket: str, server: Server, tmp_path: Path, size: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(size))
    server.files.put_file(str(path), f"{bucket}/file")
    assert read_bytes(f"{bucket}/file") == path.read_bytes()
    assert read_ends(f"{bucket}/file") == read_ends(str(path))


@pytest.mark.parametrize("read", [read_bytes, read_ends])
def test_an_object_that_is_not_there_or_empty_rejects_its_row(bucket: str, server: Server, read: Any) -> None:
    server.files.pipe(f"{bucket}/empty", b"")
    for name, reason in {"none": "missing_file", "empty": "empty_file"}.items():
        with pytest.raises(Reject) as caught:
            read(f"{bucket}/{name}")
        assert caught.value.reason == reason


def test_a_store_that_does_not_answer_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    s3fs = pytest.importorskip("s3fs")
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(InputError, match="the store could not be asked"):
        read_bytes("s3://bucket/key")
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.parametrize("written", ["beside", "media_dir", "address"])
def test_rows_and_media_on_s3_give_the_rows_of_the_same_files(
    bucket: str, server: Server, tmp_path: Path, options: Options, tree: Tree, written: str
) -> None:
    names = ["chelsea.jpg", "missing.jpg"]
    head = {"beside": "photos/", "media_dir": "", "address": f"{bucket}/data/photos/"}[written]
    rows = [
        {
            "messages": [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "A cat."}],
            "images": [f"{head}{name}"],
        }
        for name in names
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    server.files.put_file(str(tmp_path / "rows.jsonl"), f"{bucket}/data/rows.jsonl")
    server.files.put_file(str(FOLDER / "photos" / "chelsea.jpg"), f"{bucket}/data/photos/chelsea.jpg")
    photos = f"{bucket}/data/photos" if written == "media_dir" else None
    samples = open_samples(f"{bucket}/data/rows.jsonl", media_dir=photos)
    ingest(samples, IngestConfig(), options(tmp_path / "out", max_reject_rate=1.0))
    (sample,) = open_samples(tmp_path / "out").read(0, 1)
    assert sample.media[0].uris == (f"{bucket}/data/photos/chelsea.jpg",)  # type: ignore[union-attr]
    assert [(each["line"], each["reason"]) for each in read_rejects(tmp_path / "out")] == [(2, "missing_file")]
    again = open_samples(**json.loads((tmp_path / "out" / "origin.json").read_bytes())["source"])
    assert again.identity() == samples.identity()


def test_media_by_reference_on_s3_train_as_files_do(
    bucket: str, server: Server, tmp_path: Path, options: Options
) -> None:
    server.files.put(str(FOLDER), f"{bucket}/data", recursive=True)
    for place in (str(FOLDER), f"{bucket}/data"):
        meta = json.loads(builtin_data().read_bytes())
        meta = {
            name: {**entry, "file_name": f"{place}/{entry['file_name']}", "media_dir": place}
            for name, entry in meta.items()
        }
        path = tmp_path / f"{place[:2].strip('/')}.json"
        path.write_text(json.dumps(meta))
        config = TokenizeConfig(fps=2.0, media="reference")
        tokenize(open_samples(path), PROCESSOR, config, options(path.with_suffix("")))
    here, there = sorted(tmp_path.glob("*.json"))
    ours, theirs = (ShardDataset(path.with_suffix(""), shuffle=False) for path in (here, there))
    assert len(ours) == len(theirs) == 40
    for number in range(0, 40, 3):
        one, other = ours[number], theirs[number]
        assert one.keys() == other.keys()
        assert all((one[name] == other[name]).all() for name in one if hasattr(one[name], "all"))


# ---- stores ----


def test_a_store_goes_to_s3_and_comes_back(bucket: str, tokenized: Path, tmp_path: Path, tree: Tree) -> None:
    lines: list[str] = []
    push(tokenized, f"{bucket}/tok", lines.append)
    push(tokenized, f"{bucket}/tok/", lines.append)
    assert lines[1] == f"{bucket}/tok is complete"
    pull(f"{bucket}/tok", tmp_path / "tok", lines.append)
    # what each row was made of speaks of this machine's files, and stays here
    assert tree(tmp_path / "tok") == {name: file for name, file in tree(tokenized).items() if name != "rows.parquet"}
    Store(tmp_path / "tok", verify=True)


def test_a_command_writes_to_s3_and_goes_on_there(
    bucket: str, tmp_path: Path, command: Command, ingested: Path, tree: Tree
) -> None:
    line = ["ingest", builtin_data(), "--out", f"{bucket}/samples", "--workers", 1]
    result = command(*line, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert f"{bucket}/samples: 9 of 9 files copied" in result.stderr
    again = command(*line, cwd=tmp_path)
    assert f"{bucket}/samples is complete" in again.stderr
    assert command("pull", f"{bucket}/samples", tmp_path / "back").returncode == 0
    assert tree(tmp_path / "back") == tree(tmp_path / "meta.ingested")


def test_a_kill_in_the_middle_of_an_upload_leaves_nothing_that_reads_as_whole(
    bucket: str, server: Server, tmp_path: Path, options: Options, tree: Tree
) -> None:
    text = [os.urandom(150 << 10).hex() for _ in range(12)]
    with (tmp_path / "rows.jsonl").open("w") as file:
        for number in range(200):
            turns = [{"role": "user", "content": f"{number}"}, {"role": "assistant", "content": text[number % 12]}]
            file.write(json.dumps({"messages": turns}) + "\n")
    store, url = tmp_path / "store", f"{bucket}/store"
    ingest(open_samples(tmp_path / "rows.jsonl"), IngestConfig(), options(store))
    (shard,) = (store / "train").glob("*.arrow")
    assert shard.stat().st_size > 3 * PART_BYTES
    run = subprocess.Popen([VLM_PREP, "push", str(store), url], stderr=subprocess.DEVNULL)
    server.seen(r"PUT .*train/.*arrow.*partNumber=1")
    run.kill()
    run.wait()
    there = server.files.find(url)
    assert not [name for name in there if name.endswith((".arrow", "manifest.json"))]
    name, _, key = url.removeprefix("s3://").partition("/")
    assert server.files.call_s3("list_multipart_uploads", Bucket=name, Prefix=key)["Uploads"]
    with pytest.raises(StoreError, match="no finished store"):
        pull(url, tmp_path / "half", print)
    push(store, url, print)
    assert not server.files.call_s3("list_multipart_uploads", Bucket=name, Prefix=key).get("Uploads")
    info = server.files.info(f"{url}/train/{shard.name}")
    assert info["ETag"].strip('"') == etag_of(shard)
    pull(url, tmp_path / "back", print)
    assert tree(tmp_path / "back") == tree(store)


def test_an_object_that_differs_is_sent_again_and_found_by_pull(
    bucket: str, server: Server, ingested: Path, tmp_path: Path
) -> None:
    url = f"{bucket}/samples"
    push(ingested, url, print)
    shard = next((ingested / "train").glob("*.arrow"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    server.files.pipe(f"{url}/train/{shard.name}", bytes(data))
    with pytest.raises(StoreError, match=f"differs from its manifest: train/{shard.name}"):
        pull(url, tmp_path / "back", print)
    push(ingested, url, print)
    pull(url, tmp_path / "back", print)


def test_another_store_and_strangers_are_left_alone(
    bucket: str, server: Server, ingested: Path, tokenized: Path, tmp_path: Path
) -> None:
    push(ingested, f"{bucket}/a", print)
    server.files.pipe(f"{bucket}/b/mine.txt", b"mine")
    with pytest.raises(OutputError, match="another store"):
        push(tokenized, f"{bucket}/a", print)
    with pytest.raises(OutputError, match=r"mine\.txt"):
        push(tokenized, f"{bucket}/b", print)
    with pytest.raises(OutputError, match="bucket does not exist"):
        push(tokenized, "s3://nosuchbucketanywhere/a", print)
    shutil.copytree(tokenized, tmp_path / "tok")
    with pytest.raises(OutputError, match="another store"):
        pull(f"{bucket}/a", tmp_path / "tok", print)


def test_an_unfinished_store_is_not_sent(bucket: str, tmp_path: Path) -> None:
    (tmp_path / "out" / "_work").mkdir(parents=True)
    with pytest.raises(StoreError, match="unfinished"):
        push(tmp_path / "out", f"{bucket}/out", print)


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


@pytest.mark.parametrize(
    "key",
    ["../../ESCAPED.txt", "/ESCAPED.txt", "_work/plan.json", "notes.txt", "train/../../x.arrow"],
    ids=["above", "root", "work", "stranger", "within"],
)
def test_a_key_that_no_store_has_writes_nothing_anywhere(
    bucket: str, server: Server, ingested: Path, tmp_path: Path, key: str
) -> None:
    push(ingested, f"{bucket}/tok", print)
    client = server.files.call_s3
    client("put_object", Bucket=bucket.removeprefix("s3://"), Key=f"tok/{key}", Body=b"theirs")
    target = tmp_path / "a" / "b" / "c"
    before = files_below(tmp_path)
    with pytest.raises(StoreError, match="no file of a store has such a name"):
        pull(f"{bucket}/tok", target, print)
    assert files_below(tmp_path) == before


def test_an_object_that_the_manifest_does_not_name_is_not_fetched(
    bucket: str, server: Server, ingested: Path, tmp_path: Path
) -> None:
    push(ingested, f"{bucket}/tok", print)
    server.files.pipe(f"{bucket}/tok/train/data-00007-of-00009.arrow", b"theirs")
    with pytest.raises(StoreError, match="holds what its manifest does not name"):
        pull(f"{bucket}/tok", tmp_path / "out", print)
    assert not (tmp_path / "out").exists()


def test_a_changed_file_beside_the_shards_is_found_by_pull(
    bucket: str, server: Server, ingested: Path, tmp_path: Path
) -> None:
    push(ingested, f"{bucket}/tok", print)
    card = (ingested / "README.md").read_bytes()
    server.files.pipe(f"{bucket}/tok/README.md", card[:-1] + b"!")
    with pytest.raises(StoreError, match=r"differs from its manifest: README\.md"):
        pull(f"{bucket}/tok", tmp_path / "out", print)
    push(ingested, f"{bucket}/tok", print)
    pull(f"{bucket}/tok", tmp_path / "out", print)
    assert files_below(tmp_path / "out") == files_below(ingested)
