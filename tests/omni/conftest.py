"""Qwen2.5-Omni and Qwen3-Omni: the kit's processors, and rows of real media."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from slim import slim
from sources import Rows

from vlm_prep.core.records import Media, Message, Sample
from vlm_prep.core.settings import ProcessorConfig
from vlm_prep.pack.positions import Mrope
from vlm_prep.processors.load import LoadedProcessor, load_processor
from vlm_prep.processors.torchvision_cpu import ensure_torchvision

FAMILIES = ("qwen2_5_omni", "qwen3_omni_moe")


def turn(role: str, *parts: str) -> Message:
    """A message; "<image>", "<video>" and "<audio>" are media parts."""
    media = {"<image>", "<video>", "<audio>"}
    return {
        "role": role,
        "content": [{"type": part[1:-1]} if part in media else {"type": "text", "text": part} for part in parts],
    }


@pytest.fixture(scope="session")
def folders(kit: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of the kit's two processors, with small vocabularies: what is tested here is media."""
    folder = tmp_path_factory.mktemp("omni")
    script = str(kit / "processors" / "assemble.py")
    subprocess.run([sys.executable, script, str(folder / "whole"), *FAMILIES], check=True, capture_output=True)
    for family in FAMILIES:
        slim(folder / "whole" / family, folder / family)
    return folder


@pytest.fixture(scope="session")
def loaded(folders: Path) -> Callable[..., LoadedProcessor]:
    """`loaded("qwen3_omni_moe", fps=2.0)`: a processor with these settings, loaded once."""

    @functools.cache
    def load(family: str, **settings: Any) -> LoadedProcessor:
        return load_processor(str(folders / family), ProcessorConfig(**settings))

    return load


@pytest.fixture(scope="session")
def media(kit: Path) -> Callable[..., Media]:
    """`media("video", "bikes.mp4", frame_indices=(0, 10))`: a file of the kit."""
    folders = {"image": "images", "video": "videos", "audio": "audio"}

    def make(kind: Any, name: str, **more: Any) -> Media:
        return Media(kind=kind, uris=(str(kit / "data" / folders[kind] / name),), **more)

    return make


@pytest.fixture(scope="session")
def samples(media: Callable[..., Media]) -> Rows:
    """Rows of text, several pictures, videos and audio, alone and mixed, in one turn and several."""
    short, odd = (0, 20, 40, 60), (0, 10, 20, 30, 40, 50, 60)
    phone = media("video", "carphone_distorted.mp4", frame_indices=short)
    bikes = media("video", "bikes.mp4", frame_indices=odd)
    coffee, cat = media("image", "coffee.png"), media("image", "chelsea.png")
    cards = media("audio", "pocketsphinx/cards_001.wav")
    kennedy = media("audio", "derived/jfk_8000.wav")
    answer = turn("assistant", "Yes.")
    rows: dict[str, tuple[list[Message], tuple[Media, ...]]] = {
        "text": ([turn("user", "Who?"), answer], ()),
        "image": ([turn("user", "<image>", "What?"), answer], (coffee,)),
        "images": (
            [turn("user", "A", "<image>", "<image>"), answer, turn("user", "<image>"), answer],
            (coffee, cat, cat),
        ),
        "video": ([turn("user", "<video>", "What?"), answer], (bikes,)),
        "videos": ([turn("user", "<video>"), answer, turn("user", "and", "<video>"), answer], (phone, bikes)),
        "audio": ([turn("user", "<audio>", "What?"), answer], (kennedy,)),
        "all": (
            [turn("user", "<video>", "<audio>", "<image>", "?"), answer, turn("user", "<image>", "<audio>"), answer],
            (phone, kennedy, coffee, cat, cards),
        ),
    }
    return as_samples(rows)


@pytest.fixture(scope="session")
def sounding(media: Callable[..., Media]) -> Rows:
    """Rows of videos with their sound, of silent ones, and both with a picture and audio files."""
    bunny = media("video", "big_buck_bunny_small.mp4", frame_indices=tuple(range(0, 64, 8)))
    # of a length that is no multiple of the spectrogram's hop
    webm = media("video", "big_buck_bunny_432_433.webm", frame_indices=(0, 8, 16))
    silent = media("video", "carphone_distorted.mp4", frame_indices=(0, 20, 40, 60))
    cards, kennedy = media("audio", "pocketsphinx/cards_001.wav"), media("audio", "derived/jfk_8000.wav")
    coffee = media("image", "coffee.png")
    answer = turn("assistant", "Yes.")
    rows: dict[str, tuple[list[Message], tuple[Media, ...]]] = {
        "text": ([turn("user", "Who?"), answer], ()),
        "sound": ([turn("user", "<video>", "What?"), answer], (bunny,)),
        "sounds": (
            [turn("user", "<video>"), answer, turn("user", "<audio>", "<video>"), answer],
            (webm, cards, bunny),
        ),
        "silent": ([turn("user", "<video>", "What?"), answer], (silent,)),
        "both": ([turn("user", "<video>", "<video>", "What?"), answer], (silent, bunny)),
        "all": (
            [turn("user", "<audio>", "<video>", "<image>"), answer, turn("user", "<video>", "<audio>"), answer],
            (cards, silent, coffee, bunny, kennedy),
        ),
    }
    return as_samples(rows)


def as_samples(rows: dict[str, tuple[list[Message], tuple[Media, ...]]]) -> Rows:
    """Samples by name."""
    return Rows(
        tuple(
            Sample(sample_id=name, dataset="rows", source="rows", line=1, messages=messages, media=files)
            for name, (messages, files) in rows.items()
        )
    )


@pytest.fixture(scope="session")
def thinker() -> Callable[[Mrope], Any]:
    """`thinker(rule)`: the real model's position code, with what it reads of its model."""
    ensure_torchvision()
    return _thinker


def _thinker(rule: Mrope) -> Any:
    if rule.scheme == "qwen2_5_omni":
        from transformers.models.qwen2_5_omni import modeling_qwen2_5_omni

        cls: Any = modeling_qwen2_5_omni.Qwen2_5OmniPreTrainedModelForConditionalGeneration
    else:
        from transformers.models.qwen3_omni_moe import modeling_qwen3_omni_moe

        cls = modeling_qwen3_omni_moe.Qwen3OmniMoePreTrainedModelForConditionalGeneration
    config = SimpleNamespace(
        image_token_id=rule.image_token_id,
        video_token_id=rule.video_token_id,
        audio_token_id=rule.audio_token_id,
        vision_start_token_id=rule.vision_start_token_id,
        audio_start_token_id=rule.audio_start_token_id,
        position_id_per_seconds=rule.tokens_per_second,
        seconds_per_chunk=2,
        audio_config=SimpleNamespace(n_window=50),
    )
    model = SimpleNamespace(spatial_merge_size=rule.spatial_merge_size, config=config)
    for name in ("get_llm_pos_ids_for_vision", "get_chunked_index", "get_rope_index"):
        setattr(model, name, getattr(cls, name).__get__(model))
    return model
