"""Documents of a pack do not see each other, whatever a model's layers are: in the form that the collater chooses, or
not at all.

Text models of transformers, tiny and random; the documents packed are compared with each alone. Kernels that need a
GPU are stood in for by `certify.kernels`.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from vlm_prep.certify.kernels import reference_kernels
from vlm_prep.core.errors import InputError
from vlm_prep.processors.backbone import Backbone, backbone_of, possible_backbone
from vlm_prep.processors.torchvision_cpu import ensure_torchvision
from vlm_prep.stream import PackedCollate
from vlm_prep.stream.forms import Mask

SIZES = {
    "vocab_size": 200, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen2": ("Qwen2", {}),
    "qwen3_5_text": ("Qwen3_5", {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 16,
                                 "linear_value_head_dim": 16}),
    "nemotron_h": ("NemotronH", {"mamba_num_heads": 4, "mamba_head_dim": 16, "n_groups": 1, "ssm_state_size": 16,
                                 "layers_block_type": ["mamba", "attention", "mamba", "mlp"]}),
    "lfm2": ("Lfm2", {"layer_types": ["conv", "full_attention", "conv", "full_attention"]}),
    "gemma3_text": ("Gemma3", {"layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window": 4}),
    "mistral": ("Mistral", {"sliding_window": 4}),
    "falcon_h1": ("FalconH1", {"mamba_n_heads": 4, "mamba_d_head": 32, "mamba_d_ssm": 128, "mamba_d_state": 16}),
}  # fmt: skip
"""{type: (name of the class, sizes and kinds of layers)}"""
LENGTHS = (7, 9, 2)


def config_of(name: str) -> Any:
    ensure_torchvision()
    from transformers import CONFIG_MAPPING

    return CONFIG_MAPPING[name](**{**SIZES, **MODELS[name][1]})


def model_of(name: str) -> Any:
    import transformers

    config = config_of(name)
    torch.manual_seed(0)
    model = getattr(transformers, f"{MODELS[name][0]}ForCausalLM")._from_config(config, attn_implementation="sdpa")
    return model.eval()


def pack_of(lengths: tuple[int, ...]) -> dict[str, Any]:
    total = sum(lengths)
    ids = np.random.default_rng(0).integers(5, 200, total)
    return {
        "sample_ids": [str(number) for number in range(len(lengths))],
        "input_ids": ids.astype(np.int32),
        "labels": ids.astype(np.int32),
        "position_ids": np.concatenate([np.arange(length) for length in lengths]).astype(np.int32),
        "seq_lens": np.asarray(lengths, np.int32),
    }


def leak(model: Any, collate: PackedCollate, *, attention: str = "sdpa") -> float:
    """The largest difference of a document's logits, packed and alone."""
    pack = pack_of(LENGTHS)
    batch = collate([pack])
    batch.pop("seq_lens")
    edges = [0, *np.cumsum(LENGTHS).tolist()]
    model.config._attn_implementation_internal = attention
    with torch.no_grad(), reference_kernels(model):
        packed = model(**batch).logits[0]
        ids = batch["input_ids"]
        alone = [model(input_ids=ids[:, a:b]).logits[0] for a, b in itertools.pairwise(edges)]
    parts = [packed[a:b] for a, b in itertools.pairwise(edges)]
    return max(float((a - b).abs().max()) for a, b in zip(parts, alone, strict=True))


@pytest.mark.parametrize("name", MODELS)
def test_the_form_that_is_chosen_keeps_documents_apart(name: str) -> None:
    model = model_of(name)
    collate = PackedCollate(0, model=model, max_length=sum(LENGTHS) + 3)
    assert leak(model, collate) < 1e-5
    flash = PackedCollate(0, backbone=backbone_of(model.config), attention="flash_attention_2")
    assert flash.mask == "varlen"
    assert leak(model, flash, attention="flash_attention_2") < 1e-5


@pytest.mark.parametrize("name", MODELS)
def test_what_is_refused_would_have_let_them_see_each_other(name: str) -> None:
    model = model_of(name)
    needs = backbone_of(model.config)
    masks: tuple[Mask, ...] = ("document_ids", "thd", "sdpa") if needs.own_masks else ("document_ids", "thd")
    for mask in masks:
        with pytest.raises(InputError, match="not keep") as caught:
            PackedCollate(0, mask=mask, attention="sdpa", backbone=needs)
        assert "mask=" in (caught.value.hint or "")
    batch = PackedCollate(0, mask="document_ids", attention="own", backbone=needs)
    batch_of = PackedCollate(0, mask="sdpa")  # of a model that nobody told of
    assert leak(model, batch) > 1e-4
    if needs.own_masks or needs.state:
        assert leak(model, batch_of) > 1e-5


@pytest.mark.parametrize("name", ["qwen3_5_text", "nemotron_h", "lfm2"])
def test_without_their_kernels_such_layers_refuse_packs(name: str) -> None:
    model = model_of(name)
    batch = PackedCollate(0, model=model)([pack_of(LENGTHS)])
    batch.pop("seq_lens")
    with pytest.raises(ValueError, match="packed sequences apart"):
        model(**batch)


@pytest.mark.parametrize("name", ["jamba", "minimax", "recurrent_gemma", "kimi_linear"])
def test_layers_that_nothing_tells_of_documents_take_no_packs(name: str) -> None:
    ensure_torchvision()
    from transformers import CONFIG_MAPPING

    with pytest.raises(InputError, match="carry state") as caught:
        PackedCollate(0, backbone=backbone_of(CONFIG_MAPPING[name]()))
    assert "PadCollate" in (caught.value.hint or "")


def test_cross_attention_and_encoder_decoders_take_no_packs() -> None:
    for needs, why in (
        (Backbone(models=("mllama",), known=True, cross_attention=True), "cross attention"),
        (Backbone(models=("florence2",), known=True, encoder_decoder=True), "encoder-decoder"),
    ):
        with pytest.raises(InputError, match=why):
            PackedCollate(0, backbone=needs)


@pytest.mark.parametrize(
    ("attention", "mask", "why"),
    [
        ("sdpa", "varlen", "flash attention alone"),
        ("eager", "varlen", "flash attention alone"),
        ("flex_attention", "sdpa", "no 4-D mask"),
        ("flash_attention_2", "sdpa", "no 4-D mask"),
        ("flash_attention_3", "positions", "batches of one pack"),
        ("kernels-community/vllm-flash-attn3", "document_ids", "which tokens are padding"),
        ("sdpa", "thd", "Transformer Engine"),
    ],
)
def test_a_form_that_the_attention_does_not_read_is_refused(attention: str, mask: Any, why: str) -> None:
    with pytest.raises(InputError, match=why):
        PackedCollate(0, mask=mask, attention=attention)


def test_document_ids_without_a_word_of_attention_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    PackedCollate(0, mask="document_ids")
    assert "see each other" in caplog.text


def test_linear_attention_takes_one_pack_at_a_time() -> None:
    collate = PackedCollate(0, model=config_of("qwen3_5_text"))
    assert collate([pack_of((3, 2))])["seq_idx"].tolist() == [[0, 0, 0, 1, 1]]
    with pytest.raises(ValueError, match="batch_size=1"):
        collate([pack_of((3, 2))] * 2)


def test_a_processor_that_serves_several_models_is_packed_with_care_for_all_of_them() -> None:
    ensure_torchvision()
    needs = possible_backbone(("qwen3_vl", "qwen3_5"))
    assert not needs.known
    batch = PackedCollate(0, backbone=needs, mrope=True)([{**pack_of((3, 2)), "position_ids": np.zeros((3, 5))}] * 2)
    assert batch["seq_idx"].tolist() == [[0, 0, 0, 1, 1]] * 2
    assert batch["cu_seq_lens_q"].tolist() == [0, 3, 5, 8, 10]


def test_mrope_positions_have_the_plain_ones_in_front_where_the_model_reads_them() -> None:
    needs = Backbone(models=("qwen2_5_vl",), known=True, text_axis=True)
    pack = {**pack_of((3, 2)), "position_ids": np.arange(15).reshape(3, 5)}
    for mask in ("positions", "varlen"):
        batch = PackedCollate(0, backbone=needs, mrope=True, mask=mask, max_length=6)([pack])
        assert batch["position_ids"][0].tolist() == [[0, 1, 2, 0, 1, 0]]
        assert batch["position_ids"][1:, 0, :5].tolist() == np.arange(15).reshape(3, 5).tolist()
        assert batch["use_cache"] is False
    assert PackedCollate(0, backbone=needs, mrope=True, mask="sdpa")([pack])["position_ids"].shape == (3, 1, 5)
