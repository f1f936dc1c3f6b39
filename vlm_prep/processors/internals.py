"""The names of transformers that no release promises to keep: all that this package takes are here.

Underscored ones, and the functions inside its models' modules. Each is looked up when it is asked for, since their
modules take long to import; one that a release has moved is an error that names it and the release. A test looks all of
them up, so that a new release is known before a user meets it.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any, Final

from vlm_prep.core.errors import ProcessorError


@dataclass(frozen=True)
class Internal:
    """A name inside transformers."""

    module: str
    """Below `transformers.`."""
    name: str
    """Of the module, or `Class.name`."""
    of_instances: bool = False
    """Whether only instances of the class have it."""

    def get(self) -> Any:
        """Return what the name stands for.

        Raises:
            ProcessorError: the installed release does not have it.
        """
        found: Any = self.owner()
        try:
            *classes, name = self.name.split(".")
            for each in classes:
                found = getattr(found, each)
            found = getattr(found() if self.of_instances else found, name)
        except AttributeError as error:
            raise self._moved() from error
        return found

    def of(self, instance: Any) -> Any:
        """Return the attribute of an object. Raises AttributeError: its class has none."""
        return getattr(instance, self.attribute)

    def set(self, value: Any, instance: Any = None) -> None:
        """Set the attribute of an object, or, for None, the name in its module."""
        setattr(self.owner() if instance is None else instance, self.attribute, value)

    def owner(self) -> Any:
        """Return the module. Raises ProcessorError: the installed release does not have it."""
        try:
            return importlib.import_module(f"transformers.{self.module}")
        except ModuleNotFoundError as error:
            raise self._moved() from error

    @property
    def attribute(self) -> str:
        """The last part of the name."""
        return self.name.rpartition(".")[2]

    def _moved(self) -> ProcessorError:
        import transformers

        return ProcessorError(
            f"transformers {transformers.__version__} has no transformers.{self.module}.{self.name}",
            "install the release that `pyproject.toml` names, and report this",
        )


_CHAT: Final = "utils.chat_template_utils"
_PROCESSING: Final = "processing_utils"
_CONFIG: Final = "configuration_utils"

compile_template: Final = Internal(_CHAT, "_compile_jinja_template")
template_variables: Final = Internal(_CHAT, "_get_template_variables")
render_with_spans: Final = Internal(_CHAT, "_render_with_assistant_indices")
control_token_start: Final = Internal(_CHAT, "_CONTROL_TOKEN_START")
control_token_end: Final = Internal(_CHAT, "_CONTROL_TOKEN_END")
control_token_patterns: Final = Internal(_CHAT, "_get_control_token_patterns")
mark_control_tokens: Final = Internal(_CHAT, "mark_control_tokens")
unmarked: Final = Internal(_PROCESSING, "_UNMARKED")
marked: Final = Internal(_PROCESSING, "_MARKED_RE")
count_multimodal_tokens: Final = Internal(
    "models.gemma4.processing_gemma4", "Gemma4Processor._get_num_multimodal_tokens"
)
"""Of many classes: `image_sizes` [[height, width]] → {"num_image_tokens": [...]}."""
text_with_replacements: Final = Internal(_PROCESSING, "ProcessorMixin.get_text_with_replacements")
decode_special_floats: Final = Internal(_CONFIG, "PreTrainedConfig._decode_special_floats")
attention: Final = Internal(_CONFIG, "PreTrainedConfig._attn_implementation")
attention_unchecked: Final = Internal(_CONFIG, "PreTrainedConfig._attn_implementation_internal", of_instances=True)
"""The same, past the check that the package of a kernel is installed."""

qwen_image_resize: Final = Internal("models.qwen2_vl.image_processing_qwen2_vl", "smart_resize")
qwen_video_resize: Final = Internal("models.qwen2_vl.video_processing_qwen2_vl", "smart_resize")
qwen3_video_resize: Final = Internal("models.qwen3_vl.video_processing_qwen3_vl", "smart_resize")
qwen2_5_omni_audio_tokens: Final = Internal(
    "models.qwen2_5_omni.processing_qwen2_5_omni", "_get_feat_extract_output_lengths"
)
qwen3_omni_audio_tokens: Final = Internal(
    "models.qwen3_omni_moe.processing_qwen3_omni_moe", "_get_feat_extract_output_lengths"
)
kimi_resize: Final = Internal("models.kimi_k25.image_processing_kimi_k25", "navit_resize")
pixtral_resize: Final = Internal("models.pixtral.image_processing_pixtral", "get_resize_output_image_size")
_NEMOTRON: Final = "models.nemotron_h_omni"
mistral_tokenizer: Final = Internal("tokenization_mistral_common", "MistralCommonBackend")
florence_prompts: Final = Internal("models.florence2.processing_florence2", "Florence2Processor._construct_prompts")
nemotron_grid: Final = Internal(f"{_NEMOTRON}.image_processing_nemotron_h_omni", "get_patch_grid_size")
_NEMOTRON_VIDEO: Final = f"{_NEMOTRON}.video_processing_nemotron_h_omni"
nemotron_patches: Final = Internal(_NEMOTRON_VIDEO, "NemotronH_Omni_Reasoning_V3VideoProcessor._compute_target_patches")
nemotron_downsampling: Final = Internal(_NEMOTRON_VIDEO, "NemotronH_Omni_Reasoning_V3VideoProcessor._downsample_factor")
nemotron_audio_tokens: Final = Internal(
    f"{_NEMOTRON}.processing_nemotron_h_omni", "NemotronH_Omni_Reasoning_V3Processor._estimate_audio_num_embeddings"
)
