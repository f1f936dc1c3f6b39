"""Which family a processor belongs to: by what it *is* (class ancestry), so subclasses and renamed ones work."""

from __future__ import annotations

from vlm_prep.processors.adapter import Adapter
from vlm_prep.processors.families.gemma import Gemma3, Gemma4
from vlm_prep.processors.families.generic import Generic
from vlm_prep.processors.families.internvl import InternVL
from vlm_prep.processors.families.kimi import KimiK25
from vlm_prep.processors.families.llava import LlavaOnevision
from vlm_prep.processors.families.nemotron import NemotronOmni, NemotronParse
from vlm_prep.processors.families.phi4 import Phi4Multimodal
from vlm_prep.processors.families.pixtral import Pixtral
from vlm_prep.processors.families.qwen_omni import Qwen2_5Omni, Qwen3Omni
from vlm_prep.processors.families.qwen_vl import Qwen2_5VL, Qwen2VL, Qwen3VL
from vlm_prep.processors.load import LoadedProcessor

FAMILIES: tuple[tuple[str, type[Adapter]], ...] = (
    ("Qwen2_5_VLProcessor", Qwen2_5VL),
    ("Qwen3VLProcessor", Qwen3VL),
    ("Qwen2VLProcessor", Qwen2VL),
    ("Qwen2_5OmniProcessor", Qwen2_5Omni),
    ("Qwen3OmniMoeProcessor", Qwen3Omni),
    ("LlavaOnevisionProcessor", LlavaOnevision),
    ("InternVLProcessor", InternVL),
    ("Gemma3Processor", Gemma3),
    ("Gemma4Processor", Gemma4),
    ("PixtralProcessor", Pixtral),
    ("Kimi_K25Processor", KimiK25),
    ("Phi4MultimodalProcessor", Phi4Multimodal),
    ("NemotronH_Omni_Reasoning_V3Processor", NemotronOmni),
    ("NemotronParseProcessor", NemotronParse),
)
"""(transformers class in the processor's ancestry, adapter); the first match counts."""


def adapter_for(loaded: LoadedProcessor) -> Adapter:
    """Return the adapter of a processor's family; the generic one where it belongs to none.

    Raises:
        ProcessorError: it belongs to no family and the generic way does not understand it.
    """
    ancestry = {cls.__name__ for cls in type(loaded.hf).__mro__}
    for name, adapter in FAMILIES:
        if name in ancestry:
            return adapter(loaded)
    return Generic(loaded)
