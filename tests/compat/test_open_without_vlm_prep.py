"""Stores open with `datasets` and `pyarrow` in a process that cannot import vlm_prep."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy
import pytest
from PIL import Image

from vlm_prep.media.image import load_rgb
from vlm_prep.shards.manifest import read_manifest
from vlm_prep.shards.reader import Store

OPENER = '''
import sys
sys.modules["vlm_prep"] = None  # importing it raises from here on
import glob, io, json, os
import pyarrow as pa
from PIL import Image, ImageOps
from datasets import load_dataset, load_from_disk

def summary(row, earlier):
    """What is compared: everything but media, whose pixels are looked at."""
    media = row.get("media")
    if isinstance(media, list):
        # a picture that an earlier row of the shard has stands there
        for place, item in enumerate(media):
            if item["same_as"]:
                first = earlier[-item["same_as"]["rows_before"]] if item["same_as"]["rows_before"] else media
                media[place] = {**item, "files": first[item["same_as"]["media"]]["files"]}
    earlier.append(media)
    found = {name: value for name, value in row.items() if name != "media" or isinstance(value, str)}
    if isinstance(media, list):
        data = [file["bytes"] for item in media if item["kind"] == "image" for file in item["files"]]
        found["pixels"] = [thumbnail(each) for each in data]
        found["uris"] = [file["uri"] for item in media for file in item["files"]]
    return found

def summaries(rows):
    earlier = []
    return [summary(row, earlier) for row in rows]

def thumbnail(data):
    picture = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    return list(picture.resize((4, 4)).getdata())

folder, out, *ways = sys.argv[1:]
try:
    import vlm_prep
    sys.exit("vlm_prep can be imported")
except ImportError:
    pass
open_by = {
    "load_from_disk": lambda: load_from_disk(folder),
    "load_dataset": lambda: load_dataset(folder),
    "streaming": lambda: load_dataset(folder, streaming=True),
    "ranks": lambda: load_dataset(folder, "ranks"),
    "ipc": lambda: {
        name: [row for shard in sorted(glob.glob(f"{folder}/{name}/*.arrow"))
               for row in pa.ipc.open_stream(pa.memory_map(shard)).read_all().to_pylist()]
        for name in sorted(os.listdir(folder)) if os.path.isdir(f"{folder}/{name}")
    },
}
found = {
    way: {name: summaries(rows) for name, rows in open_by[way]().items()} for way in ways
}
with open(out, "w") as file:
    json.dump(found, file)
'''


WAYS = ("load_from_disk", "load_dataset", "streaming", "ipc")
Rows = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module", params=["tokenized", "compressed", "packed", "packed_index", "ingested"])
def store(request: pytest.FixtureRequest) -> Path:
    """Each kind of store."""
    folder: Path = request.getfixturevalue(request.param)
    return folder


@pytest.fixture(scope="module")
def by_way(store: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Rows]:
    """The store's rows as each stock tool gives them."""
    return opened(store, tmp_path_factory.mktemp("elsewhere"), *WAYS)


def opened(store: Path, folder: Path, *ways: str) -> dict[str, Rows]:
    """Open a store in a process without vlm_prep whose working directory is `folder`."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf"), "PYTHONSAFEPATH": "1"}
    environment["HF_DATASETS_CACHE"] = str(folder / "cache")
    line = [sys.executable, "-c", OPENER, str(store), str(folder / "rows.json"), *ways]
    result = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr[-3000:]
    rows: dict[str, Rows] = json.loads((folder / "rows.json").read_bytes())
    return rows


def ours(store: Path) -> Rows:
    """Return the rows as our own reader gives them, in the form of `summary`."""
    return {split: [summary(row) for row in Store(store, split=split).rows()] for split in read_manifest(store).splits}


def summary(row: dict[str, Any]) -> dict[str, Any]:
    media = row.get("media")
    found = {name: value for name, value in row.items() if name != "media" or isinstance(value, str)}
    found = {name: value.tolist() if hasattr(value, "tolist") else value for name, value in found.items()}
    if isinstance(media, list):
        data = [file["bytes"] for item in media if item["kind"] == "image" for file in item["files"]]
        found["pixels"] = [thumbnail(load_rgb(bytes(each))) for each in data]
        found["uris"] = [file["uri"] for item in media for file in item["files"]]
    return found


def thumbnail(picture: Image.Image) -> Any:
    return numpy.asarray(picture.resize((4, 4))).reshape(16, 3).tolist()


@pytest.mark.parametrize("way", WAYS)
def test_a_store_opens_with_stock_tools_and_has_our_rows(store: Path, by_way: dict[str, Rows], way: str) -> None:
    rows = ours(store)
    if way in ("load_dataset", "streaming") and all(split.startswith("rank_") for split in rows):
        rows = {"train": [row for split in rows for row in rows[split]]}
    assert by_way[way] == rows


def test_the_ranks_of_a_packed_store_are_a_configuration(packed: Path, tmp_path: Path) -> None:
    assert opened(packed, tmp_path, "ranks")["ranks"] == ours(packed)


def test_a_picture_in_a_shard_is_the_file_itself(tokenized: Path) -> None:
    files = [file for row in Store(tokenized).rows() for item in row["media"] for file in item["files"]]
    for file in files:
        assert hashlib.sha256(file["bytes"]).digest() == hashlib.sha256(Path(file["uri"]).read_bytes()).digest()


def test_opening_does_not_touch_the_store(tokenized: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in tokenized.rglob("*")}
    opened(tokenized, tmp_path, "load_from_disk", "load_dataset")
    assert {path: path.stat().st_mtime_ns for path in tokenized.rglob("*")} == before


def test_a_mapped_dataset_beside_the_shards_does_not_change_what_opens(tokenized: Path, tmp_path: Path) -> None:
    copy = tmp_path / "store"
    shutil.copytree(tokenized, copy)
    # what `load_from_disk(store).map(...)` leaves beside the shards
    shutil.copy(copy / "train" / "data-00000-of-00001.arrow", copy / "train" / "cache-0123456789abcdef.arrow")
    assert len(opened(copy, tmp_path, "load_dataset")["load_dataset"]["train"]) == len(Store(copy))
