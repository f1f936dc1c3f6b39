"""What a processor leaves out of pictures and videos is counted: cropped edges, frames beyond its most."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from families.zoo import make
from PIL import Image

from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.engine.stage import RunOptions
from vlm_prep.ingest.source import open_samples
from vlm_prep.processors.families.table import adapter_for
from vlm_prep.processors.left_out import center_crop, most_frames
from vlm_prep.processors.load import load_processor
from vlm_prep.shards.layout import read_rejects
from vlm_prep.tokenize.tokenize_run import tokenize

Options = Callable[..., RunOptions]
ANSWER = {"role": "assistant", "content": "Yes."}


def totals(rows: list[Any], processor: Path, tmp_path: Path, options: Options, **config: Any) -> dict[str, Any]:
    """What the manifest counts of rows."""
    source = tmp_path / "rows.jsonl"
    source.write_text("\n".join(map(json.dumps, rows)))
    manifest = tokenize(
        open_samples(source), str(processor), TokenizeConfig(**config), options(tmp_path / "out", max_reject_rate=1.0)
    )
    assert manifest is not None and manifest.totals["rows_written"] == len(rows)
    return manifest.totals


@pytest.mark.parametrize(("crop", "cropped"), [(True, 2), (False, 0)])
def test_pictures_of_which_edges_are_cropped_are_counted(
    tmp_path: Path, options: Options, crop: bool, cropped: int
) -> None:
    processor = make("LlavaProcessor")
    processor.image_processor.do_center_crop = crop
    processor.image_processor.do_resize = True
    processor.image_processor.size = {"shortest_edge": 56} if crop else {"height": 56, "width": 56}
    processor.image_processor.crop_size = {"height": 56, "width": 56}
    processor.save_pretrained(tmp_path / "llava")
    rows = []
    for size in ((100, 100), (200, 100), (100, 140)):
        path = tmp_path / f"{size[0]}x{size[1]}.png"
        Image.new("RGB", size, "red").save(path)
        rows.append({"images": [str(path)], "messages": [{"role": "user", "content": "<image>?"}, ANSWER]})
    assert totals(rows, tmp_path / "llava", tmp_path, options).get("pictures_cropped", 0) == cropped
    adapter = adapter_for(load_processor(str(tmp_path / "llava")))
    assert center_crop(adapter) == ((56, 56) if crop else None)


def test_rows_of_which_something_is_left_out_may_be_rejected(
    folders: Callable[[str], Path], kit: Path, tmp_path: Path, options: Options
) -> None:
    clip = str(kit / "data" / "videos" / "bikes.mp4")  # 10 s
    turns = [{"role": "user", "content": "<video>?"}, ANSWER]
    (tmp_path / "rows.jsonl").write_text(
        "\n".join(json.dumps({"videos": [each], "messages": turns}) for each in (clip, {"path": clip, "fps": 0.5}))
    )
    config = TokenizeConfig(fps=2.0, max_frames=8, max_pixels=64 * 32 * 32, left_out="reject")
    made = options(tmp_path / "out", max_reject_rate=1.0)
    manifest = tokenize(open_samples(tmp_path / "rows.jsonl"), str(folders("qwen3_vl")), config, made)
    assert manifest is not None and manifest.totals["rows_written"] == 1
    (reject,) = read_rejects(tmp_path / "out")
    assert reject["reason"] == "unsupported_media"
    assert (
        reject["message"].startswith(f"{clip}: the processor takes 8 frames of 10") and "left_out" in reject["message"]
    )


def test_videos_with_more_frames_than_the_processor_takes_are_counted(
    folders: Callable[[str], Path], kit: Path, tmp_path: Path, options: Options
) -> None:
    clip = str(kit / "data" / "videos" / "bikes.mp4")  # 10 s
    turns = [{"role": "user", "content": "<video>?"}, ANSWER]
    rows: list[Any] = [
        {"videos": [clip], "messages": turns},
        {"videos": [{"path": clip, "frame_indices": [0, 9, 18, 27]}], "messages": turns},
    ]
    capped = totals(rows, folders("qwen3_vl"), tmp_path, options, fps=2.0, max_frames=8, max_pixels=64 * 32 * 32)
    assert capped["frames_capped"] == 1
    config = TokenizeConfig(fps=2.0, max_frames=8).processor
    assert most_frames(adapter_for(load_processor(str(folders("qwen3_vl")), config))) == 8
    whole = tmp_path / "whole"
    whole.mkdir()
    assert "frames_capped" not in totals(
        rows, folders("qwen3_vl"), whole, options, fps=2.0, max_frames=32, max_pixels=64 * 32 * 32
    )
