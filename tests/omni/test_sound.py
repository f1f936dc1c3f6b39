"""Videos with their sound among their frames: ids, features and positions are those of the real processor and model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from items import as_trained, mrope_of
from omni.sounds import CONFIG, FAMILIES, Options, decoded, sound_of

from vlm_prep.core.pack_settings import PackConfig
from vlm_prep.core.records import Media
from vlm_prep.ingest.source import Samples
from vlm_prep.media.probe import probe
from vlm_prep.pack.pack_run import pack
from vlm_prep.pack.positions import Mrope
from vlm_prep.processors.load import LoadedProcessor
from vlm_prep.shards.manifest import read_manifest
from vlm_prep.shards.reader import Store
from vlm_prep.stream import ShardDataset
from vlm_prep.tokenize.tokenize_run import tokenize
from vlm_prep.tokenize.verify.store import check_store

pytestmark = pytest.mark.usefixtures("gigatoken")


@pytest.fixture(scope="module", params=FAMILIES)
def store(
    request: pytest.FixtureRequest, folders: Path, sounding: Samples, options: Options, tmp_path_factory: Any
) -> Path:
    """The rows, tokenized with sound, each compared with the real processor."""
    out: Path = tmp_path_factory.mktemp(request.param) / "tok"
    tokenize(sounding, str(folders / request.param), CONFIG, options(out))
    return out


@pytest.fixture(scope="module")
def rows(store: Path) -> dict[str, dict[str, Any]]:
    """The rows of the store by name."""
    return {row["sample_id"]: row for row in Store(store).rows()}


@pytest.fixture(scope="module")
def items(store: Path) -> dict[str, dict[str, Any]]:
    """What training reads, by name."""
    dataset = ShardDataset(store, shuffle=False)
    return {item["sample_id"]: as_trained(item) for item in map(dataset.__getitem__, range(len(dataset)))}


def test_every_row_was_compared_with_the_real_processor(store: Path) -> None:
    proof = read_manifest(store).proof
    assert proof["rows"] == {
        "audio+image+video+video with sound": 1,
        "audio+video with sound": 1,
        "text": 1,
        "video": 1,
        "video with sound": 1,
        "video+video with sound": 1,
    }
    assert proof["different"] == 0 and proof["labels_found_twice"] == 6


def test_the_setting_is_in_the_manifest(store: Path) -> None:
    manifest = read_manifest(store)
    assert manifest.config["audio_in_video"] is True
    assert manifest.processor["audio_in_video"] is True


def header_of(video: Media) -> tuple[int, float]:
    """Its frames, and their number a second."""
    header = probe(video)[0].header
    assert header is not None and header.total_frames is not None and header.fps is not None
    return header.total_frames, header.fps


def test_ids_and_features_are_those_of_a_call_written_by_hand(
    store: Path,
    rows: dict[str, dict[str, Any]],
    items: dict[str, dict[str, Any]],
    sounding: Any,
    loaded: Callable[..., LoadedProcessor],
) -> None:
    hf = loaded(read_manifest(store).processor["family"]).hf
    sample = next(sample for sample in sounding.samples if sample.sample_id == "all")
    cards, silent, coffee, bunny, kennedy = sample.media
    with av.open(bunny.uris[0]) as container:
        track = sound_of(container, 16_000)
    metadata = [header_of(video) for video in (silent, bunny)]
    made = hf(
        text=[hf.apply_chat_template(sample.messages, tokenize=False)],
        images=[decoded(coffee, 16_000)],
        videos=[decoded(silent, 16_000), decoded(bunny, 16_000)],
        audio=[decoded(cards, 16_000), track, decoded(kennedy, 16_000)],
        audio_from_video_indices=[None, 1, None],
        load_audio_from_video=True,
        sampling_rate=16_000,
        return_tensors="pt",
        videos_kwargs={
            "do_sample_frames": False,
            "fps": metadata[1][1] / 8,  # one for the whole call: that of the video with sound, every eighth frame
            "video_metadata": [
                {"total_num_frames": frames, "fps": fps, "frames_indices": list(video.frame_indices)}
                for (frames, fps), video in zip(metadata, (silent, bunny), strict=True)
            ],
        },
    )
    assert made["input_ids"][0].tolist() == rows["all"]["input_ids"].tolist()
    item = items["all"]
    for name in (
        "input_features",
        "feature_attention_mask",
        "image_grid_thw",
        "video_grid_thw",
    ):
        assert torch.equal(item[name], made[name]), name
    seconds = [2 * step / fps for step, (_, fps) in zip((20, 8), metadata, strict=True)]
    assert torch.equal(item["video_second_per_grid"], torch.tensor(seconds, dtype=torch.float32))
    assert float(item["video_second_per_grid"][1]) == float(made["video_second_per_grid"][1])
    assert len(item["input_features"]) == 3


def test_sound_stands_among_the_frames(store: Path, rows: dict[str, dict[str, Any]]) -> None:
    rule = mrope_of(store)
    ids = rows["sound"]["input_ids"]
    starts = np.flatnonzero(ids == rule["vision_start_token_id"])
    assert ids[starts + 1].tolist() == [rule["audio_start_token_id"]]
    video, audio = (np.flatnonzero(ids == rule[f"{kind}_token_id"]) for kind in ("video", "audio"))
    if rule["scheme"] == "qwen2_5_omni":  # in chunks of two seconds, and the last step begins before the second one
        assert video[-1] < audio[0]
    else:
        assert audio[0] < video[-1] and video[0] < audio[-1]
    assert np.count_nonzero(rows["silent"]["input_ids"] == rule["audio_token_id"]) == 0
    assert [item["samples"] is not None for item in rows["both"]["media"]] == [False, True]


def test_positions_in_packs_are_those_of_the_real_model(
    store: Path, options: Options, thinker: Callable[[Mrope], Any], items: dict[str, dict[str, Any]]
) -> None:
    out = store.with_name("packed")
    pack(store, PackConfig(pack_length=2600), options(out))
    rule = Mrope(**mrope_of(out))
    model, compared = thinker(rule), set()
    for each in Store(out).rows():
        parts = np.split(each["position_ids"], np.cumsum(each["seq_lens"])[:-1], axis=1)
        for name, found in zip(each["sample_ids"], parts, strict=True):
            if name not in ("both", "all"):  # rows of both kinds of videos: the model loses count of them
                assert np.array_equal(found, real_positions(model, items[name])), name
                compared.add(name)
    assert compared == {"text", "sound", "sounds", "silent"}


def real_positions(model: Any, item: dict[str, Any]) -> np.ndarray:
    ids = item["input_ids"][None]
    heard = "feature_attention_mask" in item
    positions, _ = model.get_rope_index(
        input_ids=ids,
        video_grid_thw=item["video_grid_thw"] if item["n_videos"] else None,
        attention_mask=torch.ones_like(ids),
        use_audio_in_video=heard,
        audio_seqlens=item["feature_attention_mask"].sum(-1) if heard else None,
        second_per_grids=item["video_second_per_grid"],
    )
    result: np.ndarray = positions[:, 0].numpy()
    return result


@pytest.mark.parametrize("store", FAMILIES[1:], indirect=True)
def test_verify_compares_such_a_store_again(store: Path, folders: Path) -> None:
    family = read_manifest(store).processor["family"]
    found = check_store(store, str(folders / family), 1.0, lambda *counts: None)
    assert found.sound and sum(counts["checked"] for counts in found.kinds.values()) == 6


def test_what_ingest_probed_is_probed_again_for_its_track(
    folders: Path, sounding: Any, options: Options, tmp_path: Path
) -> None:
    known = tuple(
        replace(sample, media=tuple(probe(media)[0] for media in sample.media))
        for sample in sounding.samples
        if sample.sample_id in ("sound", "silent")
    )
    config = replace(CONFIG, verify_fraction=0.0)
    tokenize(replace(sounding, samples=known), str(folders / FAMILIES[1]), config, options(tmp_path / "out"))
    stored = {row["sample_id"]: row["media"][0] for row in Store(tmp_path / "out").rows()}
    assert (stored["sound"]["samples"], stored["sound"]["sampling_rate"]) == (254_976, 48_000)
    assert stored["silent"]["samples"] is None


@pytest.mark.parametrize("store", FAMILIES[1:], indirect=True)
def test_without_the_setting_videos_are_silent(
    store: Path, folders: Path, sounding: Any, options: Options, tmp_path: Path
) -> None:
    family = read_manifest(store).processor["family"]
    one = replace(sounding, samples=tuple(s for s in sounding.samples if s.sample_id == "sound"))
    tokenize(one, str(folders / family), replace(CONFIG, audio_in_video=False), options(tmp_path / "out"))
    row = Store(tmp_path / "out").row(0)
    audio = mrope_of(store)["audio_token_id"]
    assert not np.any(row["input_ids"] == audio)
    assert row["media"][0]["samples"] is None
    assert read_manifest(store).fingerprint != read_manifest(tmp_path / "out").fingerprint
