"""`doctor` says what a model's layers need of packs, and certifies a folder with nothing but a config.json."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vlm_prep.cli.main import app
from vlm_prep.processors.backbone import config_json
from vlm_prep.processors.torchvision_cpu import ensure_torchvision

PROCESSOR = "builtin:qwen2.5-vl-mini"


def folder(tmp_path: Path, model_type: str, **settings: object) -> Path:
    ensure_torchvision()
    from transformers import CONFIG_MAPPING

    (tmp_path / "config.json").write_text(json.dumps(config_json(CONFIG_MAPPING[model_type](**settings))))
    return tmp_path


def doctor(*words: str) -> str:
    found = CliRunner().invoke(app, ["doctor", "--processor", PROCESSOR, *words])
    assert found.exit_code == 0, found.output
    return found.output


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("qwen2_5_vl", ["80 full_attention", "sdpa: sdpa, flash_attention_2: varlen"]),
        ("qwen3_5", ["24 linear_attention", "seq_idx, cu_seq_lens_q"]),
        ("gemma3", ["22 sliding_attention", "sdpa: sdpa"]),
        ("mllama", ["none: mllama has cross attention"]),
    ],
)
def test_it_says_what_the_layers_need(tmp_path: Path, model: str, says: list[str]) -> None:
    output = doctor("--model", str(folder(tmp_path, model)))
    assert all(text in output for text in says), output


def test_it_says_what_the_language_model_of_a_composite_one_reads(tmp_path: Path) -> None:
    for name, says in {
        "gemma2": "eager: positions, flash_attention_2: varlen",
        "gpt_oss": "eager: sdpa, flash_attention_2: varlen",
        "stablelm": "sdpa: sdpa, flash_attention_2: none",
        "deepseek_v4": "none: llava has compressed_sparse_attention, heavily_compressed_attention layers",
        "phi3": "sdpa: sdpa",
    }.items():
        rope = {"rope_type": "longrope", "original_max_position_embeddings": 4096, "rope_theta": 10000.0}
        factors = {"short_factor": [1.0] * 48, "long_factor": [2.0] * 48}
        text = {"model_type": name} | ({"rope_parameters": rope | factors} if name == "phi3" else {})
        output = doctor("--model", str(folder(tmp_path, "llava", text_config=text)))
        assert says in output, output
        assert ("a row of more than 4096 tokens" in output) == (name == "phi3"), output


def test_a_config_alone_is_certified(tmp_path: Path) -> None:
    ids = {"image_token_id": 3723, "video_token_id": 3724, "vision_start_token_id": 3720, "vision_end_token_id": 3721}
    found = json.loads(doctor("--model", str(folder(tmp_path, "qwen2_5_vl", **ids)), "--certify", "--json"))
    certificate = found["certificate"]
    assert certificate["passed"], certificate
    equal = {each["form"] for each in certificate["findings"] if each["verdict"] == "equal"}
    assert equal == {"padded", "stand-in", "sdpa", "varlen", "positions"}


def test_without_a_config_it_says_that_the_model_is_guessed() -> None:
    assert "by the processor alone" in doctor()
