"""Documents of a pack do not see each other in whichever language model a composite one holds: in each form that the
collater hands out, for models of every way to attend.

A composite model (LLaVA's) takes any of transformers' language models. Each is made tiny, with its blocks and windows
short enough to be felt, and documents packed are compared with each alone.
"""

from __future__ import annotations

import itertools
from typing import Any, get_args

import numpy as np
import pytest
import torch

from vlm_prep.certify.tiny_model import TinyModel
from vlm_prep.core.errors import InputError
from vlm_prep.processors.backbone import backbone_of, config_json
from vlm_prep.processors.model_config import config_of
from vlm_prep.stream import PackedCollate
from vlm_prep.stream.forms import Mask, problem

LENGTHS = (61, 75, 37, 90)
EDGES = [0, *np.cumsum(LENGTHS).tolist()]
TOWER = {"model_type": "clip_vision_model", "image_size": 56, "patch_size": 14, "num_hidden_layers": 2}
PLAIN: tuple[Mask, ...] = ("sdpa", "positions", "varlen")
MODELS: dict[str, tuple[Mask, ...]] = {
    "afmoe": ("sdpa", "varlen"),
    "axk2": ("sdpa", "positions"),
    "cohere2": PLAIN,
    "deepseek_v3": PLAIN,
    "deepseek_v32": ("sdpa", "positions"),
    "exaone4": PLAIN,
    "flint": PLAIN,
    "gemma2": PLAIN,
    "glm4_moe": PLAIN,
    "gpt_oss": ("sdpa", "varlen"),
    "granite_swa": PLAIN,
    "hy_v4": ("sdpa", "positions"),
    "llama": PLAIN,
    "mimo_v2_flash": PLAIN,
    "minimax_m2": PLAIN,
    "mistral": PLAIN,
    "olmo3": PLAIN,
    "phi3": PLAIN,
    "qwen3_moe": PLAIN,
    "qwen4_exp_text": ("sdpa", "positions"),
    "smollm3": PLAIN,
    "stablelm": ("sdpa", "positions"),
}
"""{language model: the forms that it reads}"""
EAGER = ("flint", "gemma2", "gpt_oss", "granite_swa", "hy_v4", "mimo_v2_flash")
"""Those which add a mask to their scores: transformers does not run them with sdpa."""


SETTINGS: dict[str, dict[str, Any]] = {
    "qwen4_exp_text": {
        "indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 256, "indexer_budget": 16,
        "indexer_compress_ratio": 4, "layer_types": ["indexed_attention"] * 4, "num_hidden_layers": 4,
    },
}  # fmt: skip


def composite(name: str, **settings: Any) -> Any:
    text = config_json(config_of({"model_type": name, **settings}))
    return config_of({"model_type": "llava", "text_config": text, "vision_config": TOWER, "image_token_index": 5})


def pack() -> dict[str, Any]:
    ids = np.random.default_rng(0).integers(6, 60, EDGES[-1]).astype(np.int32)
    positions = np.concatenate([np.arange(length) for length in LENGTHS]).astype(np.int32)
    names = [str(number) for number in range(len(LENGTHS))]
    lengths = np.asarray(LENGTHS, np.int32)
    return {"sample_ids": names, "input_ids": ids, "labels": ids, "position_ids": positions, "seq_lens": lengths}


def collater(config: Any, mask: Mask | None = None) -> PackedCollate:
    attention = "flash_attention_2" if mask == "varlen" else None
    return PackedCollate(0, mask=mask, attention=attention, model=config_json(config), counts=False)


def gap(model: TinyModel, collate: PackedCollate) -> float:
    """The largest difference of a document's logits, packed and alone, where its layers run what the form is for."""
    attention = "flash_attention_2" if collate.mask == "varlen" else "sdpa"
    batch = collate([pack()])
    told = {name: value for name, value in batch.items() if name not in ("seq_lens", "labels")}
    packed = model.run(told, attention).logits[0]
    ids = batch["input_ids"]
    alone = [model.run({"input_ids": ids[:, a:b]}, attention).logits[0] for a, b in itertools.pairwise(EDGES)]
    parts = [packed[a:b] for a, b in itertools.pairwise(EDGES)]
    return max(float((a - b).abs().max()) for a, b in zip(parts, alone, strict=True))


@pytest.mark.parametrize("name", MODELS)
def test_each_form_that_is_handed_out_keeps_documents_apart(name: str) -> None:
    model = TinyModel(composite(name, **SETTINGS.get(name, {})), list(range(60)))
    assert (model.attention == "eager") == (name in EAGER)
    for mask in PLAIN:
        if mask in MODELS[name]:
            assert gap(model, collater(model.config, mask)) < 1e-5, mask
        else:
            with pytest.raises(InputError, match="keep"):
                collater(model.config, mask)
    assert gap(model, collater(model.config)) < 1e-5


@pytest.mark.parametrize(
    ("name", "settings", "kind"),
    [
        ("minimax_m3_vl_text", {"layer_types": ["minimax_m3_sparse"] * 60}, "minimax_m3_sparse"),
        ("deepseek_v4", {}, "compressed_sparse_attention"),
    ],
)
def test_layers_that_count_blocks_from_the_beginning_of_a_pack_take_none(
    name: str, settings: dict[str, Any], kind: str
) -> None:
    config = composite(name, **settings)
    for mask in (None, *get_args(Mask)):
        with pytest.raises(InputError, match=f"{kind}.*blocks"):
            collater(config, mask)


def test_the_same_model_without_such_layers_takes_packs() -> None:
    model = TinyModel(composite("minimax_m3_vl_text"), list(range(60)))
    assert gap(model, collater(model.config)) < 1e-5


def test_queries_that_are_scaled_by_their_place_take_short_packs_only() -> None:
    config = composite("llama4_text", floor_scale=16)
    assert backbone_of(config).scaled_from == 16
    with pytest.raises(ValueError, match=r"pack_length=15 at most"):
        collater(config)([pack()])
    for text in ({"floor_scale": 8192}, {"floor_scale": 16, "attn_temperature_tuning": False}):
        model = TinyModel(composite("llama4_text", **text), list(range(60)))
        assert gap(model, collater(model.config)) < 1e-5


def test_the_masks_of_eager_attention_are_added() -> None:
    made = collater(composite("gemma2"), "sdpa")([pack()])["attention_mask"]
    assert made.keys() == {"full_attention", "sliding_attention"}
    for mask in made.values():
        assert mask.dtype == torch.float32
        assert sorted(mask.unique().tolist()) == [torch.finfo(torch.float32).min, 0.0]


def test_a_model_whose_whole_makes_the_mask_for_another_attention_takes_lengths_alone() -> None:
    text = config_json(config_of({"model_type": "gemma2"}))
    config = config_of({"model_type": "paligemma", "text_config": text})
    why = problem("sdpa", None, backbone_of(config), mrope=False, layer_masks=True)
    assert why is not None and "runs eager attention, which adds it" in why
    masks: tuple[Mask | None, ...] = (None, "sdpa", "positions")
    for mask in masks:
        with pytest.raises(InputError, match="no form of attention"):
            collater(config, mask)
    assert collater(config, "varlen").mask == "varlen"
    assert collater(config_of({"model_type": "paligemma"})).mask == "sdpa"
