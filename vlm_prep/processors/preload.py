"""Imported once by the forkserver, so that every worker starts with the heavy libraries in memory."""

from vlm_prep.processors.torchvision_cpu import ensure_torchvision

ensure_torchvision()

import torch  # noqa: E402 - torchvision must import in the right order
import transformers  # noqa: E402
import transformers.models.auto.processing_auto  # noqa: E402

torch.set_num_threads(1)
__all__ = ["torch", "transformers"]
