"""Large rows that lie together are read together, which nobody notices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vlm_prep.core.errors import StoreError
from vlm_prep.processors.payload.quick import QuickMaker
from vlm_prep.processors.payload.stored import CodedTensor, store_array
from vlm_prep.shards import mapped, reader
from vlm_prep.shards.schema import MEDIA
from vlm_prep.stream import ShardDataset

CODING = {
    "steps": [["div", [255.0]]],
    "channel_axis": None,
    "channel_size": None,
    "repeats": None,
    "dtype": "float32",
}


PART = {
    "part_class": "Part",
    "config": {},
    "kwargs": {},
    "outputs": {"pixel_values": ["pixel_values", 0]},
    "added": [],
}


@pytest.fixture
def pictures(stores: Any, make_sample: Any) -> Path:
    """Twelve rows in three shards, see `store_of`."""
    return store_of(stores, make_sample, "pictures")


def store_of(stores: Any, make_sample: Any, name: str, *, stored: bool = True) -> Path:
    """Rows of which all but 5 have a picture, of bytes or of a file; that of 7 is of an unknown kind."""
    empty = dict.fromkeys(field.name for field in MEDIA.value_type)

    def media(number: int) -> list[dict[str, Any]]:
        pixels = np.full((2, 6), number, np.uint8)
        kind = "smell" if number == 7 else "image"
        tensors = [store_array("pixel_values", pixels, coded=True)] if stored else None
        return [] if number == 5 else [{**empty, "kind": kind, "files": [], "frame_list": False, "tensors": tensors}]

    runtime = {
        **stores.runtime,
        "parts": {"image": PART},
        "payload": {"forms": {"image": {"route": "bytes", "alone": True, "codings": {"pixel_values": CODING}}}},
    }
    rows = [make_sample(number, media=media(number)) for number in range(12)]
    return Path(stores.tokenized(rows, name=name, shards=3, runtime=runtime))


def plain(item: dict[str, Any]) -> dict[str, Any]:
    """An item whose parts compare."""
    found = {}
    for name, value in item.items():
        arrays = value.arrays if isinstance(value, CodedTensor) else [value]
        found[name] = [each.tolist() if isinstance(each, np.ndarray) else each for each in arrays]
    return found


def good(path: Path, **settings: Any) -> list[dict[str, Any]]:
    dataset = ShardDataset(path, shuffle=False, pixels="bytes", **settings)
    return [plain(dataset[number]) for number in range(12) if number != 7]


def test_rows_read_together_are_those_read_alone(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    together = good(pictures)
    assert together[3]["pixel_values"] == [[[3] * 6] * 2]
    assert "pixel_values" not in together[5]
    monkeypatch.setattr(reader, "FEW_ROWS", 0)
    assert good(pictures) == together


def test_a_bad_row_is_not_its_neighbours_fault(pictures: Path) -> None:
    dataset = ShardDataset(pictures, shuffle=False, pixels="bytes")
    for _ in range(2):
        assert plain(dataset[6])["sample_id"] == ["demo/6"]
        with pytest.raises(StoreError, match=r"row 3 .demo/7.: the store has smell media"):
            dataset[7]


@pytest.mark.parametrize("stored", [True, False])
def test_what_must_be_computed_is_computed_when_its_row_is_read(
    stores: Any, make_sample: Any, monkeypatch: pytest.MonkeyPatch, stored: bool
) -> None:
    calls = []

    def made(self: QuickMaker, kind: str, structs: Any) -> dict[str, list[torch.Tensor]]:
        calls.append(kind)
        return {"pixel_values": [torch.ones(1, 6)]}

    monkeypatch.setattr(QuickMaker, "made", made)
    dataset = ShardDataset(store_of(stores, make_sample, "some", stored=stored), shuffle=False, pixels="bytes")
    for time in (1, 2):
        for number in (4, 5, 6):
            dataset[number]
        assert len(calls) == (0 if stored else 2 * time)


def test_what_is_done_to_an_item_does_not_reach_the_next_reading(pictures: Path) -> None:
    dataset = ShardDataset(pictures, shuffle=False, pixels="bytes")
    first = dataset[1]
    before = plain(first)
    first["labels"] = None
    del first["pixel_values"]
    assert plain(dataset[1]) == before


def test_record_batches_begun_long_ago_are_let_go(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = good(pictures)
    monkeypatch.setattr(mapped, "MOST_READ", 2)
    dataset = ShardDataset(pictures, shuffle=False, pixels="bytes")
    shards = dataset._rows._stores[0].shards  # type: ignore[attr-defined]
    for _ in range(2):
        for place, number in enumerate(number for number in range(12) if number != 7):
            assert plain(dataset[number]) == whole[place]
            assert sum(len(shard._readers) for shard in shards) <= 2
            assert sum(len(shard._made) for shard in shards) <= 2
