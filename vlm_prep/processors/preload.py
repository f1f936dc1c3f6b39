"""Imported once by the forkserver, so that every worker starts with the heavy libraries in memory."""

from vlm_prep.core.errors import ProcessorError
from vlm_prep.processors import lean_imports
from vlm_prep.processors.torchvision_cpu import ensure_torchvision

lean_imports.install()
with lean_imports.no_garbage():
    lean_imports.no_pandas()
    try:
        ensure_torchvision()
    except ProcessorError as error:
        # the one kind of error that the forkserver passes over; the main process tells the user
        raise ImportError(error.message) from error

    import torch
    import transformers
    import transformers.models.auto.processing_auto

torch.set_num_threads(1)
__all__ = ["torch", "transformers"]
