"""Batches, computed by hand."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from batches import DUMMY, IGNORE, TWO, item, with_media

from vlm_prep.stream import PackedCollate, PadCollate, ShardDataset


def pack(ids: list[int], labels: list[int], seq_lens: list[int], positions: Any = None, **more: Any) -> dict[str, Any]:
    """A pack as the dataset gives it; positions restart in each document unless given."""
    if positions is None:
        positions = [place for count in seq_lens for place in range(count)]
    row = item(ids, labels, position_ids=torch.tensor(positions), seq_lens=torch.tensor(seq_lens), **more)
    row["sample_ids"] = [row.pop("sample_id")]
    return row


PACKS = [pack([1, 2, 3, 4, 5], [IGNORE, 2, 3, IGNORE, 5], [3, 2]), pack([6, 7, 8], [IGNORE, 7, 8], [3])]


def test_pad_without_shift() -> None:
    batch = PadCollate(9, shift=False)(TWO)
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4], [5, 6, 9, 9]]
    assert batch["labels"].tolist() == [[IGNORE, 2, 3, 4], [IGNORE, 6, IGNORE, IGNORE]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert {name: tensor.dtype for name, tensor in batch.items()} == dict.fromkeys(batch, torch.int64)


def test_pad_with_shift_labels_each_token_with_the_next() -> None:
    batch = PadCollate(9)(TWO)
    assert batch["input_ids"].tolist() == [[1, 2, 3], [5, 6, 9]]
    assert batch["labels"].tolist() == [[2, 3, 4], [6, IGNORE, IGNORE]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]


def test_pad_to_max_length() -> None:
    assert PadCollate(9, shift=False, max_length=6)(TWO)["input_ids"].shape == (2, 6)


def test_pad_to_a_multiple() -> None:
    assert PadCollate(9, shift=False, pad_to_multiple_of=8)(TWO)["input_ids"].shape == (2, 8)


def test_a_row_longer_than_max_length_raises_and_is_named() -> None:
    with pytest.raises(ValueError, match=r"demo/1.*4 tokens"):
        PadCollate(9, max_length=3)(TWO)


def test_token_types_mark_pictures_and_videos() -> None:
    collate = PadCollate(9, shift=False, image_token_id=2, video_token_id=6)
    assert collate(TWO)["mm_token_type_ids"].tolist() == [[0, 1, 0, 0], [0, 2, 0, 0]]
    assert "mm_token_type_ids" not in PadCollate(9)(TWO)


def test_media_are_concatenated_in_order_and_counted() -> None:
    batch = PadCollate(9)(with_media())
    assert torch.equal(batch["pixel_values"], torch.cat([torch.arange(12.0).reshape(4, 3)] * 2))
    assert batch["image_grid_thw"].tolist() == [[1, 2, 2], [1, 2, 2]]
    assert batch["pixel_values_videos"].shape == (4, 3)
    assert batch["second_per_grid_ts"].tolist() == [0.5]
    assert batch["n_images_per_sample"].tolist() == [1, 0, 1]
    assert batch["n_videos_per_sample"].tolist() == [0, 0, 1]


def test_a_batch_of_text_has_no_media_tensors() -> None:
    assert set(PadCollate(9)(TWO)) == {"input_ids", "labels", "attention_mask"}


def test_pixels_stay_float32_unless_asked() -> None:
    assert PadCollate(9)(with_media())["pixel_values"].dtype == torch.float32
    asked = PadCollate(9, pixel_dtype=torch.bfloat16)(with_media())
    assert asked["pixel_values"].dtype == asked["pixel_values_videos"].dtype == torch.bfloat16
    assert asked["second_per_grid_ts"].dtype == torch.float32


def test_packs_are_padded_and_keep_their_positions() -> None:
    batch = PackedCollate(9)(PACKS)
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4, 5], [6, 7, 8, 9, 9]]
    assert batch["labels"].tolist() == [[IGNORE, 2, 3, IGNORE, 5], [IGNORE, 7, 8, IGNORE, IGNORE]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1], [0, 1, 2, 0, 0]]


def test_mrope_positions_lead_with_their_three_axes() -> None:
    three = [[0, 1, 2, 0, 1], [3, 4, 5, 3, 4], [6, 7, 8, 6, 7]]
    batch = PackedCollate(9, max_length=6)([pack([1, 2, 3, 4, 5], [1, 2, 3, 4, 5], [3, 2], three)])
    assert batch["position_ids"].shape == (3, 1, 6)
    assert batch["position_ids"][:, 0].tolist() == [[*axis, 0] for axis in three]


def test_sdpa_mask_is_causal_within_documents_and_false_in_padding() -> None:
    mask = PackedCollate(9, mask="sdpa")(PACKS)["attention_mask"]
    assert mask.dtype == torch.bool
    assert mask.shape == (2, 1, 5, 5)
    assert mask[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [0, 0, 0, 1, 0],
        [0, 0, 0, 1, 1],
    ]
    assert mask[1, 0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0],
    ]


def test_document_ids_count_from_one_and_are_zero_in_padding() -> None:
    mask = PackedCollate(9, mask="document_ids")(PACKS)["attention_mask"]
    assert mask.tolist() == [[1, 1, 1, 2, 2], [1, 1, 1, 0, 0]]


def test_varlen_bounds_run_over_the_flattened_batch_with_padding_as_runs() -> None:
    batch = PackedCollate(9, mask="varlen")(PACKS)
    assert "attention_mask" not in batch
    for side in ("q", "k"):
        assert batch[f"cu_seq_lens_{side}"].tolist() == [0, 3, 5, 8, 10]
        assert batch[f"cu_seq_lens_{side}"].dtype == torch.int32
        assert batch[f"max_length_{side}"] == 3


def test_varlen_counts_the_padding_in_the_longest_run() -> None:
    batch = PackedCollate(9, mask="varlen", max_length=9)([PACKS[1]])
    assert batch["cu_seq_lens_q"].tolist() == [0, 3, 9]
    assert batch["max_length_q"] == 6


def test_shift_stays_within_each_document() -> None:
    labels = PackedCollate(9, shift=True)([pack([1, 2, 3, 4, 5], [1, 2, 3, 4, 5], [3, 2])])["labels"]
    assert labels.tolist() == [[2, 3, IGNORE, 5, IGNORE]]


def test_shift_of_documents_of_one_token_leaves_nothing_to_train() -> None:
    labels = PackedCollate(9, shift=True)([pack([1, 2, 3], [1, 2, 3], [1, 1, 1])])["labels"]
    assert labels.tolist() == [[IGNORE, IGNORE, IGNORE]]


def test_a_shifted_pack_may_be_shorter_than_the_batch() -> None:
    labels = PackedCollate(9, shift=True)(PACKS)["labels"]
    assert labels.tolist() == [[2, 3, IGNORE, 5, IGNORE], [7, 8, IGNORE, IGNORE, IGNORE]]


def test_collating_leaves_the_rows_as_they_were() -> None:
    row = pack([1, 2, 3], [1, 2, 3], [2, 1])
    PackedCollate(9, shift=True)([row])
    assert row["labels"].tolist() == [1, 2, 3]


def test_a_pack_longer_than_max_length_raises() -> None:
    with pytest.raises(ValueError, match="5 tokens"):
        PackedCollate(9, max_length=4)(PACKS)


SAMPLES = [{name: value for name, value in pack.items() if name != "seq_lens"} for pack in PACKS]


@pytest.mark.parametrize(("collate", "items"), [(PadCollate(9), SAMPLES), (PackedCollate(9, mask="varlen"), PACKS)])
def test_collaters_travel_to_spawned_workers(collate: Any, items: Any) -> None:
    batch = pickle.loads(pickle.dumps(collate))(items)
    assert torch.equal(batch["input_ids"], collate(items)["input_ids"])


def test_packs_and_samples_are_not_mixed_up() -> None:
    with pytest.raises(ValueError, match="use PackedCollate"):
        PadCollate(9)(PACKS)
    with pytest.raises(ValueError, match="use PadCollate"):
        PackedCollate(9)(SAMPLES)


def test_an_unknown_mask_is_refused() -> None:
    with pytest.raises(ValueError, match="sdpa, document_ids, varlen"):
        PackedCollate(9, mask="flash")  # type: ignore[arg-type]


def test_for_store_takes_the_token_ids_of_the_processor(stores: Any) -> None:
    dataset = ShardDataset(stores.tokenized(4))
    batch = PadCollate.for_store(dataset, shift=False)([dataset[i] for i in range(4)])
    assert batch["input_ids"][batch["attention_mask"] == 0].unique().tolist() == [0]
    assert "mm_token_type_ids" in batch


def test_thd_counts_padding_to_the_last_document() -> None:
    batch = PackedCollate(9, mask="thd", max_length=6, image_token_id=2)(PACKS)
    assert batch["seq_lens"].tolist() == [[3, 2], [3, -1000]]
    assert batch["seq_lens_padded"].tolist() == [[3, 3], [6, -1000]]
    assert batch["qkv_format"] == "thd"
    assert not {"attention_mask", "mm_token_type_ids"} & set(batch)


def weighted() -> list[dict[str, Any]]:
    weights = ([0.0, 0.5, 1.0, 2.0], [0.0, 1.5])
    return [{**row, "loss_weights": torch.tensor(values)} for row, values in zip(TWO, weights, strict=True)]


def test_weights_are_padded_and_shifted_like_labels() -> None:
    batch = PadCollate(9, shift=False)(weighted())
    assert batch["loss_weights"].tolist() == [[0.0, 0.5, 1.0, 2.0], [0.0, 1.5, 0.0, 0.0]]
    assert batch["loss_weights"].dtype == torch.float32
    assert PadCollate(9)(weighted())["loss_weights"].tolist() == [[0.5, 1.0, 2.0], [1.5, 0.0, 0.0]]


def test_weights_of_packs_stay_with_their_labels() -> None:
    row = pack([1, 2, 3, 4, 5], [1, 2, 3, 4, 5], [3, 2], loss_weights=torch.tensor([1.0, 2, 3, 4, 5]))
    assert PackedCollate(9, shift=True)([row])["loss_weights"].tolist() == [[2.0, 3.0, 0.0, 5.0, 0.0]]
    assert PackedCollate(9)([row])["loss_weights"].tolist() == [[1.0, 2.0, 3.0, 0.0, 5.0]]


def test_a_tensor_of_tokens_that_some_rows_lack_is_refused() -> None:
    with pytest.raises(ValueError, match=r"demo/5 has no loss_weights"):
        PadCollate(9)([weighted()[0], TWO[1]])


def test_further_token_tensors_need_a_fill_alone() -> None:
    rows = [{**row, "depth": torch.tensor([7] * len(row["input_ids"]))} for row in TWO]
    batch = PadCollate(9, token_fill={"depth": -1})(rows)
    assert batch["depth"].tolist() == [[7, 7, 7], [7, 7, -1]]


def test_further_media_tensors_need_nothing() -> None:
    rows = [
        {**row, "image_sizes": torch.tensor([[2, 3]] * count), "crops": np.full((count, 2, 2), count, np.uint8)}
        for row, count in zip(TWO, (2, 1), strict=True)
    ]
    batch = PadCollate(9)(rows)
    assert batch["image_sizes"].tolist() == [[2, 3]] * 3
    assert batch["crops"].dtype == torch.uint8
    assert batch["crops"][:, 0, 0].tolist() == [2, 2, 1]


def test_media_of_shapes_that_do_not_go_together_are_named() -> None:
    rows = [{**row, "crops": torch.zeros(shape)} for row, shape in zip(TWO, ((1, 2), (1, 3, 3)), strict=True)]
    with pytest.raises(ValueError, match=r"crops: rows of shapes \[\(2,\), \(3, 3\)\]"):
        PadCollate(9)(rows)


def test_media_of_several_sizes_are_padded_with_zeros() -> None:
    rows = [{**row, "crops": torch.ones(1, size)} for row, size in zip(TWO, (2, 3), strict=True)]
    assert PadCollate(9)(rows)["crops"].tolist() == [[1, 1, 0], [1, 1, 1]]


def test_a_batch_of_text_gets_one_stand_in_that_is_masked() -> None:
    for shift in (False, True):
        plain = PadCollate(9, shift=shift, image_token_id=7)(TWO)
        batch = PadCollate(9, shift=shift, image_token_id=7, dummy=DUMMY)(TWO)
        assert batch["pixel_values"].shape == (4, 6)
        assert (batch["input_ids"] == 7).sum() == 1
        assert batch["labels"].tolist() == plain["labels"].tolist()
        assert batch["attention_mask"].tolist() == plain["attention_mask"].tolist()
        assert not batch["attention_mask"][batch["input_ids"] == 7].any()
        assert batch["mm_token_type_ids"].sum() == 1
        assert "n_images_per_sample" not in batch


def test_a_stand_in_finds_room_in_a_batch_of_equal_rows() -> None:
    batch = PadCollate(9, dummy=DUMMY, shift=True)([TWO[0], TWO[0]])
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4, 7], [1, 2, 3, 4, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 0]] * 2


@pytest.mark.parametrize("mask", ["sdpa", "document_ids", "varlen", "thd"])
def test_a_stand_in_of_packs_is_in_no_document(mask: Any) -> None:
    batch = PackedCollate(9, mask=mask, dummy=DUMMY)([PACKS[1], PACKS[1]])
    assert batch["input_ids"].tolist() == [[6, 7, 8, 7], [6, 7, 8, 9]]
    assert batch["labels"][:, 3].tolist() == [IGNORE, IGNORE]
    if mask == "sdpa":
        assert not batch["attention_mask"][0, 0, :, 3].any()
    if mask == "document_ids":
        assert batch["attention_mask"][0, 3] == 0
    if mask == "varlen":
        assert batch["cu_seq_lens_q"].tolist() == [0, 3, 4, 7, 8]
