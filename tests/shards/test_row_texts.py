"""What JSON texts of a store's rows say is somebody else's word: a row is as it was written, or an error in words."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner

from vlm_prep.cli.main import app
from vlm_prep.core.errors import StoreError, VlmPrepError
from vlm_prep.ingest.source import IngestedSamples
from vlm_prep.media.along import push_with_media
from vlm_prep.report.view.shown_media import shown_media
from vlm_prep.shards.manifest import read_manifest, write_manifest
from vlm_prep.shards.reader import Store
from vlm_prep.shards.row_texts import media_of
from vlm_prep.shards.shard_info import ShardInfo
from vlm_prep.shards.writer import ShardWriter

VALUES: list[Any] = [{}, ["x", 5, {}]]
Edit = Callable[[dict[str, Any]], dict[str, Any]]
BAD = [
    "x",
    "",
    "5",
    "null",
    "{}",
    "[5]",
    "[{}]",
    '[{"uris": 5}]',
    "[" * 5000,
    '[{"uris": ["a"], "kind": "image"',
    "\x00",
]


def rewritten(store: Path, out: Path, edit: Edit) -> Path:
    """Copy a store with its first row changed and a manifest that agrees."""
    shutil.copytree(store, out)
    manifest = read_manifest(out)
    splits: dict[str, list[ShardInfo]] = {}
    for split in manifest.splits:
        splits[split] = []
        for shard in Store(store, split=split).shards:
            with ShardWriter(out / split / shard.info.name, shard.schema) as writer:
                for number in range(len(shard)):
                    row = shard.row(number)
                    writer.write(row if number else edit(row), size=100, tokens=len(row.get("input_ids", ())))
                splits[split].append(writer.commit())
    write_manifest(out, replace(manifest, splits=splits))
    return out


def ends_in_words(*line: object) -> None:
    result = CliRunner().invoke(app, [str(each) for each in line])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        assert isinstance(result.exception, StoreError), result.exception
        assert "is damaged" in result.exception.message


@pytest.mark.parametrize("text", BAD, ids=lambda text: text[:20])
def test_an_ingested_row_whose_media_are_none(ingested: Path, tmp_path: Path, text: str) -> None:
    store = rewritten(ingested, tmp_path / "store", lambda row: {**row, "media": text})
    with pytest.raises(StoreError, match=" is damaged: "):
        list(IngestedSamples(store).read(0, 1))
    for line in (
        ["stats"],
        ["show"],
        ["explain"],
        ["view", "--out", tmp_path / "a.html"],
        ["gather", "--out", tmp_path / "m"],
    ):
        ends_in_words(line[0], store, *(["0"] if line[0] in ("show", "explain") else []), *line[1:])
    with pytest.raises(VlmPrepError, match=r" is damaged: |refer to no media store"):
        push_with_media(store, f"file://{tmp_path}/bucket/store", print)


def test_each_value_of_an_ingested_media_is_of_its_type(ingested: Path) -> None:
    row = next(row for row in Store(ingested).rows() if len(row["media"]) > 2)
    item = media_of(row)[0]
    places = [(item, name, VALUES) for name in item] + [(item["header"], name, VALUES) for name in item["header"]]
    places += [(item["header"], name, [-1, 1 << 60, 0.5]) for name in ("height", "width")]
    for inside, name, values in places:
        for value in values:
            before, inside[name] = inside[name], value
            with pytest.raises(StoreError, match="is damaged: media"):
                media_of({"sample_id": "a/0", "media": orjson.dumps([item]).decode()})
            inside[name] = before
    with pytest.raises(StoreError, match=r"media\[0\] names no file"):
        media_of({"media": orjson.dumps([{**item, "uris": []}]).decode()})


@pytest.mark.parametrize(
    "said",
    [
        *BAD[:5],
        '{"messages": 5}',
        '{"messages": [], "tools": [{"a": ' + "[" * 900 + "]" * 900 + "}]}",
        '{"messages": [5]}',
        '{"messages": [{"role": 5, "content": "a"}]}',
        '{"messages": [{"role": "user", "content": [5]}]}',
        '{"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]}',
        '{"messages": [{"role": "user", "content": "a", "tool_calls": [{}]}]}',
    ],
    ids=lambda said: said[:60],
)
def test_a_conversation_that_is_none(ingested: Path, tokenized: Path, tmp_path: Path, said: str) -> None:
    store = rewritten(ingested, tmp_path / "ing", lambda row: {**row, "conversation": said})
    with pytest.raises(StoreError, match=" is damaged: "):
        list(IngestedSamples(store).read(0, 1))
    ends_in_words("view", store, "--out", tmp_path / "a.html")
    store = rewritten(tokenized, tmp_path / "tok", lambda row: {**row, "conversation": said})
    for line in (["show", "0"], ["view", "--out", tmp_path / "b.html"], ["verify", "-p", "builtin:qwen2.5-vl-mini"]):
        ends_in_words(line[0], store, *line[1:])
    ends_in_words("export", store, tmp_path / "swift", "--to", "ms-swift")


def test_labels_of_another_row(tokenized: Path, tmp_path: Path) -> None:
    store = rewritten(tokenized, tmp_path / "tok", lambda row: {**row, "labels": row["labels"][:1]})
    ends_in_words("show", store, "0")
    ends_in_words("view", store, "--out", tmp_path / "a.html")


@pytest.mark.parametrize(
    "said",
    [
        {"kind": "evil"},
        {"files": []},
        {"kind": "video", "frame_indices": None},
        {"kind": "video", "frame_list": True, "frame_indices": [-1]},
    ],
    ids=str,
)
def test_a_media_that_is_none_is_shown_as_such(said: dict[str, Any]) -> None:
    file = {"uri": "/a.png", "digest": "", "bytes": None}
    struct = {"kind": "image", "files": [file], "height": 1, "width": 1, "tensors": None, "frame_list": False}
    shown = shown_media({**struct, "frame_indices": None, **said})
    assert shown["note"].startswith("bad_row: the store says of a media what none has")
