"""The model that each class of the zoo belongs to, made to fit its small processor.

transformers' default config of the model, with the processor's token ids, and what its parts' defaults need beside that
(sides of pictures, mel bins): a processor and a config of defaults are not always made for each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlm_prep.certify.certificate import default_config, take_ids
from vlm_prep.processors.adapter import Adapter
from vlm_prep.processors.backbone import config_json
from vlm_prep.processors.model_config import config_of

MELS = {"audio_config": {"num_mel_bins": 80}}
OCR2 = {
    "text_config": {
        "mlp_layer_types": ["dense", *["sparse"] * 31],
        "num_experts_per_tok": 6,
        "n_group": 1,
        "topk_group": 1,
    },
    "vision_config": {"encoder_config": {"hidden_size": 896}},
}
PERCEPTION = {
    "architecture": "vit_pe_core_large_patch14_336",
    "model_args": {
        "embed_dim": 1024,
        "depth": 23,
        "img_size": [448, 448],
        "global_pool": "",
        "use_post_transformer_norm": False,
        "init_values": 0.1,
        "ref_feat_shape": [32, 32],
    },
}
"""As the config of facebook/Perception-LM-1B states it."""
SETTINGS: dict[str, dict[str, Any]] = {
    "AudioFlamingo3Processor": MELS,
    "AriaProcessor": {"vision_config": {"image_size": 980, "patch_size": 14}},
    "AyaVisionProcessor": {"vision_config": {"image_size": 364, "patch_size": 14}},
    "Gemma3Processor": {"vision_config": {"image_size": 224, "patch_size": 14}},
    "CohereCompassProcessor": {
        "text_config": {
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [24, 20, 20]}
            }
        }
    },
    "DeepseekOcr2Processor": OCR2,
    "DeepseekVLHybridProcessor": {"vision_config": {"image_size": 384, "patch_size": 16}},
    "DeepseekVLProcessor": {"vision_config": {"image_size": 384, "patch_size": 16}},
    "GlmAsrProcessor": MELS,
    "Granite4VisionProcessor": {
        "downsample_rate": "1/2",
        "deepstack_layer_map": [[-2, 0], [-1, 1]],
        "vision_feature_select_strategy": "full",
        "vision_config": {"model_type": "siglip_vision_model", "image_size": 336, "patch_size": 14},
    },
    "HunYuanVLProcessor": {
        "text_config": {"head_dim": 128, "rope_parameters": {"rope_type": "default", "mrope_section": [16, 16, 16, 16]}}
    },
    "Idefics3Processor": {"vision_config": {"image_size": 364, "patch_size": 14}},
    "Ernie4_5_VLMoeProcessor": {"text_config": {"rope_parameters": {"mrope_section": [22, 22, 20]}}},
    "Llama4Processor": {"vision_config": {"image_size": 336, "hidden_size": 1408}},
    "LlavaProcessor": {"vision_config": {"image_size": 224, "patch_size": 14}},
    "MiniCPMOcrProcessor": {"vision_config": {"patch_size": 14}},
    "MiniCPMV4_6Processor": {"vision_config": {"patch_size": 14}},
    "MiniCPMV4_7Processor": {"vision_config": {"patch_size": 14}},
    "MllamaProcessor": {"vision_config": {"image_size": 224}},
    "Molmo2Processor": {"image_patch_id": 7},
    "MusicFlamingoProcessor": MELS,
    "Nemotron3_5TranscribeProcessor": {
        "audio_config": {"asr_config": {"num_mel_bins": 80}, "diarization_config": MELS}
    },
    "Ovis2Processor": {"vision_config": {"image_size": 448, "patch_size": 14, "hidden_stride": 2}},
    "PerceptionLMProcessor": {"projector_pooling_ratio": 2, "vision_config": PERCEPTION},
    "Qwen2AudioProcessor": MELS,
    "Qwen2_5OmniProcessor": {"thinker_config": MELS},
    "Qwen3OmniMoeProcessor": {"thinker_config": MELS},
    "SmolVLMProcessor": {"vision_config": {"image_size": 364, "patch_size": 14}},
    "Step3p7Processor": {"text_config": {"sliding_window": 512}},
    "VideoLlama3Processor": {"vision_config": {"patch_size": 14}},
}
"""{class: settings of its model, by part}."""


def merged(data: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """A config's JSON with other settings."""
    made = dict(data)
    for name, value in more.items():
        old = made.get(name)
        made[name] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return made


def model_of(name: str, adapter: Adapter) -> Any:
    """The config of a class's model."""
    config = default_config(adapter.hf)
    more = SETTINGS.get(name)
    if more is not None:
        config = config_of(merged(config_json(config), more))
    take_ids(config, adapter)
    return config
