"""`pack --format webdataset`: tars that the stock libraries open where vlm_prep cannot be imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlm_prep.core.errors import InputError, StoreError
from vlm_prep.core.pack_settings import PackConfig
from vlm_prep.pack.pack_run import pack
from vlm_prep.shards.manifest import read_manifest
from vlm_prep.shards.reader import Store
from vlm_prep.stream import ShardDataset

OPENER = """
import sys
sys.modules["vlm_prep"] = None  # importing it raises from here on
import glob, json, os

folder, out, way = sys.argv[1:]
tars = sorted(glob.glob(f"{folder}/rank_*/*.tar"))

def plain(value):
    return value.tolist() if hasattr(value, "tolist") else value.hex() if isinstance(value, bytes) else value

def rows(samples):
    return [{name: plain(value) for name, value in sample.items() if not name.startswith("__")} for sample in samples]

if way == "webdataset":
    import webdataset
    found = rows(webdataset.WebDataset(tars, shardshuffle=False).decode())
elif way == "nodes":
    import webdataset
    found = []
    for rank in range(2):
        os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank))
        dataset = webdataset.WebDataset(tars, shardshuffle=False, nodesplitter=webdataset.split_by_node)
        found.append(rows(dataset.decode()))
elif way == "pictures":
    import webdataset
    found = [
        [list(value.size) for name, value in sorted(sample.items()) if name.startswith("media.") and hasattr(value, "size")]
        for sample in webdataset.WebDataset(tars, shardshuffle=False).decode("pil")
    ]
else:
    from datasets import load_dataset
    if way == "streaming":
        found = rows(load_dataset("webdataset", data_files=tars, split="train", streaming=True))
    elif way == "load_dataset":
        found = rows(load_dataset("webdataset", data_files=tars, split="train"))
    elif way == "folder":
        found = rows(load_dataset(folder, split="train"))
with open(out, "w") as file:
    json.dump(found, file, default=plain)
"""  # noqa: E501
COLUMNS = ("input_ids", "labels", "position_ids", "seq_lens", "second_per_grid_ts")
GRIDS = ("image_grid_thw", "video_grid_thw")


@pytest.fixture(scope="module")
def tars(tokenized: Path, options: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in data in tars for two ranks."""
    out: Path = tmp_path_factory.mktemp("tars") / "packed"
    pack(tokenized, PackConfig(pack_length=2048, world_size=2, format="webdataset"), options(out))
    return out


def opened(folder: Path, out: Path, way: str) -> Any:
    """What a stock library reads of a folder, in a process that cannot import vlm_prep."""
    environment = {**os.environ, "HF_HOME": str(out / "home"), "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONPATH", None)
    script = out / "open.py"
    script.write_text(OPENER)
    line = [sys.executable, str(script), str(folder), str(out / "rows.json"), way]
    run = subprocess.run(line, cwd=out, env=environment, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads((out / "rows.json").read_text())


def assert_same(found: list[dict[str, Any]], arrow: list[dict[str, Any]]) -> None:
    """The rows of the tars are those of the Arrow store, media bytes included."""
    assert len(found) == len(arrow)
    for ours, row in zip(found, arrow, strict=True):
        for name in COLUMNS:
            assert ours[f"{name}.npy"] == row[name].tolist(), name
        for name in GRIDS:
            assert np.array_equal(np.reshape(ours[f"{name}.npy"], (-1, 3)), row[name])
        about = ours["json"]
        assert (about["pack_id"], about["sample_ids"]) == (row["pack_id"], row["sample_ids"])
        data = bytes.fromhex(ours["media.bin"])
        files = [file for item in json.loads(about["media"]) for file in item["files"]]
        assert [data[file["offset"] : file["offset"] + file["size"]] for file in files] == [
            bytes(file["bytes"]) for item in row["media"] for file in item["files"]
        ]


@pytest.mark.parametrize("way", ["webdataset", "load_dataset", "streaming", "folder"])
def test_tars_open_with_stock_libraries_and_have_our_rows(tars: Path, packed: Path, tmp_path: Path, way: str) -> None:
    assert_same(opened(tars, tmp_path, way), list(Store(packed).rows()))


def test_nodes_share_the_tars(tars: Path, packed: Path, tmp_path: Path) -> None:
    for rank, found in enumerate(opened(tars, tmp_path, "nodes")):
        assert_same(found, list(Store(packed, split=f"rank_{rank:05d}").rows()))


def test_separate_media_decode_as_pictures(tokenized: Path, options: Any, tmp_path: Path) -> None:
    out = tmp_path / "packed"
    pack(tokenized, PackConfig(pack_length=2048, format="webdataset", tar_media="separate"), options(out))
    sizes = opened(out, tmp_path, "pictures")
    images = [len([item for item in json.loads(about["media"]) if item["kind"] == "image"]) for about in abouts(out)]
    assert [len(row) for row in sizes] == images
    assert sum(images) == 36


def abouts(folder: Path) -> list[dict[str, Any]]:
    """The JSON of all rows."""
    found = []
    for path in sorted(folder.glob("rank_*/*.tar")):
        with tarfile.open(path) as tar:
            members = [member for member in tar if member.name.partition(".")[2] == "json"]
            found += [json.load(tar.extractfile(member)) for member in members]  # type: ignore[arg-type]
    return found


def test_tars_are_the_same_bytes_each_time(
    tars: Path, tokenized: Path, options: Any, tree: Any, tmp_path: Path
) -> None:
    config = PackConfig(pack_length=2048, world_size=2, format="webdataset")
    pack(tokenized, config, options(tmp_path / "again", workers=2))
    first, again = tree(tars), tree(tmp_path / "again")
    assert [name for name in first if name.endswith(".tar")]
    for name, digest in first.items():
        if name != "manifest.json":  # it names the source relative to the folder
            assert again[name] == digest, name


def test_members_have_no_time_and_no_owner(tars: Path) -> None:
    for path in tars.glob("rank_*/*.tar"):
        with tarfile.open(path) as tar:
            assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in tar} == {(0, 0, 0, "", "", 0o644)}


def test_the_manifest_holds_rows_and_checksums(tars: Path, packed: Path, call: Any) -> None:
    manifest, arrow = read_manifest(tars), read_manifest(packed)
    assert manifest.extra["format"] == "webdataset"
    # what rows of an arrow shard could share is counted; rows of a tar stand alone
    assert manifest.totals == {name: total for name, total in arrow.totals.items() if "repeated" not in name}
    for name, shards in manifest.splits.items():
        assert sum(shard.rows for shard in shards) == sum(shard.rows for shard in arrow.splits[name])
    assert call("verify", tars).returncode == 0
    assert call("stats", tars).returncode == 0
    shard = next(tars.glob("rank_00001/*.tar"))
    data = shard.read_bytes()
    try:
        shard.write_bytes(data[:2000] + bytes([data[2000] ^ 1]) + data[2001:])
        assert call("verify", tars).returncode != 0
    finally:
        shard.write_bytes(data)


def test_a_store_of_tars_is_not_read_as_shards(tars: Path) -> None:
    with pytest.raises(StoreError, match="webdataset format"):
        ShardDataset(tars)


def test_a_plan_is_no_tar(tokenized: Path, options: Any, tmp_path: Path) -> None:
    config = PackConfig(pack_length=2048, layout="index", format="webdataset")
    with pytest.raises(InputError, match="layout=index"):
        pack(tokenized, config, options(tmp_path / "out"))
