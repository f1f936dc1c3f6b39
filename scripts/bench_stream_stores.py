"""Stores that bench_stream.py reads, each made once, by the shard writer as any other."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from vlm_prep.core.processor_record import ProcessorRecord
from vlm_prep.core.stored_media import stored_media
from vlm_prep.processors.payload.stored import store_array
from vlm_prep.shards.layout import shard_name
from vlm_prep.shards.manifest import Manifest, write_manifest
from vlm_prep.shards.schema import tokenized_schema
from vlm_prep.shards.writer import ShardWriter

OUT = Path("out/bench/stream")
ROW = 3_000_000
PATCH = 600
_CODING = {
    "steps": [["sub", [127.5]], ["div", [127.5]]],
    "channel_axis": None,
    "channel_size": None,
    "repeats": [3, 2],
    "dtype": "float32",
}
PROCESSOR: ProcessorRecord = {
    "family": "raw",
    "level": "formula",
    "pad_token_id": 0,
    "image_token_id": None,
    "video_token_id": None,
    "token_types": {},
    "decoder_start_token_id": None,
    "mrope": None,
    "whole": None,
    "identity": {},
    "parts": {
        "image": {"part_class": "none", "config": {}, "kwargs": {}, "outputs": {"pixel_values": ("pixel_values", 0)}}
    },
    "interleaved": False,
    "tensors": [],
    "sampling_rate": None,
    "payload": {"forms": {"image": {"route": "bytes", "alone": True, "codings": {"pixel_values": _CODING}}}},
}


IDS = [("sample_id", pa.string()), ("input_ids", pa.list_(pa.int32())), ("labels", pa.list_(pa.int32()))]


def raw_store(rows: int) -> Path:
    """Return a store of `rows` rows of 3 MB."""
    draws = np.random.default_rng(1)

    def row(number: int) -> dict[str, Any]:
        ids = np.arange(4, dtype=np.int32)
        data = draws.integers(0, 256, ROW, np.uint8)
        return {"sample_id": f"raw/{number}", "input_ids": ids, "labels": ids, "pixel_bytes": data}

    return _store(f"raw-{rows}", pa.schema([*IDS, ("pixel_bytes", pa.list_(pa.uint8()))]), rows, 64, row, ROW)


def pixel_store(rows: int) -> Path:
    """Return a store whose rows have one picture each, of 3 MB in payload `pixels`."""
    draws = np.random.default_rng(1)

    def row(number: int) -> dict[str, Any]:
        ids = np.arange(4, dtype=np.int32)
        pixels = draws.integers(0, 256, (ROW // PATCH, PATCH), np.uint8)
        tensors = (store_array("pixel_values", pixels, coded=True),)
        media = [stored_media(kind="image", uris=("",), digests=("",), height=1, width=1, tensors=tensors)]
        head = {"sample_id": f"raw/{number}", "dataset": "raw", "input_ids": ids, "labels": ids}
        return {**head, "media": media, "conversation": ""}

    return _store(f"pixels-{rows}", tokenized_schema([]), rows, 64, row, 64)


def tiny_store(shards: int) -> Path:
    """Return a store of shards of 4 rows, written without fsync, which would take minutes."""

    def row(number: int) -> dict[str, Any]:
        ids = np.arange(4, dtype=np.int32) + number
        return {"sample_id": f"tiny/{number}", "input_ids": ids, "labels": ids}

    kept, os.fsync = os.fsync, lambda fd: None
    try:
        return _store(f"tiny-{shards}", pa.schema(IDS), 4 * shards, 4, row, 64)
    finally:
        os.fsync = kept


def _store(
    name: str, schema: pa.Schema, rows: int, per_shard: int, row: Callable[[int], dict[str, Any]], size: int
) -> Path:
    """Write a store of rows of about `size` bytes, unless it is there."""
    folder = OUT / name
    if (folder / "manifest.json").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "train").mkdir(parents=True)
    infos, count = [], -(-rows // per_shard)
    for shard in range(count):
        with ShardWriter(folder / "train" / shard_name(shard, count), schema) as writer:
            for number in range(shard * per_shard, min(rows, (shard + 1) * per_shard)):
                writer.write(row(number), size=size, tokens=4)
            infos.append(writer.commit())
    manifest = Manifest(
        stage="tokenize", config={}, splits={"train": infos}, totals={}, processor=PROCESSOR, fingerprint=name
    )
    write_manifest(folder, manifest)
    return folder
