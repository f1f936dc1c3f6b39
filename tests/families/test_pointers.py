"""Tensors that point into those of the whole batch: Molmo 2's, in batches and packs, against its own processor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from families.rows import Made, picture, row
from sources import Rows

from vlm_prep.core.errors import StoreError
from vlm_prep.core.pack_settings import PackConfig
from vlm_prep.core.records import Media
from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.engine.run_options import RunOptions
from vlm_prep.media.decode import load_media
from vlm_prep.pack.pack_run import pack
from vlm_prep.processors.load import load_processor
from vlm_prep.processors.payload.pointers import find_pointers, pointers_of
from vlm_prep.processors.payload.stored_video import video_metadata
from vlm_prep.shards.reader import Store
from vlm_prep.stream import PadCollate, ShardDataset
from vlm_prep.tokenize.tokenize_run import tokenize

Options = Callable[..., RunOptions]
KINDS = {
    "image": ("image_token_pooling", "pixel_values"),
    "video": ("video_token_pooling", "pixel_values_videos"),
}


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Torch in one thread, as in a run: the resize of Molmo 2's processor, in float, sums otherwise in two."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def real_batch(hf: Any, rows: list[list[dict[str, Any]]]) -> dict[str, torch.Tensor]:
    """What the processor makes of the rows' media in one call a kind."""
    found: dict[str, torch.Tensor] = {}
    for kind, argument, token in (("image", "images", "<|image|>"), ("video", "videos", "<|video|>")):
        given = [each for media in rows if (each := [item for item in media if item["kind"] == kind])]
        if not given:
            continue
        call: dict[str, Any] = {argument: [[load_media(item) for item in each] for each in given]}
        if kind == "video":
            told = [video_metadata(item) for each in given for item in each]
            call["videos_kwargs"] = {"do_sample_frames": False, "video_metadata": told}
        found |= dict(hf(text=[token * len(each) for each in given], padding=True, return_tensors="pt", **call))
    return found


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("payload", ["reference", "pixels"])
def test_batches_and_packs_of_molmo2_point_as_its_processor_does(
    payload: Literal["reference", "pixels"], made: Made, kit: Path, tmp_path: Path, options: Options
) -> None:
    coffee, cat, tiny = (picture(kit / "data", name) for name in ("coffee.png", "chelsea.png", "china_6x5.png"))
    files = str(kit / "data" / "videos" / "bikes.mp4"), str(kit / "data" / "videos" / "carphone_distorted.mp4")
    videos = [Media(kind="video", uris=(file,), frame_indices=(0, 10, 20)[: 3 - n]) for n, file in enumerate(files)]
    pictures = row("one", coffee), row("two", tiny, cat), row("text"), row("3", cat)
    rows = (*pictures, *(row(f"video {number}", video) for number, video in enumerate(videos)))
    folder = made("Molmo2Processor")
    assert tokenize(Rows(rows), str(folder), TokenizeConfig(media=payload), options(tmp_path / "tok")) is not None
    hf = load_processor(str(folder)).hf
    data = ShardDataset(tmp_path / "tok")
    store = Store(tmp_path / "tok")
    media = {row["sample_id"]: list(row["media"]) for row in map(store.row, range(len(store)))}
    collate, items = PadCollate.for_store(data), [data[number] for number in range(len(data))]
    with pytest.raises(ValueError, match="takes no pictures and videos in one batch"):
        collate(items)
    for kind, names in KINDS.items():
        of_kind = [item for item in items if item[f"n_{kind}s"]]
        batch, real = collate(of_kind), real_batch(hf, [media[item["sample_id"]] for item in of_kind])
        for name in names:
            assert torch.equal(batch[name], real[name].to(batch[name].dtype)), name

    pack(tmp_path / "tok", PackConfig(pack_length=8192), options(tmp_path / "packed"))
    packs = ShardDataset(tmp_path / "packed")
    for item in (packs[number] for number in range(len(packs))):
        assert len(item["sample_ids"]) > 1
        real = real_batch(hf, [media[each] for each in item["sample_ids"]])
        for name in (name for names in KINDS.values() for name in names if name in real):
            ours = torch.as_tensor(item[name])
            assert torch.equal(ours, real[name].to(ours.dtype)), name


def test_stores_that_do_not_say_where_molmo2_points_are_refused() -> None:
    part: Any = {"outputs": {"a": ("image_token_pooling", 0)}}
    with pytest.raises(StoreError, match="image_token_pooling points into the pixels of the whole batch"):
        pointers_of({"image": part})
    part["pointers"] = {"image_token_pooling": ("pixel_values", 9)}
    assert pointers_of({"image": part})


def test_what_grows_otherwise_is_no_pointer() -> None:
    pixels, ids = torch.zeros(3, 4, 2), torch.tensor([[0, 5], [-1, 11]])
    assert find_pointers({"p": pixels, "i": ids}, {"p": torch.cat([pixels] * 2), "i": torch.cat([ids, ids])}) == {}
    flags = torch.tensor([True]), torch.tensor(3)
    assert find_pointers({"a": flags[0], "b": flags[1]}, {"a": torch.cat([flags[0]] * 2), "b": flags[1]}) == {}
    on = torch.tensor([[12, 17], [-1, 23]])
    assert find_pointers({"p": pixels, "i": ids}, {"i": torch.cat([ids, on])}) == {"i": ("p", 4)}
    # a step that no rows of another tensor explain, and one that is not the same everywhere
    assert find_pointers({"p": pixels, "i": ids}, {"i": torch.cat([ids, on + 1])}) == {}
    assert find_pointers({"p": pixels, "i": ids}, {"i": torch.cat([ids, on * 2])}) == {}
