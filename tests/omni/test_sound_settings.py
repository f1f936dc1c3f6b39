"""Settings of sound and of rates: what other ones make, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from omni.sounds import CONFIG, FAMILIES, Options, decoded, sound_of

from vlm_prep.core.errors import InputError, ProcessorError, Reject
from vlm_prep.core.records import Media, MediaHeader, Sample
from vlm_prep.core.settings import ProcessorConfig, TokenizeConfig
from vlm_prep.ingest.source import open_samples
from vlm_prep.media.probe import probe
from vlm_prep.processors.families.table import adapter_for
from vlm_prep.processors.load import LoadedProcessor, load_processor
from vlm_prep.shards.manifest import read_manifest
from vlm_prep.shards.reader import Store
from vlm_prep.tokenize.encoder import SampleEncoder
from vlm_prep.tokenize.tokenize_run import tokenize

pytestmark = pytest.mark.usefixtures("gigatoken")


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
