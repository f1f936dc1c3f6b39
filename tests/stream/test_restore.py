"""Payload `pixels` in training: stored bytes become the processor's tensors, wherever that is done."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from vlm_prep.core.pack_settings import PackConfig
from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.engine.stage import RunOptions
from vlm_prep.ingest.source import open_samples
from vlm_prep.pack.pack_run import pack
from vlm_prep.processors.payload.stored import CodedTensor
from vlm_prep.shards.reader import Store
from vlm_prep.stream import PackedCollate, PadCollate, ShardDataset, to_pixel_values
from vlm_prep.stream.restore import PIXEL_RULES
from vlm_prep.tokenize.tokenize_run import tokenize

META = Path(__file__).parents[2] / "vlm_prep" / "builtin" / "data" / "meta.json"
PROCESSOR = "builtin:qwen2.5-vl-mini"


def options(out: Path) -> RunOptions:
    return RunOptions(out=out, workers=0, progress=False, say=lambda line: None, max_reject_rate=1.0)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`stores("pixels")`: the built-in rows with a payload; `stores("pixels", packed=True)`: packs of them."""
    root = tmp_path_factory.mktemp("restore")

    @functools.cache
    def store(media: Any, *, packed: bool = False) -> Path:
        if packed:
            packs = root / f"{media}.packs"
            pack(store(media), PackConfig(pack_length=2048), options(packs))
            return packs
        out: Path = root / media
        tokenize(open_samples(str(META)), PROCESSOR, TokenizeConfig(media=media, fps=2.0), options(out))
        return out

    return store


def batches(path: Path, collate: Any, **settings: Any) -> list[dict[str, Any]]:
    dataset = ShardDataset(path, shuffle=False, **settings)
    return list(DataLoader(dataset, batch_size=3, sampler=dataset.sampler(), collate_fn=collate.for_store(dataset)))


@pytest.mark.parametrize(("packed", "collate"), [(False, PadCollate), (True, PackedCollate)])
def test_batches_of_bytes_become_batches_of_encoded_media(stores: Any, packed: bool, collate: Any) -> None:
    plain = batches(stores("encoded", packed=packed), collate)
    floats = batches(stores("pixels", packed=packed), collate)
    coded = batches(stores("pixels", packed=packed), collate, pixels="bytes")
    assert len(plain) == len(floats) == len(coded) > 1
    seen = set()
    for expected, ours, small in zip(plain, floats, coded, strict=True):
        seen |= small.get(PIXEL_RULES, {}).keys()
        for name in small.get(PIXEL_RULES, {}):
            assert small[name + "_uint8"].dtype == torch.uint8
            assert name not in small
        restored = to_pixel_values(small, device="cpu")
        assert expected.keys() == ours.keys() == restored.keys()
        for name, value in expected.items():
            if isinstance(value, torch.Tensor):
                assert ours[name].dtype == restored[name].dtype == value.dtype
                assert torch.equal(ours[name], value), name
                assert torch.equal(restored[name], value), name
    assert seen == {"pixel_values", "pixel_values_videos"}


def test_pictures_take_an_eighth_of_the_floats(stores: Any) -> None:
    dataset = ShardDataset(stores("pixels"), shuffle=False, pixels="bytes")
    stored = floats = 0
    for index in range(len(dataset)):
        value = dataset[index].get("pixel_values")
        if value is not None:
            assert isinstance(value, CodedTensor)
            assert all(not array.flags.writeable for array in value.arrays)
            stored += sum(array.nbytes for array in value.arrays)
            floats += value.restored().numel() * 4
    assert 0 < stored * 8 <= floats


def test_a_dtype_is_cast_after_the_arithmetic_in_float32(stores: Any) -> None:
    coded = batches(stores("pixels"), PadCollate, pixels="bytes")
    batch = next(each for each in coded if "pixel_values" in each.get(PIXEL_RULES, {}))
    exact = to_pixel_values(batch, device="cpu")["pixel_values"]
    half = to_pixel_values(batch, torch.bfloat16, "cpu")["pixel_values"]
    assert half.dtype == torch.bfloat16
    assert torch.equal(half, exact.to(torch.bfloat16))
    plain = next(each for each in batches(stores("encoded"), PadCollate) if "pixel_values" in each)
    assert torch.equal(to_pixel_values(plain, torch.bfloat16, "cpu")["pixel_values"], half)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_the_device_gives_the_same_bits(stores: Any) -> None:
    for batch in batches(stores("pixels"), PadCollate, pixels="bytes"):
        for name in batch.get(PIXEL_RULES, {}):
            ours = to_pixel_values(batch)[name]
            assert ours.is_cuda
            assert torch.equal(ours.cpu(), to_pixel_values(batch, device="cpu")[name])


def test_the_same_picture_of_many_rows_is_stored_once(tmp_path: Path, kit: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"messages": [{"role": "user", "content": f"<image>Question {n}?"}, {"role": "assistant", "content": "Yes."}]}
        for n in range(6)
    ]
    pictures = ["coffee.png", "chelsea.png"]
    for n, row in enumerate(rows):
        row["images"] = [str(kit / "data" / "images" / pictures[n % 2])]
    import orjson

    source = tmp_path / "rows.json"
    source.write_bytes(orjson.dumps(rows))
    for media in ("encoded", "pixels"):
        out = tmp_path / media
        config = TokenizeConfig(media=media, share_media="shard", verify_fraction=1.0)
        tokenize(open_samples(str(source)), PROCESSOR, config, options(out))
        store = Store(out)
        assert store.manifest.totals["media_shared"] == 4
        size = sum(info.bytes for _, info in store.manifest.shards())
        first = [row["media"][0] for row in store.rows()]
        assert size < store.manifest.totals["media_shared_bytes"]
        items = [ShardDataset(out, shuffle=False)[n] for n in range(6)]
        for n in range(6):
            assert first[n]["files"][0]["uri"].endswith(pictures[n % 2])
            assert torch.equal(items[n]["pixel_values"], items[n % 2]["pixel_values"])
            assert np.array_equal(items[n]["image_grid_thw"], items[n % 2]["image_grid_thw"])
