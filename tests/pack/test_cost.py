"""What a row costs is counted from the model's config, as torch counts the operations of its forward."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from vlm_prep.core.errors import InputError
from vlm_prep.pack.cost import CostModel, read_cost
from vlm_prep.processors.model_cost import model_cost
from vlm_prep.processors.torchvision_cpu import ensure_torchvision

SMALL: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 500,
    "head_dim": 32,
}
MROPE = {"rope_parameters": {"rope_type": "default", "mrope_section": [4, 6, 6], "rope_theta": 1e4}}
EXPERTS = {"moe_intermediate_size": 64, "num_experts": 8, "num_experts_per_tok": 2, "decoder_sparse_step": 1}
VISION = {"depth": 2, "hidden_size": 64, "intermediate_size": 128, "num_heads": 2, "out_hidden_size": 128}


def config(name: str, text: dict[str, Any], vision: dict[str, Any], **more: Any) -> Any:
    ensure_torchvision()
    from transformers import CONFIG_MAPPING

    return CONFIG_MAPPING[name](text_config={**SMALL, **text}, vision_config=vision, **more)


@pytest.mark.parametrize(
    "made",
    [
        lambda: config("qwen2_5_vl", MROPE, VISION, tie_word_embeddings=True),
        lambda: config("qwen3_vl", MROPE, {**VISION, "deepstack_visual_indexes": [0]}, tie_word_embeddings=False),
        lambda: config("qwen3_vl_moe", {**MROPE, **EXPERTS}, {**VISION, "deepstack_visual_indexes": [0]}),
    ],
)
def test_a_token_costs_what_torch_counts(made: Any) -> None:
    """Of rows of text: their operations are a constant, and one for each token and each pair of tokens."""
    from transformers import AutoModelForImageTextToText

    found = made()
    counted = model_cost(found.to_dict())
    assert counted is not None
    model = AutoModelForImageTextToText.from_config(
        found, attn_implementation="eager", experts_implementation="eager"
    ).eval()
    flops = []
    for tokens in (64, 128, 256):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(input_ids=torch.randint(10, 400, (1, tokens)), use_cache=False)
        flops.append(counter.get_total_flops())
    square = (flops[2] - 2 * flops[1] - (flops[1] - 2 * flops[0]) * 2) / (
        256**2 - 2 * 128**2 - 2 * (128**2 - 2 * 64**2)
    )
    linear = (flops[2] - flops[1] - square * (256**2 - 128**2)) / 128
    # torch counts the whole square, of which a causal kernel computes half
    assert counted["attention"] == pytest.approx(square / 2 / linear, rel=0.02)


@pytest.mark.parametrize("merge", [1, 2])
def test_a_patch_costs_what_torch_counts(merge: int) -> None:
    found = config("qwen2_5_vl", MROPE, {**VISION, "spatial_merge_size": merge, "fullatt_block_indexes": [1]})
    from transformers import AutoModelForImageTextToText

    counted = model_cost(found.to_dict())
    assert counted is not None
    model = AutoModelForImageTextToText.from_config(found).eval()
    grid = torch.tensor([[1, 16, 16]])
    size = 3 * 2 * found.vision_config.patch_size**2
    with FlopCounterMode(display=False) as tower, torch.no_grad():
        model.model.visual(torch.randn(256, size), grid_thw=grid)
    with FlopCounterMode(display=False) as text, torch.no_grad():
        model(input_ids=torch.randint(10, 400, (1, 1)), use_cache=False)
    assert counted["vision"] == pytest.approx(tower.get_total_flops() / 256 / text.get_total_flops(), rel=0.1)


def test_where_coefficients_are_from() -> None:
    assert read_cost(None) == (CostModel(), "Qwen2.5-VL-7B, since the model is not known")
    assert read_cost("attention=1e-4,vision=0.5") == (CostModel(attention=1e-4, vision=0.5), "given")
    preset, source = read_cost("qwen3-vl-8b, vision=0.2")
    assert (preset.attention, preset.vision, source) == (1.948e-05, 0.2, "qwen3-vl-8b; given: vision")
    model = config("qwen2_5_vl", MROPE, VISION).to_dict()
    found, source = read_cost(None, model)
    assert source == "counted from the config of qwen2_5_vl"
    assert found.attention > 10 * CostModel().attention
    assert read_cost(None, {"model_type": "of nobody"})[0] == CostModel()
    for text in ("qwen9", "attention=-1", "vision=x", "qwen3-vl-8b=1"):
        with pytest.raises(InputError, match="or the name of a model"):
            read_cost(text)
