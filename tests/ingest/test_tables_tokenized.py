"""The same rows with files, with cells (Parquet) and with data: URLs (JSON) become the same tokens and pixels."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from vlm_prep.builtin import builtin_data
from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.ingest.source import open_samples
from vlm_prep.stream import ShardDataset
from vlm_prep.tokenize.tokenize_run import tokenize

PROCESSOR = "builtin:qwen2.5-vl-mini"


def rows() -> list[dict[str, Any]]:
    lines = (builtin_data().parent / "photo_talk.jsonl").read_text().splitlines()
    found = [row for row in map(json.loads, lines) if row.get("images") and not row.get("videos")]
    return [{"messages": row["messages"], "images": row["images"]} for row in found]


def content(path: str) -> bytes:
    return (builtin_data().parent / path).read_bytes()


def as_files(folder: Path) -> Path:
    path = folder / "talk.jsonl"
    path.write_text("\n".join(map(json.dumps, rows())))
    return path


def as_cells(folder: Path) -> Path:
    path = folder / "talk.parquet"
    cells = [row | {"images": [{"bytes": content(each), "path": each} for each in row["images"]]} for row in rows()]
    pq.write_table(pa.Table.from_pylist(cells), path, row_group_size=3)
    return path


def as_data_urls(folder: Path) -> Path:
    path = folder / "talk.json"
    head = "data:image/jpeg;base64,"
    urls = [
        row | {"images": [head + base64.b64encode(content(each)).decode() for each in row["images"]]} for row in rows()
    ]
    path.write_text(json.dumps(urls))
    return path


def store_of(source: Path, out: Path, media: Any, options: Callable[..., Any]) -> ShardDataset:
    samples = open_samples(source, media_dir=str(builtin_data().parent))
    tokenize(samples, PROCESSOR, TokenizeConfig(media=media), options(out))
    return ShardDataset(out)


@pytest.mark.parametrize("media", ["reference", "encoded"])
def test_media_in_rows_train_as_media_in_files(tmp_path: Path, options: Callable[..., Any], media: str) -> None:
    expected = store_of(as_files(tmp_path), tmp_path / "files", media, options)
    assert len(expected) == len(rows()) > 5
    for make in (as_cells, as_data_urls):
        found = store_of(make(tmp_path), tmp_path / make.__name__, media, options)
        assert len(found) == len(expected)
        for number in range(len(expected)):
            one, other = expected[number], found[number]
            assert one.keys() == other.keys()
            for name in ("input_ids", "labels", "image_grid_thw"):
                np.testing.assert_array_equal(one[name], other[name])
            assert torch.equal(torch.as_tensor(one["pixel_values"]), torch.as_tensor(other["pixel_values"]))
