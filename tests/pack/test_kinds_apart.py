"""What a model cannot read in one batch is planned into packs of its own, and refused in batches."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlm_prep.core.errors import StoreError
from vlm_prep.core.pack_settings import PackConfig
from vlm_prep.engine.stage import RunOptions
from vlm_prep.pack import pack_plan
from vlm_prep.pack.demands import demands_of, frame_counts
from vlm_prep.pack.pack_plan import KINDS_APART, make_plan
from vlm_prep.pack.pack_run import dry_run, pack
from vlm_prep.processors.backbone import Backbone, possible_backbone
from vlm_prep.processors.kinds_apart import AUDIO, BOTH, IMAGE, VIDEO, check_apart, kinds_of_documents, sides_of
from vlm_prep.shards.layout import read_rejects
from vlm_prep.shards.media_kinds import kinds_of
from vlm_prep.shards.reader import Store
from vlm_prep.stream import PackedCollate, PadCollate, ShardDataset

Options = Callable[..., RunOptions]
PHI = Backbone(models=("phi4_multimodal",), kinds_apart=True)
GLM = Backbone(models=("glm4v",), pictures_or_videos=True)
ALL = np.arange(8, dtype=np.uint8)


def test_sides() -> None:
    assert sides_of(ALL, Backbone()).tolist() == [0] * 8
    phi, glm = sides_of(ALL, PHI), sides_of(ALL, GLM)
    assert (phi[0], phi[VIDEO], phi[IMAGE], phi[IMAGE | AUDIO], phi[AUDIO]) == (0, 0, 1, 1, 2)
    assert (glm[0], glm[AUDIO], glm[IMAGE], glm[VIDEO], glm[IMAGE | VIDEO]) == (0, 0, 1, 2, BOTH)


@pytest.mark.parametrize("model", ["glm4v", "glm46v", "glm4v_moe", "glm_ocr"])
def test_models_that_share_a_token_are_found(model: str) -> None:
    assert possible_backbone([model]).pictures_or_videos


@pytest.mark.parametrize("model", ["qwen2_vl", "qwen3_vl", "llava_onevision", "internvl"])
def test_others_are_not(model: str) -> None:
    found = possible_backbone([model])
    assert not found.pictures_or_videos and not found.numbers_pictures


def test_models_that_number_the_pictures_of_a_batch_take_one_row_with_pictures() -> None:
    found = possible_backbone(["hunyuan_vl"])
    assert found.numbers_pictures and found.has_rows_apart
    counts = (("a", 1), ("b", 0), ("c", 2))
    rows: list[dict[str, Any]] = [{"sample_id": name, "n_images": count} for name, count in counts]
    check_apart(rows[:2], found)
    with pytest.raises(ValueError, match="a and c have pictures: hunyuan_vl numbers those of a whole batch"):
        check_apart(rows, found)
    check_apart([{"sample_ids": ["a", "c"], "n_images": 3}, {"sample_ids": ["d"], "n_images": 1}], found)  # packs


def of_store(tokenized: Path, folder: Path, backbone: Backbone) -> Path:
    """The built-in store, which has pictures, videos and a row with both, as if it were another model's."""
    shutil.copytree(tokenized, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["processor"]["backbone"] = replace(backbone, text_axis=True).to_json()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("order", ["best_fit", "source"])
def test_no_pack_holds_both_sides(tokenized: Path, tmp_path: Path, world_size: int, order: Any) -> None:
    store = Store(of_store(tokenized, tmp_path / "tok", GLM))
    orders = {} if order == "best_fit" else {"pack_order": order}
    plan = make_plan(store, PackConfig(pack_length=2048, world_size=world_size, **orders), GLM)
    sides = sides_of(kinds_of(store), GLM)
    for number in range(plan.n_packs):
        assert len(set(sides[plan.pack(number)].tolist()) - {0}) <= 1
    assert {1, 2} <= set(sides[plan.rows].tolist())
    assert sorted([*plan.rows.tolist(), *plan.too_long.tolist()]) == list(range(len(store)))
    assert sides[plan.too_long].tolist() == [BOTH] and plan.too_long_in == [KINDS_APART]


def test_a_row_that_the_model_takes_alone_no_more_is_a_reject(
    tokenized: Path, options: Options, tmp_path: Path
) -> None:
    store = of_store(tokenized, tmp_path / "tok", GLM)
    config = PackConfig(pack_length=2048)
    assert dry_run(store, config)["rejected"] == {"longer_than_pack": 0, "unsupported_media": 1}
    manifest = pack(store, config, options(tmp_path / "packed"))
    assert manifest is not None
    assert manifest.totals["rejects"] == {"unsupported_media": 1}
    (reject,) = read_rejects(tmp_path / "packed")
    assert "cannot read in one batch" in reject["message"]
    packs = ShardDataset(tmp_path / "packed", shuffle=False)
    collate = PackedCollate.for_store(packs)
    for number in range(len(packs)):
        assert len(collate([packs[number]])["input_ids"]) == 1


def test_batches_of_packs_and_rows_of_both_sides_are_refused(tokenized: Path, options: Options, tmp_path: Path) -> None:
    store = of_store(tokenized, tmp_path / "tok", GLM)
    pack(store, PackConfig(pack_length=2048), options(tmp_path / "packed"))
    for collate, rows in ((PackedCollate, ShardDataset(tmp_path / "packed")), (PadCollate, ShardDataset(store))):
        kinds = rows.kinds()[[rows.row_number(number) for number in range(len(rows))]].tolist()
        seen, shown = kinds.index(IMAGE), kinds.index(VIDEO)
        with pytest.raises(ValueError, match="takes no pictures and videos in one batch"):
            collate.for_store(rows)([rows[seen], rows[shown]])


def test_sound_beside_which_padding_is_heard_is_in_no_pack(tokenized: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gemma 3n and Granite Speech; rows of pictures and text are packed."""
    hears, store = possible_backbone(["gemma3n"]), Store(tokenized)
    assert make_plan(store, PackConfig(pack_length=2048), hears).n_packs > 0
    demands = demands_of(store)
    demands.kinds[-1] |= AUDIO
    monkeypatch.setattr(pack_plan, "demands_of", lambda _: demands)
    with pytest.raises(StoreError, match="gemma3n has an encoder of sound which reads what pads a clip"):
        make_plan(store, PackConfig(pack_length=2048), hears)
    assert make_plan(store, PackConfig(pack_length=2048), possible_backbone(["gemma4"])).n_packs > 0


def test_videos_of_unequal_frames_are_no_batch_and_no_pack_where_a_model_stacks_them(
    tokenized: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stacks, store = possible_backbone(["llava_onevision"]), Store(tokenized)
    shapes = (("a", (1, 4)), ("also a", (2, 4)), ("b", (1, 6)))
    videos = [{"sample_id": name, "pixel_values_videos": np.zeros((*shape, 3, 8, 8))} for name, shape in shapes]
    check_apart([{"sample_id": "text"}, *videos[:2]], stacks)
    with pytest.raises(ValueError, match=r"b \(6\) and a \(4\) differ in their number of frames: llava_onevision"):
        check_apart(videos, stacks)
    check_apart(videos, possible_backbone(["internvl"]))
    assert frame_counts(store) == [8]
    assert make_plan(store, PackConfig(pack_length=2048), stacks).n_packs > 0
    monkeypatch.setattr(pack_plan, "frame_counts", lambda _: [4, 8])
    with pytest.raises(StoreError, match="as many frames of each video of a pack, and these have 4, 8"):
        make_plan(store, PackConfig(pack_length=2048), stacks)


@pytest.mark.parametrize("model", ["llava_next_video", "video_llava", "perception_lm"])
def test_models_that_stack_videos_are_found(model: str) -> None:
    assert possible_backbone([model]).stacks_videos


@pytest.mark.parametrize("model", ["nemotron_h_omni", "hyperclovax_vision_v2", "qwen2_5_vl", "gemma4", "smolvlm"])
def test_models_to_which_videos_are_frames_or_patches_are_not(model: str) -> None:
    assert not possible_backbone([model]).stacks_videos


def test_kinds_of_a_packs_documents() -> None:
    media = [{"kind": "image"}, {"kind": "audio"}, {"kind": "audio"}]
    assert kinds_of_documents(media, [1, 0, 2]) == (IMAGE, AUDIO)
    assert kinds_of_documents(media, [2, 0, 1]) == (AUDIO, IMAGE | AUDIO)
    assert kinds_of_documents([], [0, 0]) == ()


def test_documents_that_all_have_pictures_may_have_sound() -> None:
    fine = {"sample_ids": ["a", "b"], "document_kinds": (IMAGE, IMAGE | AUDIO), "n_images": 2, "n_audios": 1}
    check_apart([fine], PHI)
    with pytest.raises(ValueError, match="reads the sound of a whole batch in another way"):
        check_apart([{**fine, "document_kinds": (AUDIO, IMAGE | AUDIO)}], PHI)
