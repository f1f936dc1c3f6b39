"""Tars by webdataset's own loader give the items, and train the batches, that Arrow shards of the same packs do."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from vlm_prep.core.errors import StoreError
from vlm_prep.core.pack_settings import PackConfig
from vlm_prep.core.settings import MediaMode
from vlm_prep.pack.pack_run import pack
from vlm_prep.stream import PackedCollate, ShardDataset, TarItems

webdataset = pytest.importorskip("webdataset")


def tars(folder: Path, rank: str = "*") -> list[str]:
    return sorted(str(path) for path in folder.glob(f"rank_{rank}/*.tar"))


@pytest.mark.parametrize(
    "settings", [{}, {"tar_media": "separate"}, {"media": "pixels"}, {"tar_media": "separate", "media": "pixels"}]
)
@pytest.mark.parametrize("decoded", [False, True])
def test_items_are_those_of_arrow_shards(
    tokenized: Path, packed: Path, options: Any, tmp_path: Path, settings: dict[str, Any], decoded: bool
) -> None:
    out = tmp_path / "tars"
    pack(tokenized, PackConfig(pack_length=2048, world_size=2, format="webdataset", **settings), options(out))
    items = pickle.loads(pickle.dumps(TarItems(out)))  # as a loader's worker gets it
    rows = webdataset.WebDataset(tars(out), shardshuffle=False)
    rows = rows.decode(only=["npy", "json"]) if decoded else rows
    found = {tuple(item["sample_ids"]): item for item in rows.map(items)}
    expected = list(ShardDataset(packed, shuffle=False))
    assert len(found) == len(expected)
    for ours in expected:
        theirs = found[tuple(ours["sample_ids"])]
        assert theirs.keys() >= ours.keys()
        for name, value in ours.items():
            if hasattr(value, "shape"):
                assert np.array_equal(np.asarray(theirs[name]), np.asarray(value)), name
            else:
                assert list(theirs[name]) == list(value) if name == "sample_ids" else theirs[name] == value


def test_two_nodes_with_workers_read_each_its_ranks_packs(
    tokenized: Path, packed: Path, options: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "tars"
    monkeypatch.setattr("vlm_prep.pack.pack_job.SHARD_BYTES", 1)  # a tar for each pack
    pack(tokenized, PackConfig(pack_length=2048, world_size=2, format="webdataset"), options(out))
    items, plain = TarItems(out), ShardDataset(packed, shuffle=False)
    expected = PackedCollate.for_store(plain, mask="sdpa")
    by_rank = [ShardDataset(packed, rank=rank, world_size=2, shuffle=False) for rank in range(2)]
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        assert len(items.urls(rank)) > 2
        rows = webdataset.WebDataset(items.urls(rank), shardshuffle=False, nodesplitter=None).map(items)
        loader = DataLoader(rows, batch_size=1, num_workers=2, collate_fn=items.collate(mask="sdpa"))
        batches = list(loader)
        assert len(batches) == len(by_rank[rank]) >= items.steps
        for batch, item in zip(batches, by_rank[rank], strict=True):
            made = expected([item])
            assert batch.keys() == made.keys()
            assert all(torch.equal(batch[name], made[name]) for name in made if isinstance(made[name], torch.Tensor))


@pytest.mark.parametrize("how", ["planned", "webdataset"])
def test_two_nodes_of_two_workers_read_each_pack_once(
    tokenized: Path, packed: Path, options: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """In processes of their own, with webdataset's splitters of nodes and of workers."""
    out = tmp_path / "tars"
    monkeypatch.setattr("vlm_prep.pack.pack_job.SHARD_BYTES", 1)  # a tar for each pack
    pack(tokenized, PackConfig(pack_length=2048, world_size=2, format="webdataset"), options(out))
    line = [sys.executable, str(Path(__file__).with_name("tar_node.py")), str(out), how, "2"]
    nodes = [
        subprocess.Popen(line, stdout=subprocess.PIPE, env={**os.environ, "RANK": str(rank), "WORLD_SIZE": "2"})
        for rank in range(2)
    ]
    read = [json.loads(node.communicate()[0]) for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0]
    for rank in range(2):
        planned = ShardDataset(packed, rank=rank, world_size=2, shuffle=False, pixels=False)
        assert read[rank] == [list(item["sample_ids"]) for item in planned]


def test_tars_that_do_not_go_round_are_refused_all_at_once(tokenized: Path, options: Any, tmp_path: Path) -> None:
    out = tmp_path / "tars"
    pack(tokenized, PackConfig(pack_length=2048, world_size=2, format="webdataset"), options(out))
    items = TarItems(out)
    assert items.urls() == [*items.urls(0), *items.urls(1)]
    first, second = (f"rank_{rank:05d}" for rank in range(2))
    items.manifest.splits[second] = [*items.manifest.splits[second], *items.manifest.splits[first]]
    with pytest.raises(StoreError, match="ranks have 1, 2 tars"):
        items.urls()


def test_stock_decoders_read_every_member(tokenized: Path, options: Any, tmp_path: Path) -> None:
    """Pictures as pictures, tensors as arrays, and what they are and when frames are shown as JSON."""
    kinds: dict[MediaMode, type] = {"encoded": Image.Image, "pixels": np.ndarray}
    for media, kind in kinds.items():
        out = tmp_path / media
        config = PackConfig(pack_length=2048, format="webdataset", tar_media="separate", media=media)
        pack(tokenized, config, options(out))
        seen = set()
        for sample in webdataset.WebDataset(tars(out), shardshuffle=False).decode("pil"):
            for about in sample["media.json"]:
                fields = [name for n in about["fields"] for name in sample if name.startswith(f"media.{n}.")]
                seen.add(about["kind"])
                if about["kind"] == "image":
                    assert isinstance(sample[fields[-1]], kind)
                else:
                    assert len(about["times"]) == len(about["frame_indices"])
                    assert about["times"][1] == pytest.approx(about["frame_indices"][1] / about["fps"])
        assert seen == {"image", "video"}


def test_what_is_no_sample_of_the_tars_is_said(tokenized: Path, packed: Path, options: Any, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="holds Arrow shards"):
        TarItems(packed)
    out = tmp_path / "tars"
    pack(tokenized, PackConfig(pack_length=2048, format="webdataset"), options(out))
    items = TarItems(out)
    samples = list(webdataset.WebDataset(tars(out), shardshuffle=False))
    sample = next(each for each in samples if each["media.bin"])
    for changed, words in (
        ({**sample, "media.bin": sample["media.bin"][:-1]}, "not its file's bytes"),
        ({name: value for name, value in sample.items() if name != "json"}, "KeyError"),
    ):
        with pytest.raises(StoreError, match=words):
            items(changed)
