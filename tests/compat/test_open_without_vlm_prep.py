"""Stores open with `datasets` and `pyarrow` in a process that cannot import vlm_prep."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
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

out, *asked = sys.argv[1:]
try:
    import vlm_prep
    sys.exit("vlm_prep can be imported")
except ImportError:
    pass
open_by = {
    "load_from_disk": load_from_disk,
    "load_dataset": load_dataset,
    "streaming": lambda folder: load_dataset(folder, streaming=True),
    "ranks": lambda folder: load_dataset(folder, "ranks"),
    "ipc": lambda folder: {
        name: [row for shard in sorted(glob.glob(f"{folder}/{name}/*.arrow"))
               for row in pa.ipc.open_stream(pa.memory_map(shard)).read_all().to_pylist()]
        for name in sorted(os.listdir(folder)) if os.path.isdir(f"{folder}/{name}")
    },
}
found = [
    {name: summaries(rows) for name, rows in open_by[way](folder).items()}
    for folder, way in zip(asked[::2], asked[1::2])
]
with open(out, "w") as file:
    json.dump(found, file)
'''


WAYS = ("load_from_disk", "load_dataset", "streaming", "ipc")
STORES = ("tokenized", "compressed", "packed", "packed_index", "ingested")
Rows = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module", params=STORES)
def store(request: pytest.FixtureRequest) -> str:
    """Each kind of store."""
    name: str = request.param
    return name


@dataclass(frozen=True)
class Opened:
    """What stock tools gave in one process, which imports them once for all stores."""

    folders: dict[str, Path]
    rows: dict[tuple[str, str], Rows]
    """By the store's name and the tool's."""
    untouched: bool
    """Whether all stores were afterwards what they had been."""


@pytest.fixture(scope="module")
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Opened:
    """All stores, opened in a process without vlm_prep whose working directory is elsewhere."""
    folder = tmp_path_factory.mktemp("elsewhere")
    folders: dict[str, Path] = {name: request.getfixturevalue(name) for name in STORES}
    folders["mapped"] = Path(shutil.copytree(folders["tokenized"], folder / "mapped"))
    # what `load_from_disk(store).map(...)` leaves beside the shards
    shard = folders["mapped"] / "train" / "data-00000-of-00001.arrow"
    shutil.copy(shard, shard.with_name("cache-0123456789abcdef.arrow"))
    asked = [*itertools.product(STORES, WAYS), ("packed", "ranks"), ("mapped", "load_dataset")]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf"), "PYTHONSAFEPATH": "1"}
    environment["HF_DATASETS_CACHE"] = str(folder / "cache")
    words = [word for name, way in asked for word in (str(folders[name]), way)]
    line = [sys.executable, "-c", OPENER, str(folder / "rows.json"), *words]
    before = times(folders)
    result = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr[-3000:]
    rows = dict(zip(asked, json.loads((folder / "rows.json").read_bytes()), strict=True))
    return Opened(folders, rows, times(folders) == before)


def times(folders: dict[str, Path]) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for folder in folders.values() for path in folder.rglob("*")}


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
def test_a_store_opens_with_stock_tools_and_has_our_rows(store: str, opened: Opened, way: str) -> None:
    rows = ours(opened.folders[store])
    if way in ("load_dataset", "streaming") and all(split.startswith("rank_") for split in rows):
        rows = {"train": [row for split in rows for row in rows[split]]}
    assert opened.rows[store, way] == rows


def test_the_ranks_of_a_packed_store_are_a_configuration(opened: Opened) -> None:
    assert opened.rows["packed", "ranks"] == ours(opened.folders["packed"])


def test_a_picture_in_a_shard_is_the_file_itself(tokenized: Path) -> None:
    files = [file for row in Store(tokenized).rows() for item in row["media"] for file in item["files"]]
    for file in files:
        assert hashlib.sha256(file["bytes"]).digest() == hashlib.sha256(Path(file["uri"]).read_bytes()).digest()


def test_opening_does_not_touch_the_store(opened: Opened) -> None:
    assert opened.untouched


def test_a_mapped_dataset_beside_the_shards_does_not_change_what_opens(opened: Opened) -> None:
    rows = opened.rows["mapped", "load_dataset"]["train"]
    assert len(rows) == len(Store(opened.folders["mapped"]))
