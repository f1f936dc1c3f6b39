"""Batches, computed by hand."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch

from vlm_prep.stream import PackedCollate, PadCollate, ShardDataset

IGNORE = -100


def item(ids: list[int], labels: list[int], **more: Any) -> dict[str, Any]:
    """A row of a tokenized store as the dataset gives it."""
    empty = {"image_grid_thw": torch.empty((0, 3), dtype=torch.int64)}
    row = {"sample_id": f"demo/{ids[0]}", "input_ids": torch.tensor(ids), "labels": torch.tensor(labels)}
    return {**row, **empty, "n_images": 0, "n_videos": 0, **more}


def pack(ids: list[int], labels: list[int], seq_lens: list[int], positions: Any = None, **more: Any) -> dict[str, Any]:
    """A pack as the dataset gives it; positions restart in each document unless given."""
    if positions is None:
        positions = [place for count in seq_lens for place in range(count)]
    row = item(ids, labels, position_ids=torch.tensor(positions), seq_lens=torch.tensor(seq_lens), **more)
    row["sample_ids"] = [row.pop("sample_id")]
    return row


TWO = [item([1, 2, 3, 4], [IGNORE, 2, 3, 4]), item([5, 6], [IGNORE, 6])]
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


def with_media() -> list[dict[str, Any]]:
    grid = torch.tensor([[1, 2, 2]])
    image = {"image_grid_thw": grid, "n_images": 1, "pixel_values": torch.arange(12.0).reshape(4, 3)}
    video = {"video_grid_thw": grid, "n_videos": 1, "pixel_values_videos": torch.ones(4, 3)}
    video["second_per_grid_ts"] = torch.tensor([0.5])
    return [item([1, 2], [1, 2], **image), item([3, 4], [3, 4]), item([5, 6], [5, 6], **image, **video)]


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
