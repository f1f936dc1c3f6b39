"""Small stores, written with the shard writer itself, and the kit of real processors where it is present."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import pyarrow as pa
import pytest
from stream.cached import Sent

from vlm_prep.core.processor_record import ProcessorRecord, TensorRecord
from vlm_prep.pack.assemble import assemble_pack
from vlm_prep.shards.layout import shard_name
from vlm_prep.shards.manifest import Manifest, write_manifest
from vlm_prep.shards.schema import packed_schema, plan_schema, tokenized_schema
from vlm_prep.shards.shard_info import ShardInfo
from vlm_prep.shards.transfer import push
from vlm_prep.shards.writer import ShardWriter

KIT = Path(__file__).resolve().parents[3] / "shared" / "kit"
FAMILIES = ("qwen2_5_vl", "qwen2_vl", "qwen3_vl")
TENSORS: list[TensorRecord] = [
    {"name": "image_grid_thw", "kind": "image", "dtype": "int64", "shape": [3]},
    {"name": "video_grid_thw", "kind": "video", "dtype": "int64", "shape": [3]},
    {"name": "second_per_grid_ts", "kind": "video", "dtype": "float32", "shape": []},
]
GEOMETRY = [tensor["name"] for tensor in TENSORS]
RUNTIME: dict[str, Any] = {
    "family": "none",
    "identity": {},
    "parts": {},
    "interleaved": False,
    "whole": None,
    "tensors": TENSORS,
    "sampling_rate": None,
    "token_types": {"image": [91], "video": [92]},
    "decoder_start_token_id": None,
    "pad_token_id": 0,
    "image_token_id": 91,
    "video_token_id": 92,
    "mrope": None,
}


def sample(number: int, length: int | None = None, **columns: Any) -> dict[str, Any]:
    """A row of a tokenized store; its ids begin with 100 * number."""
    ids = np.arange(100 * number, 100 * number + (length or number % 4 + 2), dtype=np.int32)
    labels = ids.copy()
    labels[0] = -100
    empty = {"image_grid_thw": np.empty((0, 3), np.int32), "video_grid_thw": np.empty((0, 3), np.int32)}
    return {
        "sample_id": f"demo/{number}",
        "dataset": "demo",
        "input_ids": ids,
        "labels": labels,
        **empty,
        "second_per_grid_ts": np.empty(0, np.float32),
        "media": [],
        "conversation": "{}",
        **columns,
    }


def write_split(
    folder: Path, split: str, schema: pa.Schema, rows: Sequence[dict[str, Any]], shards: int
) -> list[ShardInfo]:
    """Write rows into `shards` shards of about equal size."""
    (folder / split).mkdir(parents=True)
    infos = []
    for index, part in enumerate(np.array_split(np.arange(len(rows)), shards)):
        with ShardWriter(folder / split / shard_name(index, shards), schema) as writer:
            for number in part:
                writer.write(rows[number], size=64, tokens=len(rows[number].get("input_ids", ())))
            infos.append(writer.commit())
    return infos


@dataclass
class Stores:
    """Makes stores in a folder."""

    folder: Path
    runtime: ClassVar[dict[str, Any]] = RUNTIME

    def tokenized(
        self,
        rows: int | Sequence[dict[str, Any]],
        *,
        name: str = "tok",
        shards: int = 2,
        fingerprint: str = "xxh3:tok",
        runtime: dict[str, Any] = RUNTIME,
    ) -> Path:
        """A tokenized store."""
        rows = [sample(number) for number in range(rows)] if isinstance(rows, int) else rows
        infos = write_split(self.folder / name, "train", tokenized_schema(TENSORS), rows, shards)
        return self.finish(name, "tokenize", fingerprint, {"train": infos}, runtime=runtime)

    def ranks(self, packs: int, world: int, *, name: str = "packed") -> Path:
        """A packed store with a folder for each rank; pack p is samples 2p and 2p + 1."""
        rows = [self._pack(number) for number in range(packs)]
        schema = packed_schema(TENSORS, positions="plain")
        splits = {}
        for rank in range(world):
            if mine := rows[rank::world]:
                splits[f"rank_{rank:05d}"] = write_split(self.folder / name, f"rank_{rank:05d}", schema, mine, 1)
        return self.finish(name, "pack", "xxh3:packed", splits, {"world_size": world}, {"layout": "ranks"})

    def index(self, packs: int, world: int, source: Path, *, source_fingerprint: str = "xxh3:tok") -> Path:
        """A packed store that names the rows of `source`: pack p is rows 2p and 2p + 1."""
        rows = [
            {"pack_id": number, "rank": number % world, "rows": np.array([2 * number, 2 * number + 1])}
            for number in range(packs)
        ]
        splits = {"plan": write_split(self.folder / "index", "plan", plan_schema(), rows, 1)}
        extra = {"layout": "index", "source": f"../{source.name}", "source_fingerprint": source_fingerprint}
        return self.finish("index", "pack", "xxh3:index", splits, {"world_size": world}, extra)

    def finish(
        self,
        name: str,
        stage: str,
        fingerprint: str,
        splits: dict[str, list[ShardInfo]],
        config: dict[str, Any] | None = None,
        extra: dict[str, Any] | None = None,
        runtime: dict[str, Any] = RUNTIME,
    ) -> Path:
        """Write the manifest."""
        manifest = Manifest(
            stage=stage,
            fingerprint=fingerprint,
            config=config or {},
            splits=splits,
            totals={},
            processor=cast(ProcessorRecord, runtime),
            extra=extra or {},
        )
        write_manifest(self.folder / name, manifest)
        return self.folder / name

    @staticmethod
    def _pack(number: int) -> dict[str, Any]:
        return assemble_pack([sample(2 * number), sample(2 * number + 1)], number, None, GEOMETRY)


@pytest.fixture
def stores(tmp_path: Path) -> Stores:
    """A maker of stores in the test's own folder."""
    return Stores(tmp_path)


@pytest.fixture
def make_sample() -> Callable[..., dict[str, Any]]:
    """Makes rows of tokenized stores, see `sample`."""
    return sample


@pytest.fixture(scope="session")
def kit() -> Path:
    """The folder of real processors and samples; skips where it is absent."""
    if not KIT.is_dir():
        pytest.skip("needs the kit of real processors and samples at ../shared/kit")
    return KIT


@pytest.fixture(scope="session")
def processors_dir(kit: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a processor folder for each of FAMILIES."""
    out = tmp_path_factory.mktemp("processors")
    command = [sys.executable, str(kit / "processors" / "assemble.py"), str(out), *FAMILIES]
    subprocess.run(command, check=True, capture_output=True)
    return out


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "shards"


@pytest.fixture
def sent(stores: Any, bucket: str) -> Sent:
    """`sent(rows, shards=...)`: a tokenized store in a folder, and on the object store."""

    def send(rows: Any, **settings: Any) -> tuple[Path, str]:
        path = stores.tokenized(rows, **settings)
        push(path, f"{bucket}/{path.name}", print)
        return path, f"{bucket}/{path.name}"

    return send
