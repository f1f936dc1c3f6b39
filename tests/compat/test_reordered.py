"""Rows of a store that other libraries shuffle, sort and select keep their media; no vlm_prep in the process."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vlm_prep.builtin import builtin_data
from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.ingest.source import open_samples
from vlm_prep.shards.manifest import read_manifest
from vlm_prep.shards.reader import Store
from vlm_prep.tokenize.tokenize_run import tokenize

ROOT = Path(__file__).resolve().parents[2]
READERS = ROOT / ".venv-trainers-readers" / "bin" / "python"
"""With polars and duckdb: `make test-trainers`."""
READ = """
import sys
sys.modules["vlm_prep"] = None  # importing it raises from here on
import glob, hashlib, json
import pyarrow as pa

folder, out, *ways = sys.argv[1:]

def table():
    return pa.concat_tables(
        pa.ipc.open_stream(pa.memory_map(shard)).read_all() for shard in sorted(glob.glob(f"{folder}/*/data-*.arrow"))
    )

def saved():
    from datasets import concatenate_datasets, load_from_disk
    return concatenate_datasets(list(load_from_disk(folder).values()))

def pandas():
    frame = table().to_pandas().sample(frac=1.0, random_state=3)
    return frame[["media"]].to_dict("records")

def polars():
    import polars
    return polars.from_arrow(table()).sample(fraction=1.0, shuffle=True, seed=3).select("media").to_dicts()

def polars_stream():
    import polars
    shards = sorted(glob.glob(f"{folder}/*/data-*.arrow"))
    rows = polars.concat(polars.read_ipc_stream(shard) for shard in shards)
    return rows.sort(polars.col("input_ids").list.len()).select("media").to_dicts()

def duckdb():
    import duckdb
    rows = table()
    return duckdb.sql("select media from rows order by len(input_ids), md5(labels::text)").to_arrow_table().to_pylist()

def dataset():
    import pyarrow.dataset as ds
    rows = ds.dataset(table())
    return rows.take(list(range(rows.count_rows()))[::-1], columns=["media"]).to_pylist()

by_way = {
    "datasets": lambda: saved().shuffle(seed=3),
    "select": lambda: saved().select(range(len(saved()) - 1, -1, -1)),
    "sort": lambda: saved().map(lambda row: {"n": len(row["input_ids"])}, keep_in_memory=True).sort("n"),
    "split": lambda: (row for part in saved().train_test_split(test_size=0.5, seed=3).values() for row in part),
    "iterable": lambda: saved().to_iterable_dataset(num_shards=2).shuffle(seed=3, buffer_size=7),
    "pandas": pandas, "pyarrow.dataset": dataset,
    "polars": polars, "polars stream": polars_stream, "duckdb": duckdb,
}
found = {}
for way in ways:
    files = [
        [file["digest"], file["bytes"] and hashlib.sha256(file["bytes"]).hexdigest(), item["same_as"] is not None]
        for row in by_way[way]() for item in row["media"] for file in item["files"]
    ]
    found[way] = files
with open(out, "w") as file:
    json.dump(found, file)
"""
WAYS = ("datasets", "select", "sort", "split", "iterable", "pandas", "pyarrow.dataset")
Files = dict[str, list[tuple[str, str | None, bool]]]


def read(store: Path, folder: Path, *ways: str, python: Path | str = sys.executable) -> Files:
    """Return (digest in the store, sha256 of the bytes, whether `same_as` is set) of each file, by way.

    The store is copied first: `datasets` leaves cache-*.arrow beside the shards that it maps.
    """
    store = Path(shutil.copytree(store, folder / "copied", dirs_exist_ok=True))
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf"), "PYTHONSAFEPATH": "1"}
    line = [str(python), "-c", READ, str(store), str(folder / "files.json"), *ways]
    done = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: Files = json.loads((folder / "files.json").read_bytes())
    return found


def contents(store: Path) -> list[str]:
    """Return the sha256 of each file of each row, sorted."""
    splits = read_manifest(store).splits
    rows = [row for split in splits for row in Store(store, split=split).rows()]
    files = [file for row in rows for item in row["media"] for file in item["files"]]
    return sorted(hashlib.sha256(bytes(file["bytes"])).hexdigest() for file in files)


@pytest.mark.parametrize("name", ["tokenized", "packed", "compressed_packs"])
def test_each_row_keeps_its_media_whoever_reorders_the_rows(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    store = request.getfixturevalue(name)
    whole = contents(store)
    assert len(set(whole)) < len(whole)  # several rows have one picture
    for way, files in read(store, tmp_path, *WAYS).items():
        assert sorted(str(content) for _, content, _ in files) == whole, way


@pytest.mark.parametrize("name", ["tokenized", "packed", "compressed", "compressed_packs"])
def test_the_same_with_polars_and_duckdb(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    if not READERS.exists():
        pytest.skip("polars and duckdb are not installed: `make test-trainers`")
    store = request.getfixturevalue(name)
    found = read(store, tmp_path, "polars", "polars stream", "duckdb", python=READERS)
    for way, files in found.items():
        assert sorted(str(content) for _, content, _ in files) == contents(store), way


def test_a_store_that_shares_says_so_first_and_each_cell_can_be_filled(options: Any, tmp_path: Path) -> None:
    out = tmp_path / "tok"
    config = TokenizeConfig(share_media="shard", verify_fraction=0.0)
    samples = open_samples(builtin_data(), datasets=["photo_talk"])
    tokenize(samples, "builtin:qwen2.5-vl-mini", config, options(out))
    shared = read_manifest(out).totals["media_shared"]
    card = (out / "README.md").read_text().split("\n# ")[1]
    assert card.split("\n\n")[1].startswith(f"**Of {shared:,} media the bytes stand with an earlier row")
    files = read(out, tmp_path, "datasets")["datasets"]
    absent = [digest for digest, content, _ in files if content is None]
    assert len(absent) == shared > 0
    assert all(pointed == (content is None) for _, content, pointed in files)
    by_digest = {digest: content for digest, content, _ in files if content is not None}
    assert sorted(content or str(by_digest[digest]) for digest, content, _ in files) == contents(out)


@pytest.mark.parametrize("name", ["tokenized", "packed"])
def test_lance_holds_every_row_with_its_media(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    if not READERS.exists():
        pytest.skip("Lance is not installed: `make test-trainers`")
    store = request.getfixturevalue(name)
    script = (
        "import sys, json, lance; from vlm_prep.trainers.exporting import export; from pathlib import Path;"
        "print(export(sys.argv[1], 'lance', Path(sys.argv[2])).rows);"
        "rows = lance.dataset(sys.argv[2]); taken = rows.take(list(range(rows.count_rows()))[::-1]).to_pylist();"
        "json.dump([[r['input_ids'], [f['bytes'].hex() for m in r['media'] for f in m['files']]] for r in taken],"
        " open(sys.argv[3], 'w'))"
    )
    line = [str(READERS), "-c", script, str(store), str(tmp_path / "lance"), str(tmp_path / "rows.json")]
    done = subprocess.run(
        line, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [row for split in read_manifest(store).splits for row in Store(store, split=split).rows()]
    assert json.loads((tmp_path / "rows.json").read_bytes())[::-1] == [
        [row["input_ids"].tolist(), [bytes(file["bytes"]).hex() for item in row["media"] for file in item["files"]]]
        for row in rows
    ]
    assert not list((tmp_path / "lance").glob("*.arrow"))
