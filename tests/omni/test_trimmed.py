"""Spectrograms that a processor pads to five minutes: stored without the padding, batched as far as they last."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sources import Rows

from vlm_prep.certify.certificate import default_config, take_ids
from vlm_prep.certify.tiny_model import TinyModel
from vlm_prep.core.errors import StoreError
from vlm_prep.core.pack_settings import PackConfig
from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.engine.stage import RunOptions
from vlm_prep.pack.pack_run import pack
from vlm_prep.processors.families.table import adapter_for
from vlm_prep.processors.load import LoadedProcessor
from vlm_prep.processors.payload.stored import array_of, store_array
from vlm_prep.shards.manifest import read_manifest
from vlm_prep.stream import PackedCollate, PadCollate, ShardDataset
from vlm_prep.tokenize.tokenize_run import tokenize

FAMILIES = ("qwen2_5_omni", "qwen3_omni_moe")


@pytest.mark.parametrize("family", FAMILIES)
def test_speech_takes_what_it_lasts_and_trains_the_same(
    family: str,
    folders: Path,
    samples: Rows,
    loaded: Callable[..., LoadedProcessor],
    options: Callable[..., RunOptions],
    tmp_path: Path,
) -> None:
    speech = Rows(tuple(sample for sample in samples.samples if sample.sample_id == "audio"))
    out = tmp_path / "tok"
    config = TokenizeConfig(media="pixels", audio="features", verify_fraction=1.0)
    tokenize(speech, str(folders / family), config, options(out))  # features are compared with the processor's
    whole = ShardDataset(out, shuffle=False)[0]["input_features"]
    if family == "qwen2_5_omni":  # Qwen3-Omni pads to the longest of a row
        assert whole.shape[-1] == 30_000
        assert sum(info.bytes for _, info in read_manifest(out).shards()) < whole.nbytes / 10

    pack(out, PackConfig(pack_length=1500), options(tmp_path / "packed"))
    adapter = adapter_for(loaded(family))
    model_config = default_config(adapter.hf)
    take_ids(model_config, adapter)
    for folder, collater in ((out, PadCollate), (tmp_path / "packed", PackedCollate)):
        rows = ShardDataset(folder, shuffle=False)
        items = [rows[0]] * (2 if collater is PadCollate else 1)
        untrimmed: dict[str, Any] = {"trims": {}}
        trimmed = collater.for_store(rows, counts=False)(items)
        padded = collater.for_store(rows, counts=False, **untrimmed)(items)
        longest = int(padded["feature_attention_mask"].sum(1).max())
        assert trimmed["input_features"].shape[-1] == trimmed["feature_attention_mask"].shape[-1] == longest < 2000
        assert torch.equal(trimmed["input_features"], padded["input_features"][..., :longest])
        model = TinyModel(model_config, padded["input_ids"].flatten().tolist())
        first, second = model.run(trimmed), model.run(padded)
        assert torch.equal(first.logits, second.logits)
        assert torch.equal(first.loss, second.loss)


def test_repeats_at_the_end_of_a_tensor_are_stored_once() -> None:
    ramp = np.pad(np.arange(12, dtype=np.float32).reshape(1, 3, 4), ((0, 0), (0, 0), (0, 90)), mode="edge")
    for array in (ramp, np.zeros((2, 50), np.int64), np.arange(6.0).reshape(2, 3), np.full((1, 2, 1), 4.0)):
        stored = store_array("x", array)
        assert array_of(stored).dtype == array.dtype
        assert np.array_equal(array_of(stored), array)
    assert len(store_array("x", ramp)["data"]) == 4 * 3 * 4
    for shape in ([1, 3, 2, -4], [1, 3, 1 << 28, -4], [1, 3, 94, -5]):
        with pytest.raises(StoreError):
            array_of({**store_array("x", ramp), "shape": shape})
