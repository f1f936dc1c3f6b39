"""Rejects that real processors cause: each names the file or the message, and what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.engine.stage import RunOptions
from vlm_prep.ingest.source import open_samples
from vlm_prep.shards.layout import read_rejects
from vlm_prep.tokenize.tokenize_run import tokenize

Folders = Callable[[str], Path]
Options = Callable[..., RunOptions]
ANSWER = {"role": "assistant", "content": "Yes."}


def the_rejects(rows: list[Any], processor: Path, tmp_path: Path, options: Options) -> list[tuple[str, str]]:
    """Reason and message of each reject."""
    source, out = tmp_path / "rows.jsonl", tmp_path / "out"
    source.write_text("\n".join(map(json.dumps, rows)))
    tokenize(open_samples(source), str(processor), TokenizeConfig(), options(out, max_reject_rate=1.0))
    return [(row["reason"], row["message"]) for row in read_rejects(out)]


@pytest.mark.parametrize("name", ["qwen2_5_omni", "phi4_multimodal"])
def test_a_clip_that_is_too_short_is_named(folders: Folders, tmp_path: Path, options: Options, name: str) -> None:
    for file, samples in (("word.wav", 16_000), ("tick.wav", 16)):
        soundfile.write(tmp_path / file, np.random.default_rng(0).normal(0, 0.1, samples), 16_000)
    rows = [
        {"audios": [file], "messages": [{"role": "user", "content": "<audio>?"}, ANSWER]}
        for file in ("word.wav", "tick.wav", "word.wav")
    ]
    ((reason, message),) = the_rejects(rows, folders(name), tmp_path, options)
    assert reason == "processor_error"
    assert message.startswith(f"{tmp_path}/tick.wav: the processor cannot take audio of 16 samples: ")


def test_of_several_clips_the_one_that_is_too_short_is_named(
    folders: Folders, tmp_path: Path, options: Options
) -> None:
    for file, samples in (("word.wav", 16_000), ("tick.wav", 16)):
        soundfile.write(tmp_path / file, np.random.default_rng(0).normal(0, 0.1, samples), 16_000)
    question = {"role": "user", "content": "<audio><audio><audio>?"}
    rows = [{"audios": ["word.wav", "tick.wav", "word.wav"], "messages": [question, ANSWER]}]
    ((_, message),) = the_rejects(rows, folders("phi4_multimodal"), tmp_path, options)
    assert message.startswith(f"{tmp_path}/tick.wav: the processor cannot take audio of 16 samples: ")


@pytest.mark.parametrize("name", ["gemma3", "gemma4", "qwen3_vl"])
def test_a_picture_that_the_template_leaves_out_is_said_with_its_message(
    folders: Folders, kit: Path, tmp_path: Path, options: Options, name: str
) -> None:
    picture = {"type": "image", "image": str(kit / "data" / "images" / "coffee.png")}
    system = {"role": "system", "content": [{"type": "text", "text": "Style guide: "}, picture]}
    rows = [
        {"messages": [system, {"role": "user", "content": "Describe."}, ANSWER]},
        {"messages": [{"role": "user", "content": "Hi."}, ANSWER]},
    ]
    other = "(`chat_template` gives another template)"
    assert the_rejects(rows, folders(name), tmp_path, options) == [
        ("unsupported_media", f"message 1: the chat template writes no image in turns of the system {other}")
    ]


def test_too_few_frames_are_said_with_the_file_and_the_setting(
    folders: Folders, kit: Path, tmp_path: Path, options: Options
) -> None:
    clip = kit / "cases" / "06-few-frames" / "media" / "f5.mp4"
    if not clip.is_file():
        pytest.skip("this kit has no cases")
    row = {"videos": [str(clip)], "messages": [{"role": "user", "content": "<video>?"}, ANSWER]}
    ((reason, message),) = the_rejects([row], folders("gemma4"), tmp_path, options)
    assert reason == "processor_error"
    assert message.startswith(f"{clip}: the processor cannot sample 5 frames") and "num_frames" in message
