"""Small items of packs and samples for collaters."""

from __future__ import annotations

from typing import Any

import torch

from vlm_prep.stream import DummyMedia

IGNORE = -100


def item(ids: list[int], labels: list[int], **more: Any) -> dict[str, Any]:
    """A row of a tokenized store as the dataset gives it."""
    empty = {"image_grid_thw": torch.empty((0, 3), dtype=torch.int64)}
    row = {"sample_id": f"demo/{ids[0]}", "input_ids": torch.tensor(ids), "labels": torch.tensor(labels)}
    return {**row, **empty, "n_images": 0, "n_videos": 0, **more}


TWO = [item([1, 2, 3, 4], [IGNORE, 2, 3, 4]), item([5, 6], [IGNORE, 6])]


def with_media() -> list[dict[str, Any]]:
    grid = torch.tensor([[1, 2, 2]])
    image = {"image_grid_thw": grid, "n_images": 1, "pixel_values": torch.arange(12.0).reshape(4, 3)}
    video = {"video_grid_thw": grid, "n_videos": 1, "pixel_values_videos": torch.ones(4, 3)}
    video["second_per_grid_ts"] = torch.tensor([0.5])
    return [item([1, 2], [1, 2], **image), item([3, 4], [3, 4]), item([5, 6], [5, 6], **image, **video)]


DUMMY = DummyMedia(ids=(7,), tensors={"pixel_values": torch.zeros(4, 6), "image_grid_thw": torch.tensor([[1, 2, 2]])})
