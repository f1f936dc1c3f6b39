"""What cannot be packed is refused, and what is not known of positions is said."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers

from vlm_prep.core.errors import InputError, StoreError
from vlm_prep.core.pack_settings import PackConfig
from vlm_prep.engine.stage import RunOptions
from vlm_prep.pack.pack_run import dry_run, pack
from vlm_prep.processors.backbone import Backbone
from vlm_prep.processors.model_positions import positions_of
from vlm_prep.processors.torchvision_cpu import ensure_torchvision
from vlm_prep.shards.manifest import read_manifest
from vlm_prep.stream import MixedDataset

Options = Callable[..., RunOptions]
CONFIG = PackConfig(pack_length=2048)
NO_MODEL = Backbone().to_json()
LATER = ("attention", "reads_positions", "hands_lengths_on", "in_blocks", "scaled_from")
OLD = NO_MODEL.keys() - set(LATER)
"""What stores said of a model before the code of its attention was read."""


@pytest.fixture
def changed(tokenized: Path, tmp_path: Path) -> Callable[..., Path]:
    """`changed(family=...)`: the tokenized store with another processor in its manifest."""

    def change(**processor: Any) -> Path:
        folder = tmp_path / "tok"
        shutil.copytree(tokenized, folder)
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["processor"] |= processor
        (folder / "manifest.json").write_text(json.dumps(manifest))
        return folder

    return change


def test_an_encoder_decoder_is_not_packed(changed: Callable[..., Path], options: Options, tmp_path: Path) -> None:
    store = changed(family="nemotron_parse", decoder_start_token_id=2, mrope=None, positions="plain")
    for refused in (lambda: pack(store, CONFIG, options(tmp_path / "out")), lambda: dry_run(store, CONFIG)):
        with pytest.raises(StoreError, match="nemotron_parse is an encoder-decoder") as error:
            refused()
        assert "PadCollate" in str(error.value.hint)
    assert not (tmp_path / "out").exists()


def test_positions_of_a_rule_that_is_not_known_are_refused(
    changed: Callable[..., Path], options: Options, tmp_path: Path
) -> None:
    identity = {"class": "OwnProcessor"}
    store = changed(family="generic", mrope=None, positions="own", backbone=NO_MODEL, identity=identity)
    with pytest.raises(StoreError, match="the model of OwnProcessor computes positions") as error:
        pack(store, CONFIG, options(tmp_path / "out"))
    assert "`positions=plain`" in str(error.value.hint)
    pack(store, PackConfig(pack_length=2048, positions="plain"), options(tmp_path / "out"))
    assert read_manifest(tmp_path / "out").processor["mrope"] is None


def test_positions_of_a_model_outside_of_transformers_are_a_note(
    changed: Callable[..., Path], options: Options, tmp_path: Path
) -> None:
    identity = {"class": "MyProcessor"}
    store = changed(family="generic", mrope=None, positions="unknown", backbone=NO_MODEL, identity=identity)
    said: list[str] = []
    pack(store, CONFIG, options(tmp_path / "out", say=said.append))
    assert any("MyProcessor" in line and "check that the model takes them" in line for line in said)


def test_a_rate_for_plain_positions_is_refused(tokenized: Path, options: Options, tmp_path: Path) -> None:
    config = PackConfig(pack_length=2048, positions="plain", tokens_per_second=4.0)
    with pytest.raises(InputError, match="plain positions"):
        pack(tokenized, config, options(tmp_path / "out"))


@pytest.mark.parametrize(
    ("name", "positions"),
    [
        ("Glm4vProcessor", "own"),
        ("Ernie4_5_VLMoeProcessor", "own"),
        ("PaddleOCRVLProcessor", "own"),
        ("LlavaProcessor", "plain"),
        ("Idefics3Processor", "plain"),
        ("InternVLProcessor", "plain"),
        ("Gemma3Processor", "plain"),
    ],
)
def test_the_models_beside_a_processor_tell_how_they_count(name: str, positions: str) -> None:
    ensure_torchvision()
    cls = getattr(transformers, name)
    assert positions_of(cls) == positions
    assert positions_of(type("Renamed", (cls,), {})) == positions


def test_a_processor_outside_of_transformers_tells_nothing() -> None:
    from transformers.processing_utils import ProcessorMixin

    assert positions_of(type("MyProcessor", (ProcessorMixin,), {})) == "unknown"


def test_an_older_store_is_asked_for_its_model_again(
    changed: Callable[..., Path], options: Options, tmp_path: Path
) -> None:
    text = {"model_type": "minimax_m3_vl_text", "layer_types": ["minimax_m3_sparse"] * 2, "num_hidden_layers": 2}
    model = {"model_type": "minimax_m3_vl", "text_config": text}
    known = {**NO_MODEL, "models": ["minimax_m3_vl"], "known": True}
    store = changed(mrope=None, positions="plain", model=model, backbone={k: v for k, v in known.items() if k in OLD})
    with pytest.raises(StoreError, match=r"minimax_m3_sparse layers, which count blocks"):
        pack(store, CONFIG, options(tmp_path / "out"))


def test_stores_of_releases_that_found_more_or_less_of_a_model_go_together(
    changed: Callable[..., Path], tokenized: Path, options: Options, tmp_path: Path
) -> None:
    found = read_manifest(tokenized).processor["backbone"]
    assert found is not None
    older = changed(backbone={name: value for name, value in found.items() if name in OLD})
    pack([tokenized, older], CONFIG, options(tmp_path / "out"))
    assert len(MixedDataset([tokenized, older], [1, 1])) > 0
