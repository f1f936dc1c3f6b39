"""Packs of Qwen-Omni rows hold the positions that the real thinkers compute for each document."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from items import as_trained, mrope_of

from vlm_prep.core.pack_settings import PackConfig
from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.engine.stage import RunOptions
from vlm_prep.ingest.source import Samples
from vlm_prep.pack.demands import visual_tokens
from vlm_prep.pack.pack_run import pack
from vlm_prep.pack.positions import Mrope
from vlm_prep.shards.manifest import read_manifest
from vlm_prep.shards.reader import Store
from vlm_prep.stream import PackedCollate, ShardDataset
from vlm_prep.tokenize.tokenize_run import tokenize

FAMILIES = ("qwen2_5_omni", "qwen3_omni_moe")
Options = Callable[..., RunOptions]


@pytest.fixture(scope="module", params=FAMILIES)
def store(
    request: pytest.FixtureRequest, folders: Path, samples: Samples, options: Options, tmp_path_factory: Any
) -> Path:
    """The rows, tokenized, each compared with the real processor."""
    out: Path = tmp_path_factory.mktemp(request.param) / "tok"
    config = TokenizeConfig(media="reference", verify_fraction=1.0)
    manifest = tokenize(samples, str(folders / request.param), config, options(out))
    assert manifest
    assert sum(manifest.proof["rows"].values()) == len(samples)
    return out


@pytest.fixture(scope="module")
def packed(store: Path, options: Options) -> Path:
    """In packs of 1500."""
    out = store.with_name("packed")
    pack(store, PackConfig(pack_length=1500), options(out, max_reject_rate=1.0))
    return out


def test_positions_are_those_of_the_real_model(store: Path, packed: Path, thinker: Callable[[Mrope], Any]) -> None:
    rule = Mrope(**mrope_of(packed))
    model = thinker(rule)
    dataset = ShardDataset(store, shuffle=False)
    documents = {item["sample_id"]: as_trained(item) for item in map(dataset.__getitem__, range(len(dataset)))}
    seen = []
    for each in Store(packed).rows():
        parts = np.split(each["position_ids"], np.cumsum(each["seq_lens"])[:-1], axis=1)
        for name, found in zip(each["sample_ids"], parts, strict=True):
            assert np.array_equal(found, _real(model, documents[name])), name
            assert found.dtype == (np.int32 if rule.scheme == "qwen2_5_omni" else np.float32)
            seen.append(name)
    assert set(seen) == set(documents)


def _real(model: Any, item: dict[str, Any]) -> np.ndarray:
    """What the real model computes of what a trainer gives it."""
    ids = item["input_ids"][None]
    grids = [item[f"{kind}_grid_thw"] for kind in ("image", "video")]
    positions, _ = model.get_rope_index(
        input_ids=ids,
        image_grid_thw=grids[0] if len(grids[0]) else None,
        video_grid_thw=grids[1] if len(grids[1]) else None,
        attention_mask=torch.ones_like(ids),
        audio_seqlens=item["feature_attention_mask"].sum(-1) if "feature_attention_mask" in item else None,
        second_per_grids=item["video_second_per_grid"],
    )
    result: np.ndarray = positions[:, 0].numpy()
    return result


def test_a_batch_keeps_the_positions_and_their_type(packed: Path) -> None:
    dataset = ShardDataset(packed, pixels=False, shuffle=False)
    items = [dataset[index] for index in range(len(dataset))]
    batch = PackedCollate.for_store(dataset)(items)
    wanted = torch.float32 if "qwen3" in dataset.manifest.processor["family"] else torch.int64
    assert batch["position_ids"].dtype == wanted
    for row, item in enumerate(items):
        assert np.array_equal(batch["position_ids"][:, row, : len(item["input_ids"])], item["position_ids"])


def test_an_index_store_gives_the_same_positions(store: Path, packed: Path, options: Options) -> None:
    out = store.with_name("index")
    pack(store, PackConfig(pack_length=1500, layout="index"), options(out, max_reject_rate=1.0))
    both = [ShardDataset(folder, pixels=False, shuffle=False) for folder in (packed, out)]
    for index in range(len(both[0])):
        assert np.array_equal(both[0][index]["position_ids"], both[1][index]["position_ids"])


def test_the_cost_of_a_row_counts_its_audio(store: Path) -> None:
    source = Store(store)
    runtime = source.manifest.processor
    wanted = [int(np.isin(row["input_ids"], runtime["run_ids"]).sum()) for row in source.rows()]
    assert visual_tokens(source).tolist() == wanted
    cost = dict(zip([row["sample_id"] for row in source.rows()], wanted, strict=True))
    assert cost["text"] == 0 < cost["audio"] < cost["all"]


def test_the_rate_may_be_another_and_positions_plain(store: Path, options: Options, tmp_path: Path) -> None:
    for name, settings in {"fast": {"tokens_per_second": 50.0}, "plain": {"positions": "plain"}}.items():
        config = PackConfig(pack_length=1500, **settings)  # type: ignore[arg-type]
        pack(store, config, options(tmp_path / name, max_reject_rate=1.0))
    assert mrope_of(tmp_path / "fast")["tokens_per_second"] == 50
    assert read_manifest(tmp_path / "plain").processor["mrope"] is None
    first = Store(tmp_path / "plain").row(0)
    assert first["position_ids"].tolist() == [i for length in first["seq_lens"] for i in range(length)]
