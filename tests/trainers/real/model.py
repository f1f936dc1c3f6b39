"""The tiny random Qwen2.5-VL of a folder's config, the same weights each time."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, Qwen2_5_VLForConditionalGeneration


def model_of(folder: str) -> Any:
    """Return it, float32 on the CPU."""
    torch.manual_seed(0)
    return Qwen2_5_VLForConditionalGeneration(AutoConfig.from_pretrained(folder))
