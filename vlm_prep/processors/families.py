"""Which family a processor belongs to: by what it *is* (class ancestry), so subclasses and renamed ones work."""

from __future__ import annotations

from vlm_prep.core.errors import ProcessorError
from vlm_prep.processors.adapter import Adapter
from vlm_prep.processors.load import LoadedProcessor
from vlm_prep.processors.qwen_vl import Qwen2_5VL, Qwen2VL, Qwen3VL

FAMILIES: tuple[tuple[str, type[Adapter]], ...] = (
    ("Qwen2_5_VLProcessor", Qwen2_5VL),
    ("Qwen3VLProcessor", Qwen3VL),
    ("Qwen2VLProcessor", Qwen2VL),
)
"""(transformers class in the processor's ancestry, adapter); the first match counts."""


def adapter_for(loaded: LoadedProcessor) -> Adapter:
    """Return the adapter of a processor's family.

    Raises:
        ProcessorError: no family fits yet.
    """
    ancestry = {cls.__name__ for cls in type(loaded.hf).__mro__}
    for name, adapter in FAMILIES:
        if name in ancestry:
            return adapter(loaded)
    known = ", ".join(name for name, _ in FAMILIES)
    raise ProcessorError(f"{loaded.name}: {type(loaded.hf).__name__} is not supported yet", f"supported: {known}")
