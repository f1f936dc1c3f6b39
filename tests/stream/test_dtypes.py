"""A tensor of any of torch's types is stored, read and batched as the processor made it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from vlm_prep.processors.backbone import Backbone
from vlm_prep.processors.payload.stored import StoredPayload, store_tensor
from vlm_prep.stream import PackedCollate, PadCollate

TYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.int64, torch.int32, torch.int16, torch.int8,
         torch.uint8, torch.bool, torch.float8_e4m3fn)  # fmt: skip


def some(dtype: torch.dtype, rows: int, width: int = 3) -> torch.Tensor:
    return (torch.arange(rows * width).reshape(rows, width) % 7).to(dtype)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_it_is_stored_and_read_back_bit_by_bit(dtype: torch.dtype) -> None:
    tensor = some(dtype, 4)
    struct = {"tensors": [store_tensor("pixel_values", tensor)]}
    found = StoredPayload(None, lambda kind: None).stored("image", [struct])
    assert found is not None
    (stored,) = found["pixel_values"]
    restored = stored.restored()
    assert restored.dtype == dtype
    assert torch.equal(restored.view(torch.uint8), tensor.view(torch.uint8))


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("width", [3, 5])
def test_it_is_batched_in_its_own_type(dtype: torch.dtype, width: int) -> None:
    rows: list[dict[str, Any]] = [
        {"sample_id": str(n), "input_ids": np.arange(3), "labels": np.arange(3), "pixel_values": some(dtype, 2, size)}
        for n, size in enumerate((3, width))
    ]
    packs = [
        {**row, "seq_lens": np.array([3]), "position_ids": np.arange(3), "sample_ids": [row["sample_id"]]}
        for row in rows
    ]
    for batch in (PadCollate(0)(rows), PackedCollate(0)(packs)):
        assert batch["pixel_values"].dtype == dtype
        assert batch["pixel_values"].shape == (4, width)
        assert torch.equal(batch["pixel_values"][2:].float(), some(dtype, 2, width).float())


def test_pixels_of_a_half_type_are_cast_where_it_is_asked() -> None:
    row = {"sample_id": "a", "input_ids": np.arange(3), "labels": np.arange(3), "pixel_values": torch.ones(2, 3).half()}
    assert PadCollate(0, pixel_dtype=torch.bfloat16)([row])["pixel_values"].dtype == torch.bfloat16


def test_sound_is_not_batched_with_strangers_pictures_where_a_model_reads_it_by_them() -> None:
    ids = {"input_ids": np.arange(3), "labels": np.arange(3)}
    seen, heard = {"sample_id": "a", **ids, "n_images": 1}, {"sample_id": "b", **ids, "n_audios": 1}
    of_store: dict[str, Any] = {"apart": Backbone(kinds_apart=True)}
    collate = PadCollate(0, **of_store)
    for fine in ([seen, seen], [heard], [{**seen, "n_audios": 1}]):
        assert len(collate(fine)["input_ids"]) == len(fine)
    with pytest.raises(ValueError, match="a has pictures and b has sound"):
        collate([seen, heard])


def test_a_mask_that_is_left_out_of_a_row_is_made_beside_others() -> None:
    ids = {"input_ids": np.arange(3), "labels": np.arange(3)}
    rows = [{"sample_id": str(n), **ids, "sound": torch.ones(1, steps, 2)} for n, steps in enumerate((2, 4))]
    of_store: dict[str, Any] = {"masks": {"sound_mask": ("sound", "bool")}}
    collate = PadCollate(0, **of_store)
    assert collate(rows)["sound_mask"].tolist() == [[True, True, False, False], [True] * 4]
    assert "sound_mask" not in collate(rows[:1])
