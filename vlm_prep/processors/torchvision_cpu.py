"""Make the registry's torchvision wheel import beside a CPU build of torch.

The wheel on the package index is built for CUDA; next to CPU torch its C++ library cannot load, and the import then
fails for one reason: the Python side registers fake kernels for `torchvision::nms` and `torchvision::qnms` without
checking that the operators exist. Declaring the two schemas is enough for everything that image processors use
(resize, normalize, pad run on torch itself). Nothing implements nms: calling it still raises.
"""

from __future__ import annotations

import importlib
import sys

from vlm_prep.core.errors import ProcessorError
from vlm_prep.processors.lean_imports import without_compiler

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_OPERATORS = ("torchvision::nms", "torchvision::qnms")


def ensure_torchvision() -> str | None:
    """Import torchvision, declaring its two operators first where torch is a CPU build.

    Returns:
        A line to tell the user once when the work-around was needed, else None.

    Raises:
        ProcessorError: torchvision is missing or still does not import.
    """
    if "torchvision" in sys.modules:
        return None
    try:
        import torch
    except ImportError as error:
        raise ProcessorError(
            f"torch does not import: {error}", "install it: pip install -c configs/constraints.txt vlm-prep"
        ) from error
    declared = False
    if torch.version.cuda is None:
        for name in _OPERATORS:
            try:
                torch.library.define(name, _SCHEMA)
                declared = True
            except RuntimeError:
                # declared already, by an earlier call or by the sitecustomize of this environment
                continue
    try:
        with without_compiler():
            importlib.import_module("torchvision.transforms.v2.functional")
    except Exception as error:  # torchvision fails to import in many ways; all of them mean the same to the user
        raise ProcessorError(
            f"torchvision does not import beside torch {torch.__version__}: {type(error).__name__}: {error}",
            "install the pair named in configs/constraints.txt, e.g. torch==2.13.0 and torchvision==0.28.0",
        ) from error
    if declared:
        return (
            "torchvision's wheel is built for CUDA and torch here is a CPU build: declared torchvision::nms and "
            "torchvision::qnms so that it imports (image processors do not use them)"
        )
    return None
