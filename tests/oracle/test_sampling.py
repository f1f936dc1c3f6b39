"""Our frames are those that the processor samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracle.cases import NAMES, Load, clip

from vlm_prep.core.records import Media
from vlm_prep.media.probe import probe
from vlm_prep.processors.families.table import adapter_for

pytestmark = pytest.mark.usefixtures("gigatoken")

# --- frame sampling -----


@pytest.mark.parametrize("clip_name", ["h265_video.mp4", "carphone_pristine.mp4", "transparent.webm"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "settings",
    [{"fps": 1}, {"fps": 2}, {"fps": 0.5}, {"fps": 24}, {"fps": 2, "min_frames": 8}, {"fps": 10, "max_frames": 7}],
    ids=str,
)
def test_our_frames_are_those_that_the_processor_samples(
    kit: Path,
    loaded: Load,
    monkeypatch: pytest.MonkeyPatch,
    clip_name: str,
    name: str,
    settings: dict[str, Any],
) -> None:
    path = kit / "data" / "videos" / clip_name
    processor = loaded(name)
    video = processor.hf.video_processor
    for key, value in {**settings, "do_sample_frames": True, "num_frames": None}.items():
        monkeypatch.setattr(video, key, value)
    media, _ = probe(Media(kind="video", uris=(str(path),)))
    ours = adapter_for(processor).expand([media])[0]
    frames, metadata = clip(path)
    # sampling and grids do not look at pixels
    small = np.zeros((len(frames), *frames.shape[1:]), np.uint8)
    real = video(videos=[small], video_metadata=[metadata], return_metadata=True, return_tensors="pt")
    assert list(ours.frame_indices or ()) == [int(index) for index in real["video_metadata"][0].frames_indices]
    assert list(ours.geometry["video_grid_thw"][0]) == real["video_grid_thw"][0].tolist()


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen3_vl"])
def test_a_clip_of_one_frame_is_a_reject_where_the_processor_fails(
    loaded: Load, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    from vlm_prep.core.errors import Reject
    from vlm_prep.core.records import MediaHeader

    processor = loaded(name)
    monkeypatch.setattr(processor.hf.video_processor, "fps", 2)
    monkeypatch.setattr(processor.hf.video_processor, "do_sample_frames", True)
    header = MediaHeader(height=64, width=64, total_frames=1, fps=25.0, digests=("",))
    media = Media(kind="video", uris=("one.mp4",), header=header)
    with pytest.raises(Reject) as caught:
        adapter_for(processor).expand([media])[0]
    assert caught.value.reason.value == "processor_error"
