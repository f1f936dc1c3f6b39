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
from PIL import Image
from scipy.signal import resample_poly

from vlm_prep.core.errors import InputError, ProcessorError, Reject
from vlm_prep.core.pack_settings import PackConfig
from vlm_prep.core.records import Media, MediaHeader, Sample
from vlm_prep.core.settings import ProcessorConfig, TokenizeConfig
from vlm_prep.engine.stage import RunOptions
from vlm_prep.ingest.source import Samples, open_samples
from vlm_prep.media.probe import probe
from vlm_prep.pack.pack_run import pack
from vlm_prep.pack.positions import Mrope
from vlm_prep.processors.families.table import adapter_for
from vlm_prep.processors.load import LoadedProcessor, load_processor
from vlm_prep.shards.manifest import read_manifest
from vlm_prep.shards.reader import Store
from vlm_prep.stream import ShardDataset
from vlm_prep.tokenize.encoder import SampleEncoder
from vlm_prep.tokenize.tokenize_run import tokenize
from vlm_prep.tokenize.verify.store import check_store

pytestmark = pytest.mark.usefixtures("gigatoken")

FAMILIES = ("qwen2_5_omni", "qwen3_omni_moe")
Options = Callable[..., RunOptions]
CONFIG = TokenizeConfig(media="reference", audio_in_video=True)


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


def decoded(media: Media, rate: int) -> Any:
    """A media of a row, read in another way than vlm_prep does."""
    if media.kind == "image":
        return Image.open(media.uris[0]).convert("RGB")
    if media.kind == "audio":
        with av.open(media.uris[0]) as container:
            return sound_of(container, rate)
    with av.open(media.uris[0]) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return np.stack([pictures[index] for index in media.frame_indices or ()])


def header_of(video: Media) -> tuple[int, float]:
    """Its frames, and their number a second."""
    header = probe(video)[0].header
    assert header is not None and header.total_frames is not None and header.fps is not None
    return header.total_frames, header.fps


def sound_of(container: Any, rate: int) -> Any:
    """The sound of a file, its channels averaged, at `rate`."""
    frames = list(container.decode(audio=0))
    wave = np.concatenate([samples_of(frame) for frame in frames], axis=1).mean(axis=0, dtype=np.float32)
    found = frames[0].sample_rate
    return wave if found == rate else resample_poly(wave, rate, found).astype(np.float32)


def samples_of(frame: Any) -> Any:
    """float32 (channels, samples)"""
    values = frame.to_ndarray()
    if not frame.format.is_planar:
        values = values.reshape(-1, len(frame.layout.channels)).T
    return values.astype(np.float32) / (32_768 if values.dtype == np.int16 else 1)


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


@pytest.mark.parametrize(("family", "fps", "seconds"), [(FAMILIES[0], 4.0, 0.5), (FAMILIES[1], 2.0, 1.0)])
def test_the_seconds_of_a_step_are_those_of_the_rate_that_was_asked_for(
    loaded: Callable[..., LoadedProcessor],
    media: Callable[..., Media],
    family: str,
    fps: float,
    seconds: float,
) -> None:
    clip, _ = probe(media("video", "big_buck_bunny_small.mp4"))
    own = clip.header.fps if clip.header is not None and clip.header.fps else 0
    frames = Media(kind="video", uris=clip.uris * 6, frame_list=True, fps=3.0, header=clip.header)
    listed = replace(frames, header=replace(clip.header, total_frames=6, fps=None))  # type: ignore[type-var]
    for rate, chosen, wanted in (
        (fps, clip, seconds),
        (None, replace(clip, frame_indices=(0, 10)), 20 / own),
        (fps, replace(clip, frame_indices=tuple(range(0, 60, 3))), 6 / own),
        (None, replace(clip, frame_indices=(0, 1, 10)), 2 / (3 / clip.header.total_frames * own)),  # type: ignore
        (None, clip, 2 / own),
        (None, listed, 2 / 3),
    ):
        made = adapter_for(loaded(family, fps=rate)).expand([chosen])[0].geometry["video_second_per_grid"]
        assert made.tolist() == [float(np.float32(wanted))]


@pytest.mark.parametrize("family", FAMILIES)
def test_frames_without_a_rate_are_refused(
    loaded: Callable[..., LoadedProcessor], media: Callable[..., Media], family: str
) -> None:
    clip, _ = probe(media("video", "big_buck_bunny_small.mp4"))
    frames = replace(clip, uris=clip.uris * 6, frame_list=True, header=MediaHeader(height=64, width=64, total_frames=6))
    with pytest.raises(Reject) as caught:
        adapter_for(loaded(family)).expand([frames])
    assert caught.value.reason.value == "missing_fps"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_sampled_video_is_what_the_processor_makes_of_it_when_it_samples_itself(
    loaded: Callable[..., LoadedProcessor], media: Callable[..., Media], family: str
) -> None:
    clip, _ = probe(media("video", "big_buck_bunny_small.mp4"), track=True)
    asked = [{"type": "video"}, {"type": "text", "text": "What?"}]
    answer = [{"type": "text", "text": "Yes."}]
    messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
    sample = Sample(sample_id="1", dataset="d", source="s", line=1, messages=messages, media=(clip,))
    config = TokenizeConfig(audio_in_video=True, fps=2.0)
    row = SampleEncoder(adapter_for(loaded(family, fps=2.0, audio_in_video=True)), config).encode(sample, (None,))
    with av.open(clip.uris[0]) as container:
        track = sound_of(container, 16_000)
    every = replace(clip, frame_indices=tuple(range(clip.header.total_frames or 0)))  # type: ignore[union-attr]
    metadata = {"total_num_frames": clip.header.total_frames, "fps": clip.header.fps}  # type: ignore[union-attr]
    hf = loaded(family).hf
    made = hf(
        text=[hf.apply_chat_template(messages, tokenize=False)],
        videos=[decoded(every, 16_000)],
        audio=[track],
        audio_from_video_indices=[0],
        load_audio_from_video=True,
        sampling_rate=16_000,
        videos_kwargs={"do_sample_frames": True, "fps": 2.0, "video_metadata": [metadata]},
        return_tensors="pt",
    )
    assert row.input_ids.tolist() == made["input_ids"][0].tolist()
    for name in ("video_grid_thw", "video_second_per_grid"):
        assert row.geometry[name].tolist() == made[name].tolist() and len(row.geometry[name])


def test_families_that_cannot_refuse_the_setting() -> None:
    loaded = load_processor("builtin:qwen2.5-vl-mini", ProcessorConfig(audio_in_video=True))
    with pytest.raises(ProcessorError, match="`audio_in_video`: qwen2_5_vl") as error:
        adapter_for(loaded)
    assert "Qwen3-Omni" in str(error.value.hint)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "samples",
    [(201,), (320,), (16_092,), (16_000, 15_999), (16_100, 16_001), (100, 16_092), (16_161, 16_092, 200)],
    ids=str,
)
def test_frames_of_waveforms_are_those_of_the_real_extractor(
    loaded: Callable[..., LoadedProcessor], family: str, samples: tuple[int, ...]
) -> None:
    """A waveform padded to a longer one has a frame for its last part of a hop, the longest has not."""
    adapter: Any = adapter_for(loaded(family))
    waves = [np.zeros(count, np.float32) for count in samples]
    made = adapter.hf.feature_extractor(waves, **adapter.part_record("audio").kwargs)
    assert adapter.audio_frames(samples) == made["attention_mask"].sum(-1).tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_sound_too_short_for_a_token_is_a_reject(loaded: Callable[..., LoadedProcessor], family: str) -> None:
    adapter = adapter_for(loaded(family))
    header = MediaHeader(samples=200, sampling_rate=16_000)
    with pytest.raises(Reject, match=r"cannot take audio of 200 samples: (too short|shorter)"):
        adapter.expand([Media(kind="audio", uris=("short.wav",), header=header)])


def test_sound_that_starts_later_is_placed_as_the_setting_says_and_as_the_processor_places_it(
    folders: Path, kit: Path, options: Options, tmp_path: Path
) -> None:
    case = kit / "cases" / "08-omni-av"
    if not case.is_dir():
        pytest.skip("this kit has no cases")
    waves = {}
    for offset in ("ignore", "keep"):
        out, config = tmp_path / offset, replace(CONFIG, sound_offset=offset, verify_fraction=1.0, fps=2.0)
        tokenize(open_samples(case / "rows.jsonl"), str(folders / "qwen3_omni_moe"), config, options(out))
        manifest = read_manifest(out)
        assert manifest.proof["rows"] == {"video": 1, "video with sound": 4}  # and none differs
        assert manifest.totals["sound_starts_elsewhere"] == 1
        row = next(row for row in Store(out).rows() if row["sample_id"] == "rows/3")
        waves[offset] = int(row["media"][0]["samples"])
    assert waves["keep"] - waves["ignore"] == round(0.976 * 44_100)


def test_an_offset_without_sound_is_refused() -> None:
    with pytest.raises(InputError, match="changes nothing without `audio_in_video`"):
        TokenizeConfig(sound_offset="keep")
