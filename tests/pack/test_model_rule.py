"""Packs count positions as the model itself does, for every mRoPE model of transformers."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
import torch

from vlm_prep.certify.tiny_model import TinyModel
from vlm_prep.core.processor_record import ProcessorRecord
from vlm_prep.pack.model_rule import ModelRule, model_with_positions
from vlm_prep.processors.backbone import config_json
from vlm_prep.processors.torchvision_cpu import ensure_torchvision

IMAGE, VIDEO = 90, 91
MODELS = (
    "cosmos3_edge", "cosmos3_omni", "ernie4_5_vl_moe", "glm46v", "glm4v", "glm4v_moe", "glm_ocr",
    "hunyuan_vl", "paddleocr_vl", "qwen2_vl", "qwen2_5_vl", "qwen3_5", "qwen3_5_moe", "qwen3_vl", "qwen3_vl_moe",
    "qwen4_exp",
)  # fmt: skip
NOT_RUN = ("hunyuan_vl", "qwen4_exp")
"""Models that transformers' default config of them does not build."""
RUNTIME = cast(
    ProcessorRecord,
    {
        "tensors": [{"name": "image_grid_thw", "dtype": "int64"}],
        "token_types": {"image": [IMAGE], "video": [VIDEO]},
    },
)
"""What positions need of a processor's record."""


def config_of(name: str) -> Any:
    ensure_torchvision()
    from transformers import CONFIG_MAPPING

    config = CONFIG_MAPPING[name]()
    if name == "hunyuan_vl":  # whose default has no axes
        rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [16, 16, 16, 16]}
        config.text_config.rope_parameters, config.text_config.head_dim = rope, 128
    if name == "ernie4_5_vl_moe":  # whose default has none of its published sections
        config.text_config.rope_parameters["mrope_section"] = [22, 22, 20]
    return config


def document(merge: int, *grids: tuple[int, int, int], lines: bool = False) -> dict[str, Any]:
    """Text, each picture (with a token at the end of each of its lines), and text again."""
    ids = [5, 6, 7]
    for steps, height, width in grids:
        ids += [IMAGE] * (steps * (height // merge) * (width // merge + lines)) + [8, 9]
    return {"input_ids": np.asarray(ids, np.int32), "image_grid_thw": np.asarray(grids, np.int32), "media": []}


@pytest.mark.parametrize("name", MODELS)
def test_positions_are_those_of_a_model_with_layers(name: str) -> None:
    config = config_of(name)
    found = model_with_positions(config_json(config))
    assert found is not None
    cls, own = found
    for part in (own.get_text_config(), own.vision_config):
        for layers in ("num_hidden_layers", "depth"):
            if hasattr(part, layers):
                setattr(part, layers, 1)
    text = own.get_text_config()
    for per_layer in ("layer_types", "mlp_layer_types"):
        if getattr(text, per_layer, None):
            setattr(text, per_layer, getattr(text, per_layer)[:1])
    with torch.device("meta"):
        model = cls._from_config(own)
    merge = own.vision_config.spatial_merge_size
    row = document(merge, (1, 2 * merge, 3 * merge), (1, merge, merge), lines=name == "hunyuan_vl")
    ids = torch.from_numpy(row["input_ids"].astype(np.int64))[None]
    expected = model.get_rope_index(
        input_ids=ids,
        mm_token_type_ids=(ids == IMAGE).long(),
        image_grid_thw=torch.from_numpy(row["image_grid_thw"].astype(np.int64)),
        attention_mask=torch.ones_like(ids),
    )[0][:, 0]
    made = ModelRule(config_json(config), RUNTIME).positions(row)
    assert made.dtype == np.int32
    assert np.array_equal(made, expected.numpy())
    assert (made != np.arange(len(row["input_ids"]))).any()  # a picture does not count like text


def pixels(config: Any, name: str, patches: int) -> torch.Tensor:
    vision = config.vision_config
    side: int = vision.patch_size
    channels: int = getattr(vision, "in_channels", 0) or getattr(vision, "num_channels", 3)
    draws = torch.Generator().manual_seed(0)
    if name == "paddleocr_vl":
        return torch.randn(patches, channels, side, side, generator=draws)
    steps = getattr(vision, "temporal_patch_size", 1) if name not in ("ernie4_5_vl_moe", "hunyuan_vl") else 1
    return torch.randn(patches, channels * steps * side * side, generator=draws)


@pytest.mark.parametrize("name", [name for name in MODELS if name not in NOT_RUN])
def test_a_model_without_positions_computes_what_it_does_with_ours(name: str) -> None:
    """Its own forward counts them then: nothing of the rule is on both sides."""
    config = config_of(name)
    config.image_token_id, config.video_token_id = IMAGE, VIDEO
    merge = config.vision_config.spatial_merge_size
    row = document(merge, (1, 2 * merge, 3 * merge), (1, 2 * merge, 2 * merge), lines=False)
    row["input_ids"] = np.concatenate([row["input_ids"], np.arange(10, 20, dtype=np.int32)])
    positions = ModelRule(config_json(config), RUNTIME).positions(row)
    model = TinyModel(config, row["input_ids"].tolist())
    ids = torch.from_numpy(row["input_ids"].astype(np.int64))[None]
    grids = torch.from_numpy(row["image_grid_thw"].astype(np.int64))
    batch = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == IMAGE).long(),
        "image_grid_thw": grids,
        "pixel_values": pixels(config, name, int(grids.prod(1).sum())),
    }
    if name == "ernie4_5_vl_moe":
        batch["moe_mm_token_type_ids"] = batch["mm_token_type_ids"]
    own = model.run(batch).logits
    ours = model.run({**batch, "position_ids": torch.from_numpy(positions.astype(np.int64))[:, None]}).logits
    plain = torch.arange(ids.shape[1]).expand(len(positions), 1, -1)
    assert torch.allclose(own, ours, atol=1e-5)
    assert not torch.allclose(own, model.run({**batch, "position_ids": plain}).logits, atol=1e-5)


@pytest.mark.parametrize("name", ["qwen3_5", "glm4v", "hunyuan_vl"])
def test_text_alone_counts_up_on_every_axis(name: str) -> None:
    row = {"input_ids": np.arange(4, dtype=np.int32), "image_grid_thw": np.empty((0, 3), np.int32), "media": []}
    made = ModelRule(config_json(config_of(name)), RUNTIME).positions(row)
    assert (made == np.arange(4)).all()


def test_models_without_such_a_function_have_no_rule_of_their_own() -> None:
    assert model_with_positions(config_json(config_of("llava_onevision"))) is None
    assert model_with_positions({"model_type": "nobody_knows"}) is None
