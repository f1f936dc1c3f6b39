"""`vlm-prep families` says of packs what `doctor` would say with the model's config and without it."""

from __future__ import annotations

import pytest

from vlm_prep.cli.families import _packs


@pytest.mark.parametrize(
    ("name", "family", "packs"),
    [
        ("LlavaProcessor", "generic", "sdpa, varlen"),
        ("Qwen2VLProcessor", "qwen2_vl", "sdpa, varlen"),
        ("Gemma3Processor", "gemma3", "sdpa with the model's config, varlen"),
        ("PaliGemmaProcessor", "paligemma", "sdpa with the model's config, varlen"),
        ("MllamaProcessor", "mllama", "unpacked"),
    ],
)
def test_a_class_names_the_forms_of_its_packs(name: str, family: str, packs: str) -> None:
    assert _packs(name, family) == packs
