"""What a tiny model of each family computes on our batches is what it computes on the processor's own rows; in every
form of attention that a collater hands out, or the form is refused."""

from __future__ import annotations

from typing import Any

import pytest
from families.rows import Adapters

from vlm_prep.certify.certificate import Certificate, certify_processor, take_ids
from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.processors.model_config import config_of
from vlm_prep.tokenize.encoder import SampleEncoder

MODELS: dict[str, dict[str, Any] | None] = {
    "qwen2_vl": None,
    "qwen2_5_vl": None,
    "qwen3_vl": None,
    "qwen2_5_omni": None,
    "qwen3_omni_moe": None,
    "llava_onevision": None,
    "gemma3": {"model_type": "gemma3", "vision_config": {"image_size": 896, "patch_size": 14}},
    "gemma4": None,
    "phi4_multimodal": None,
    "kimi_k25": None,
    "nemotron_omni": None,
    "pixtral": {"model_type": "llava", "vision_config": {"model_type": "pixtral", "patch_size": 16}, "text_config":
                {"model_type": "mistral"}, "vision_feature_layer": -1, "vision_feature_select_strategy": "full"},
    "mistral3": {"model_type": "mistral3", "vision_config": {"model_type": "pixtral", "patch_size": 14}, "text_config":
                 {"model_type": "mistral"}, "spatial_merge_size": 2},
    "llava_next": {"model_type": "llava_next", "vision_config": {"model_type": "clip_vision_model", "image_size": 112,
                   "patch_size": 14}, "image_grid_pinpoints": [[112, 224], [224, 112], [224, 224]]},
    "idefics3": {"model_type": "idefics3", "vision_config": {"image_size": 112, "patch_size": 14}, "scale_factor": 2},
}  # fmt: skip
"""{processor: the settings of its model that are not transformers' defaults, None for all of them}."""


def certificate(adapters: Adapters, name: str, model: dict[str, Any] | None) -> Certificate:
    config = config_of(model) if model is not None else None
    if config is not None:
        take_ids(config, adapters(name))
    return certify_processor(SampleEncoder(adapters(name), TokenizeConfig()), config)


VIDEO_FAILS = ("kimi_k25", "nemotron_omni")
"""Models of transformers 5.23 that raise on the videos of their own processors."""
READS_PADDING = ("phi4_multimodal",)
"""Models whose convolutions read what pads a sound, in the processor's own batches, too."""


AGAIN = (
    "gemma4",
    "kimi_k25",
    "llava_next",
    "llava_onevision",
    "qwen2_vl",
    "qwen2_5_omni",
    "qwen3_omni_moe",
    "qwen3_vl",
)
"""Processors whose small likes `test_zoo_certificates.py` certifies, with the same adapter and the same model."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.long if name in AGAIN else []) for name in MODELS]
)
def test_batches_compute_what_the_processors_rows_do(adapters: Adapters, name: str) -> None:
    found = certificate(adapters, name, MODELS[name])
    tolerated = 1e-2 if name in READS_PADDING else 0.0
    wrong = [each for each in found.findings if each.verdict not in ("equal", "refused")]
    assert not [each for each in wrong if each.verdict == "failed" or (each.logits or 0.0) > tolerated], found.notes
    assert all("sound" in each.why for each in wrong)
    equal = {each.form for each in found.findings if each not in wrong and each.verdict == "equal"}
    if wrong:
        return
    assert "padded" in equal
    assert equal & {"sdpa", "positions"}
    assert found.not_compared == (("video",) if name in VIDEO_FAILS else ())
