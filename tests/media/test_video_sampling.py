"""Rules of other libraries give those libraries' own frames; pictures of several frames are what a run says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vlm_prep.core.errors import InputError, Reject
from vlm_prep.core.records import Media, MediaHeader
from vlm_prep.core.settings import ProcessorConfig, TokenizeConfig
from vlm_prep.engine.stage import RunOptions
from vlm_prep.ingest.source import open_samples
from vlm_prep.media.probe import probe
from vlm_prep.media.rules import MediaRules
from vlm_prep.processors.torchvision_cpu import ensure_torchvision
from vlm_prep.processors.video_sampling import frames_by_rule
from vlm_prep.shards.reader import Store
from vlm_prep.tokenize.tokenize_run import tokenize

Options = Callable[..., RunOptions]


@pytest.mark.parametrize("total", [2, 3, 5, 30, 301, 1800, 20000])
@pytest.mark.parametrize("rate", [10.0, 29.97, 59.94])
@pytest.mark.parametrize("asked", [{}, {"fps": 1.0}, {"fps": 0.3, "min_frames": 6}, {"max_frames": 31}])
def test_qwens_rule_is_that_of_qwen_vl_utils(total: int, rate: float, asked: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    ensure_torchvision()
    qwen = pytest.importorskip("qwen_vl_utils.vision_process")
    header = MediaHeader(total_frames=total, fps=rate)
    found = _frames("qwen_vl_utils", header, ProcessorConfig(**asked))
    try:
        number = qwen.smart_nframes(dict(asked), total_frames=total, video_fps=rate)
    except ValueError:
        assert found is None
        return
    assert found == tuple(torch.linspace(0, total - 1, number).round().long().tolist())


def _frames(rule: str, header: MediaHeader, config: ProcessorConfig) -> tuple[int, ...] | None:
    try:
        return frames_by_rule(rule, header, config, None)
    except Reject:
        return None


@pytest.mark.parametrize(("total", "most"), [(300, None), (300, 8), (60, 8), (5, 8)])
def test_llavas_rule_is_that_of_its_training_code(total: int, most: int | None) -> None:
    header = MediaHeader(total_frames=total, fps=29.97)
    expected = list(range(0, total, round(29.97 / 1)))
    if most is not None and len(expected) > most:
        expected = np.linspace(0, total - 1, most, dtype=int).tolist()
    assert list(frames_by_rule("llava", header, ProcessorConfig(max_frames=most), None)) == expected


def test_uniform_takes_first_and_last_and_never_more_than_there_are() -> None:
    header = MediaHeader(total_frames=100, fps=25.0)
    assert frames_by_rule("uniform:4", header, ProcessorConfig(), None) == (0, 33, 66, 99)
    assert frames_by_rule("uniform:900", header, ProcessorConfig(), None) == tuple(range(100))


@pytest.mark.parametrize("rule", ["uniform", "uniform:0", "every", ""])
def test_an_unknown_rule_is_refused(rule: str) -> None:
    with pytest.raises(InputError, match="no such rule"):
        ProcessorConfig(video_sampling=rule)


def test_the_frames_of_a_rule_are_frozen_in_the_store_and_proven(kit: Path, tmp_path: Path, options: Options) -> None:
    turns = [{"role": "user", "content": "<video>?"}, {"role": "assistant", "content": "ok"}]
    clip = str(kit / "data" / "videos" / "bikes.mp4")
    (tmp_path / "rows.jsonl").write_text(json.dumps({"messages": turns, "videos": [clip]}))
    config = TokenizeConfig(video_sampling="uniform:6", verify_fraction=1.0)
    tokenize(open_samples(tmp_path / "rows.jsonl"), "builtin:qwen2.5-vl-mini", config, options(tmp_path / "out"))
    media = Store(tmp_path / "out").row(0)["media"][0]
    assert list(media["frame_indices"]) == [0, 50, 100, 149, 199, 249] and media["decoder"] == "pyav"


# --- pictures of several frames -----


def animation(path: Path, kind: str) -> Media:
    frames = [Image.new("RGB", (64, 64), (80 * number, 9, 9)) for number in range(3)]
    frames[0].save(path, kind, save_all=True, append_images=frames[1:])
    return Media(kind="image", uris=(str(path),))


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_is_taken_and_counted_unless_they_are_rejected(tmp_path: Path, kind: str, keep: bool) -> None:
    media = animation(tmp_path / "a.jpg", kind)
    found, _ = probe(media, keep_bytes=keep)
    assert found.kind == "image" and found.notes == ("first_frames",)
    with pytest.raises(Reject, match="3 frames") as caught:
        probe(media, keep_bytes=keep, rules=MediaRules(multi_frame="reject"))
    assert caught.value.reason.value == "unsupported_media"
    Image.new("RGB", (64, 64)).save(tmp_path / "one", kind)
    assert probe(Media(kind="image", uris=(str(tmp_path / "one"),)), keep_bytes=keep)[0].notes == ()


def test_a_picture_of_several_frames_can_be_a_video(tmp_path: Path, options: Options) -> None:
    animation(tmp_path / "a.gif", "GIF")
    Image.new("RGB", (64, 64)).save(tmp_path / "b.png")
    turns = [{"role": "user", "content": "<image> and <image>?"}, {"role": "assistant", "content": "ok"}]
    (tmp_path / "rows.jsonl").write_text(json.dumps({"messages": turns, "images": ["a.gif", "b.png"]}))
    config = TokenizeConfig(multi_frame="video", verify_fraction=1.0)
    tokenize(open_samples(tmp_path / "rows.jsonl"), "builtin:qwen2.5-vl-mini", config, options(tmp_path / "out"))
    row = Store(tmp_path / "out").row(0)
    assert [media["kind"] for media in row["media"]] == ["video", "image"]
    assert len(row["media"][0]["frame_indices"]) == 3


def test_pages_of_a_tiff_are_no_video(tmp_path: Path) -> None:
    with pytest.raises(Reject) as caught:
        probe(animation(tmp_path / "a.tif", "TIFF"), rules=MediaRules(multi_frame="video"))
    assert caught.value.reason.value == "unreadable_video"
