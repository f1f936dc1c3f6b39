"""Pixels at run time are the real processor's, bit for bit, on real pictures and a real video."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vlm_prep.core.errors import StoreError
from vlm_prep.core.fingerprint import digest_bytes
from vlm_prep.core.stored_media import stored_media
from vlm_prep.media.decode import load_media
from vlm_prep.processors.adapter import Adapter
from vlm_prep.processors.families.table import adapter_for
from vlm_prep.processors.load import load_processor
from vlm_prep.processors.payload.pixels import PixelMaker
from vlm_prep.processors.payload.quick import QuickMaker
from vlm_prep.processors.payload.stored import CodedTensor
from vlm_prep.processors.runtime import describe_processor
from vlm_prep.stream import PadCollate, ShardDataset, to_pixel_values

PICTURES = ("coffee.png", "grace_hopper.jpg", "page.png", "china_exif6.jpg", "pillow/hopper_orientation_5.jpg")
FAMILIES = ("qwen2_5_vl", "qwen2_vl", "qwen3_vl")


@pytest.fixture(scope="module", params=FAMILIES)
def adapter(request: pytest.FixtureRequest, processors_dir: Path) -> Adapter:
    """The adapter of each family."""
    return adapter_for(load_processor(str(processors_dir / request.param)))


@pytest.fixture
def processor(adapter: Adapter) -> Any:
    """The real processor."""
    return adapter.hf


def picture(path: Path) -> dict[str, Any]:
    """A stored picture, as its own bytes."""
    data = path.read_bytes()
    return stored_media(kind="image", uris=(path.name,), digests=(digest_bytes(data),), data=(data,), height=1, width=1)


def clip(path: Path, frames: tuple[int, ...], fps: float) -> dict[str, Any]:
    """A stored video of which `frames` were taken."""
    data = path.read_bytes()
    return stored_media(
        kind="video",
        uris=(path.name,),
        digests=(digest_bytes(data),),
        data=(data,),
        height=1,
        width=1,
        frame_indices=frames,
        fps=fps,
        total_frames=max(frames) + 1,
    )


def open_row(
    stores: Any, make_sample: Any, adapter: Adapter, media: list[dict[str, Any]], **grids: Any
) -> ShardDataset:
    """A store of one row with these media."""
    columns = {name: np.asarray(grid, np.int32) for name, grid in grids.items()}
    row = make_sample(7, media=media, **columns)
    return ShardDataset(stores.tokenized([row], shards=1, runtime=describe_processor(adapter)))


def test_pictures_one_by_one_equal_one_call_with_all(
    kit: Path, stores: Any, make_sample: Any, adapter: Adapter, processor: Any
) -> None:
    media = [picture(kit / "data" / "images" / name) for name in PICTURES]
    loaded = [load_media(item) for item in media]
    text = "<|vision_start|><|image_pad|><|vision_end|>" * len(media)
    real = processor(text=[text], images=loaded, return_tensors="pt")
    row = open_row(stores, make_sample, adapter, media, image_grid_thw=real["image_grid_thw"])[0]
    assert row["pixel_values"].dtype == torch.float32
    assert torch.equal(row["pixel_values"], real["pixel_values"])
    assert np.array_equal(row["image_grid_thw"], real["image_grid_thw"])
    assert row["n_images"] == len(PICTURES)


@pytest.mark.parametrize("frames", [(0, 5, 10, 15), (0, 4, 9)], ids=["even", "odd"])
def test_a_videos_frames_equal_the_real_processors(
    kit: Path, stores: Any, make_sample: Any, adapter: Adapter, processor: Any, frames: tuple[int, ...]
) -> None:
    pytest.importorskip("decord")
    media = clip(kit / "data" / "videos" / "bikes.mp4", frames, 25.0)
    # its own list: a processor may lengthen the one it is given
    metadata = {"total_num_frames": media["total_frames"], "fps": 25.0, "frames_indices": list(frames)}
    real = processor(
        text=["<|vision_start|><|video_pad|><|vision_end|>"],
        videos=[load_media(media)],
        video_metadata=[metadata],
        do_sample_frames=False,
        return_tensors="pt",
    )
    grids = {"video_grid_thw": real["video_grid_thw"]}
    row = open_row(stores, make_sample, adapter, [media], **grids)[0]
    assert torch.equal(row["pixel_values_videos"], real["pixel_values_videos"])
    assert np.array_equal(row["video_grid_thw"], real["video_grid_thw"])


def test_settings_make_the_same_processors_again(adapter: Adapter, processor: Any) -> None:
    maker = PixelMaker(describe_processor(adapter))
    for kind, part in (("image", processor.image_processor), ("video", processor.video_processor)):
        assert maker.part(kind).to_json_string() == part.to_json_string()


def test_another_grid_than_the_stored_one_raises_and_names_the_sample(
    kit: Path, stores: Any, make_sample: Any, adapter: Adapter, processor: Any
) -> None:
    media = [picture(kit / "data" / "images" / "coffee.png")]
    dataset = open_row(stores, make_sample, adapter, media, image_grid_thw=[[1, 2, 2]])
    with pytest.raises(StoreError, match=r"data-00000-of-00001\.arrow.*demo/7.*image_grid_thw"):
        dataset[0]


def test_a_damaged_picture_raises_and_names_the_sample(
    kit: Path, stores: Any, make_sample: Any, adapter: Adapter, processor: Any
) -> None:
    media = [picture(kit / "data" / "images" / "pillow" / "truncated_jpeg.jpg")]
    dataset = open_row(stores, make_sample, adapter, media, image_grid_thw=[[1, 2, 2]])
    with pytest.raises(StoreError, match=r"demo/7.*truncated_jpeg"):
        dataset[0]


def test_without_pixels_nothing_is_decoded(
    kit: Path, stores: Any, make_sample: Any, adapter: Adapter, processor: Any
) -> None:
    media = [picture(kit / "data" / "images" / "pillow" / "truncated_jpeg.jpg")]
    row = make_sample(7, media=media, image_grid_thw=np.array([[1, 2, 2]], np.int32))
    path = stores.tokenized([row], shards=1, runtime=describe_processor(adapter))
    item = ShardDataset(path, pixels=False)[0]
    assert "pixel_values" not in item
    assert item["n_images"] == 1


def test_token_types_equal_the_real_processors(
    kit: Path, stores: Any, make_sample: Any, adapter: Adapter, processor: Any
) -> None:
    from vlm_prep.stream import PadCollate

    media = [picture(kit / "data" / "images" / "coffee.png")]
    text = ["hello <|vision_start|><|image_pad|><|vision_end|> there"]
    real = processor(text=text, images=[load_media(media[0])], return_tensors="pt", return_mm_token_type_ids=True)
    ids = real["input_ids"][0].numpy().astype(np.int32)
    row = make_sample(
        7, media=media, image_grid_thw=real["image_grid_thw"].numpy().astype(np.int32), input_ids=ids, labels=ids
    )
    dataset = ShardDataset(stores.tokenized([row], shards=1, runtime=describe_processor(adapter)))
    batch = PadCollate.for_store(dataset, shift=False)([dataset[0]])
    for name in ("input_ids", "attention_mask", "mm_token_type_ids", "pixel_values", "image_grid_thw"):
        assert torch.equal(batch[name], real[name]), name


def test_files_are_read_as_bytes_past_the_part_and_become_its_floats(
    kit: Path, stores: Any, make_sample: Any, adapter: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    media = [picture(kit / "data" / "images" / name) for name in PICTURES]
    part = PixelMaker(describe_processor(adapter)).pixels(media)
    dataset = open_row(stores, make_sample, adapter, media, image_grid_thw=part["image_grid_thw"])
    coded = ShardDataset(str(dataset.path), pixels="bytes")
    assert torch.equal(dataset[0]["pixel_values"], part["pixel_values"])  # and looks at noise
    item = coded[0]
    assert isinstance(item["pixel_values"], CodedTensor)
    assert item["pixel_values"].shape[0] == len(part["pixel_values"])
    batch = PadCollate.for_store(coded)([item])
    assert batch["pixel_values_uint8"].dtype == torch.uint8
    assert torch.equal(to_pixel_values(batch, device="cpu")["pixel_values"], part["pixel_values"])

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("the part is not called for a picture")

    monkeypatch.setattr(QuickMaker, "call_part", never)
    assert torch.equal(coded[0]["pixel_values"].restored(), part["pixel_values"])
    assert torch.equal(dataset[0]["pixel_values"], part["pixel_values"])
