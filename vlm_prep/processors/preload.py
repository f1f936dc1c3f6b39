"""Imported once by the forkserver, so that every worker starts with the heavy libraries in memory."""

from vlm_prep.processors.torchvision_cpu import ensure_torchvision

ensure_torchvision()

import torch
import transformers
import transformers.models.auto.processing_auto

torch.set_num_threads(1)
__all__ = ["torch", "transformers"]
