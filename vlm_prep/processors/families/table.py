"""Which family a processor belongs to: by what it *is* (class ancestry), so subclasses and renamed ones work."""

from __future__ import annotations

import inspect
import re
from dataclasses import replace
from importlib.metadata import entry_points
from typing import Any

from vlm_prep.core.errors import ProcessorError, VlmPrepError
from vlm_prep.core.processor_record import FAMILY_FROM
from vlm_prep.processors.adapter import Adapter
from vlm_prep.processors.families.florence import Florence2
from vlm_prep.processors.families.gemma import Gemma3, Gemma4
from vlm_prep.processors.families.generic import Generic
from vlm_prep.processors.families.internvl import InternVL
from vlm_prep.processors.families.kimi import KimiK25
from vlm_prep.processors.families.llava import LlavaOnevision
from vlm_prep.processors.families.mllama import Mllama
from vlm_prep.processors.families.nemotron import NemotronOmni
from vlm_prep.processors.families.not_chats import NOT_CHATS
from vlm_prep.processors.families.paligemma import PaliGemma
from vlm_prep.processors.families.phi4 import Phi4Multimodal
from vlm_prep.processors.families.pixtral import Pixtral
from vlm_prep.processors.families.prompt_answer import Donut, NemotronParse, Whisper
from vlm_prep.processors.families.proof import arithmetic_holds
from vlm_prep.processors.families.qwen_omni import Qwen2_5Omni, Qwen3Omni
from vlm_prep.processors.families.qwen_vl import Qwen2_5VL, Qwen2VL, Qwen3VL
from vlm_prep.processors.fault_words import said
from vlm_prep.processors.load import PARTS, REMOTE_MODULES, LoadedProcessor
from vlm_prep.processors.model_config import config_of

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
    ("MllamaProcessor", Mllama),
    ("NemotronParseProcessor", NemotronParse),
    ("PaliGemmaProcessor", PaliGemma),
    ("Florence2Processor", Florence2),
    ("WhisperProcessor", Whisper),
    ("DonutProcessor", Donut),
)
"""(transformers class in the processor's ancestry, adapter); the first match counts."""


_OF_NO_CALL = re.compile(r"^__(?!call__)|decode|post_process|pretrained|^(to|from)_|^push")
"""Methods of processors that make no rows."""
GROUP = "vlm_prep.families"
"""The entry points by which an installed package adds a family: `ProcessorClass = "package.module:AdapterClass"`."""


def adapter_for(loaded: LoadedProcessor) -> Adapter:
    """Return the adapter of a processor's family; the generic one where it belongs to none.

    A family from outside (an entry point of `GROUP`) comes before ours; its package and version are part of the
    processor's identity then.

    Raises:
        ProcessorError: it belongs to no family and the generic way does not understand it, or its model is none that
            is trained on one sequence of prompt and answer.
    """
    try:
        adapter = _made(loaded)
    except (VlmPrepError, MemoryError):
        raise
    except Exception as error:  # processors raise whatever they raise; the user is told of whose
        raise ProcessorError(
            f"{loaded.name}: {type(loaded.hf).__name__} is not understood: {said(error)}",
            "please report it with the processor's name",
        ) from error
    _require_decoder(adapter)
    return adapter


def _made(loaded: LoadedProcessor) -> Adapter:
    ancestry = [cls.__name__ for cls in type(loaded.hf).__mro__]
    for point in entry_points(group=GROUP):
        if point.name in ancestry:
            package = f"{point.dist.name} {point.dist.version}" if point.dist is not None else point.value
            loaded = replace(loaded, identity={**loaded.identity, FAMILY_FROM: package})
            try:
                outside: type[Adapter] = point.load()
            except Exception as error:  # whatever an import of someone else's code raises
                raise ProcessorError(
                    f"{loaded.name}: the family of {point.name} in {package} does not load: {said(error)}",
                    f"repair or uninstall {package}",
                ) from error
            return outside(loaded)
    for name, adapter in FAMILIES:
        if name in ancestry and _is_unchanged(loaded.hf, ancestry.index(name)):
            family = adapter(loaded)
            if (family.unresized or not _is_unresized(loaded.hf)) and arithmetic_holds(family):
                return family
            break
    try:
        return Generic(loaded)
    except ProcessorError as error:
        why = next((NOT_CHATS[name] for name in ancestry if name in NOT_CHATS), None)
        if why is None:
            raise
        raise ProcessorError(f"{loaded.name}: {type(loaded.hf).__name__} takes no media in a chat", why) from error


def _is_unchanged(hf: Any, depth: int) -> bool:
    """Whether a processor does what the class `depth` steps up its ancestry does: neither the classes between have code
    of their own for calls, nor its parts where that class is transformers'."""
    own = {name for cls in type(hf).__mro__[:depth] for name, value in vars(cls).items() if inspect.isroutine(value)}
    if any(not _OF_NO_CALL.search(name) for name in own):
        return False
    parts = _parts(hf)
    modules = {type(part).__module__.partition(".")[0] for part in parts}
    return REMOTE_MODULES not in modules or type(hf).__mro__[depth].__module__.startswith(REMOTE_MODULES)


def _is_unresized(hf: Any) -> bool:
    return any(getattr(part, "do_resize", None) is False for part in _parts(hf))


def _parts(hf: Any) -> list[Any]:
    found = (getattr(hf, name, None) for names in PARTS.values() for name in names)
    return [part for part in found if part is not None]


def _require_decoder(adapter: Adapter) -> None:
    """Refuse models that borrow a processor and are trained in another way than on one sequence."""
    config = adapter.loaded.model
    if config is None:
        return
    name, made = str(config.get("model_type")), config_of(config)
    whole = bool(config.get("is_encoder_decoder", getattr(made, "is_encoder_decoder", False)))
    if whole and adapter.decoder_start() is None:
        raise ProcessorError(
            f"{adapter.loaded.name}: its model ({name}) is an encoder-decoder, which takes the question and the answer "
            f"apart; {type(adapter.hf).__name__} is borrowed from a decoder",
            "vlm-prep prepares such models for Nemotron-Parse, Whisper, Donut and Florence-2 alone",
        )
    if "diffusion" in name:
        raise ProcessorError(
            f"{adapter.loaded.name}: its model ({name}) is trained on noised tokens, not on the next one",
            "the rows of a store are labelled for next tokens",
        )
