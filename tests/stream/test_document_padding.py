"""Padding inside of a pack changes nothing that its documents compute, and stands where kernels want it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from vlm_prep.certify.kernels import reference_kernels
from vlm_prep.processors.backbone import backbone_of
from vlm_prep.processors.torchvision_cpu import ensure_torchvision
from vlm_prep.stream import PackedCollate
from vlm_prep.stream.document_padding import boundaries, pad_documents
from vlm_prep.stream.forms import Mask

LENGTHS = (7, 8, 2)


def pack_of(lengths: tuple[int, ...] = LENGTHS, axes: int = 1) -> dict[str, Any]:
    ids = np.random.default_rng(0).integers(5, 200, sum(lengths)).astype(np.int32)
    positions = np.concatenate([np.arange(length) for length in lengths]).astype(np.int32)
    return {
        "sample_ids": [str(number) for number in range(len(lengths))],
        "input_ids": ids,
        "labels": ids.copy(),
        "position_ids": positions if axes == 1 else np.stack([positions, positions // 2, positions // 2]),
        "seq_lens": np.asarray(lengths, np.int32),
    }


def test_each_document_is_followed_by_its_own_padding() -> None:
    item = pack_of(axes=3)
    found = pad_documents(item, 4, {"input_ids": 0, "labels": -100})
    assert found["seq_lens"].tolist() == [8, 8, 4]
    assert found["real_seq_lens"].tolist() == list(LENGTHS)
    assert np.flatnonzero(found["padded_at"]).tolist() == [7, 18, 19]
    own = ~found["padded_at"]
    for name, fill in (("input_ids", 0), ("labels", -100)):
        assert found[name][own].tolist() == item[name].tolist()
        assert (found[name][~own] == fill).all()
    assert found["position_ids"][:, own].tolist() == item["position_ids"].tolist()
    assert found["position_ids"][:, ~own].tolist() == [[7, 2, 3]] * 3


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("name", ["qwen2", "qwen3_5_text", "lfm2"])
def test_the_documents_compute_what_they_compute_without(name: str, shift: bool) -> None:
    ensure_torchvision()
    import transformers

    kinds: dict[str, dict[str, Any]] = {
        "qwen2": {},
        "qwen3_5_text": {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 16,
                         "linear_value_head_dim": 16},
        "lfm2": {"layer_types": ["conv", "full_attention"] * 2},
    }  # fmt: skip
    sizes = {"vocab_size": 200, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "head_dim": 16,
             "num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0}  # fmt: skip
    config = transformers.CONFIG_MAPPING[name](**sizes, **kinds[name])
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()

    def run(multiple: int, form: Mask | None, attention: str) -> tuple[torch.Tensor, torch.Tensor]:
        collate = PackedCollate(
            0, mask=form, backbone=backbone_of(model.config), attention=attention, shift=shift,
            document_multiple=multiple,
        )  # fmt: skip
        batch = collate([pack_of()])
        seq_lens = batch.pop("seq_lens")
        assert [each.tolist() for each in seq_lens] == [list(LENGTHS)]
        model.config._attn_implementation_internal = attention
        labels = batch.pop("labels")
        with torch.no_grad(), reference_kernels(model):
            logits = model(**batch).logits[0]
        real = batch["input_ids"][0] != 0
        return logits[real], labels[0][real]

    for form, attention in ((None, "sdpa"), (None, "flash_attention_2")):
        plain, padded = run(1, form, attention), run(4, form, attention)
        assert torch.allclose(plain[0], padded[0], atol=1e-5), attention
        assert plain[1].tolist() == padded[1].tolist()


def test_lengths_as_kernels_take_them() -> None:
    packs = [pack_of(), pack_of((3,))]
    batch = PackedCollate(0, mask="thd", attention="te", document_multiple=4, cu_seqlens=True, max_length=24)(packs)
    assert batch["seq_lens"].tolist() == [[7, 8, 2], [3, -1000, -1000]]
    assert batch["seq_lens_padded"].tolist() == [[8, 8, 8], [24, -1000, -1000]]
    assert batch["cu_seqlens"].tolist() == [0, 7, 15, 17, 20]
    assert batch["cu_seqlens_padded"].tolist() == [0, 8, 16, 24, 48]


def test_as_many_entries_for_any_number_of_documents() -> None:
    collate = PackedCollate(0, mask="varlen", documents=4, cu_seqlens=True, max_length=24)
    one, two = collate([pack_of()]), collate([pack_of((3, 5, 4, 2))])
    assert one["cu_seq_lens_q"].tolist() == [0, 7, 15, 17, 24, 24]
    assert one["cu_seq_lens_q"].shape == two["cu_seq_lens_q"].shape
    assert one["cu_seqlens"].shape == two["cu_seqlens"].shape == (5,)
    with pytest.raises(ValueError, match="pack_documents"):
        collate([pack_of((1, 1, 1, 1, 1))])
    with pytest.raises(ValueError, match="pack_documents"):
        boundaries([torch.ones(5, dtype=torch.int64)], 4)


def test_padding_has_no_type() -> None:
    collate = PackedCollate(0, mask="varlen", token_values={"token_type_ids": {"1": [0, 9]}}, document_multiple=4)
    pack = pack_of((3, 2))
    pack["input_ids"][1] = 9
    assert collate([pack])["token_type_ids"].tolist() == [[0, 1, 0, 0, 0, 0, 0, 0]]
