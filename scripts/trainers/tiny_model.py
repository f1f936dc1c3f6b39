"""The examples' model: a random Qwen2.5-VL of 400,000 parameters that fits the built-in processor.

python scripts/trainers/tiny_model.py out/tiny     # writes it with the processor, as trainers take a model
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from vlm_prep.processors.load import load_processor
from vlm_prep.processors.torchvision_cpu import ensure_torchvision


def tiny_model(seed: int = 0) -> Any:
    """Return the model, float32 on the CPU; the same weights for the same seed."""
    ensure_torchvision()
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": 3776,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 8192,
            "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0},
            "bos_token_id": None,
            "eos_token_id": 3713,
            "pad_token_id": 3711,
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": 64,
            "window_size": 112,
            "fullatt_block_indexes": [1],
            "tokens_per_second": 2,
        },
        image_token_id=3723,
        video_token_id=3724,
        vision_start_token_id=3720,
        vision_end_token_id=3721,
    )
    torch.manual_seed(seed)
    return Qwen2_5_VLForConditionalGeneration(config)


def main() -> None:
    """Parse the command line and write the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    tiny_model().save_pretrained(folder)
    load_processor("builtin:qwen2.5-vl-mini").hf.save_pretrained(folder)


if __name__ == "__main__":
    main()
