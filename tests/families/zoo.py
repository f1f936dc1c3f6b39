"""A small real processor of every class of the installed transformers that renders media in a chat.

Parts with their classes' defaults, a byte-level BPE with the special tokens that the class's own source names, and a
chat template that writes the tokens which the class looks for. What a class needs beside that stands in `SPECIAL`.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import re
import sys
from pathlib import Path
from typing import Any

from families.build import tokenizer

from vlm_prep.processors.torchvision_cpu import ensure_torchvision

TOKEN = re.compile(r"""["'](<[^"'<>\s{}%]*>|\[[A-Z_]+\])["']""")
NAMED = re.compile(r"""tokenizer\.(\w+_token)\b|getattr\(\s*tokenizer,\s*["'](\w+_token)["']""")
ROLES = ("<|im_start|>", "<|im_end|>")
TEMPLATE = """\
{%- for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}
{%- for part in message['content'] %}
{%- if part['type'] == 'text' %}{{ part['text'] }}
{%- elif part['type'] == 'image' %}{{ IMAGE }}
{%- elif part['type'] == 'video' %}{{ VIDEO }}
{%- elif part['type'] == 'audio' %}{{ AUDIO }}
{%- endif %}{% endfor %}{{ '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""
ONE_TURN = ("Florence2Processor", "PaliGemmaProcessor")
"""Classes that take one question and one answer."""
OPENS = ("MllamaProcessor",)
"""Classes whose templates begin with the tokenizer's BOS."""
NOT_TOKENS = {"bos_token", "eos_token", "pad_token", "unk_token", "add_bos_token", "add_eos_token", "sep_token"}

NOT_BUILT = {
    "EvollaProcessor": "it takes proteins",
    "FunAsrNanoProcessor": "its feature extractor needs torchaudio; with it: audio by size",
    "GraniteSpeechProcessor": "its feature extractor needs torchaudio; with it: audio by size",
    "HiggsAudioV2Processor": "it needs an audio tokenizer, which is a model with weights",
    "NemotronH_Omni_Reasoning_V3Processor": "built-in family nemotron_omni; its parts come with the model's own files",
    "VoxtralProcessor": "its tokenizer needs mistral-common; with it: audio by size",
}
"""Classes of which no small one is built here, and why."""
OTHER_PARTS = {
    "ColModernVBertProcessor": "Idefics3ImageProcessor",
    "MusicFlamingoProcessor": "WhisperFeatureExtractor",
}
"""Classes of parts that transformers pairs with no model of the processor's."""
LLAVA = {"patch_size": 14, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
SIDE_336 = {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}}
SIDES_768 = {"height": 768, "width": 768}
SIDES_448 = {"height": 448, "width": 448}
PARTS: dict[str, dict[str, Any]] = {
    "DeepseekVLProcessor": {"image_processor": {"size": {"height": 384, "width": 384}}},
    "AyaVisionProcessor": {"image_processor": {"size": {"height": 364, "width": 364}}},
    "InternVLProcessor": {"image_processor": {"size": SIDES_448}, "video_processor": {"size": SIDES_448}},
    "Dots3NoteProcessor": {
        "image_processor": {"patch_size": 14, "temporal_patch_size": 1},
        "video_processor": {"patch_size": 14, "temporal_patch_size": 1},
    },
    "CohereCompassProcessor": {"image_processor": {"patch_size": 16}},
    "Lfm3VlProcessor": {"image_processor": {"patch_size": 16}},
    "Granite4VisionProcessor": {"image_processor": SIDE_336},
    "LlavaNextProcessor": {"image_processor": SIDE_336},
    "LlavaNextVideoProcessor": {"image_processor": SIDE_336, "video_processor": SIDE_336},
    "Ovis2Processor": {"image_processor": {"size": SIDES_448}},
    "PerceptionLMProcessor": {"image_processor": {"max_num_tiles": 4}},
    "QianfanOCRProcessor": {"image_processor": {"size": SIDES_448}},
    "Qwen3OmniMoeProcessor": {"image_processor": {"patch_size": 16}, "video_processor": {"patch_size": 16}},
    "Qwen3VLProcessor": {"image_processor": {"patch_size": 16}},
    "Ernie4_5_VLMoeProcessor": {"video_processor": {"draw_on_frames": False}},
    "PaliGemmaProcessor": {"image_processor": {"image_seq_length": 256}},
    "Florence2Processor": {"image_processor": {"image_seq_length": 577, "size": SIDES_768, "crop_size": SIDES_768}},
}
"""Arguments of a class's parts: {class: {attribute: part or (part class, arguments)}}."""
ARGUMENTS: dict[str, dict[str, Any]] = {
    "LlavaProcessor": LLAVA,
    "LlavaNextProcessor": LLAVA,
    "LlavaNextVideoProcessor": LLAVA,
    "LlavaOnevisionProcessor": {"num_image_tokens": 729, "vision_feature_select_strategy": "full"},
    "Granite4VisionProcessor": {"patch_size": 14, "vision_feature_select_strategy": "full", "downsample_rate": "1/2"},
    "PerceptionLMProcessor": {"patch_size": 14, "pooling_ratio": 2},
}
"""Arguments of a class beside its parts."""
TOKENS: dict[str, dict[str, str]] = {
    "FuyuProcessor": {"speaker_token": "|SPEAKER|", "newline_token": "|NEWLINE|", "answer_token": "<0x04>"},
    "MiniMaxM3VLProcessor": {
        "image_token": "]<]image[>[",
        "video_token": "]<]video[>[",
        "vision_start_token": "]<]start of image[>[",
        "vision_end_token": "]<]end of image[>[",
    },
    "PaliGemmaProcessor": {"image_token": "<image>"},
    "SmolVLMProcessor": {"image_token": "<image>", "video_token": "<video>"},
}
"""Tokens that a class's tokenizer names: {class: {name: token}}."""
GLM = {
    "image": "<|begin_of_image|><|image|><|end_of_image|>",
    "video": "<|begin_of_video|><|video|><|end_of_video|>",
}
OMNI = {
    "image": "<|vision_bos|><|image|><|vision_eos|>",
    "video": "<|vision_bos|><|video|><|vision_eos|>",
    "audio": "<|audio_bos|><|audio|><|audio_eos|>",
}
WRITES: dict[str, dict[str, str]] = {
    "Ernie4_5_VLMoeProcessor": {
        "image": "Picture 1:<|image_start|><|image|><|image_end|>",
        "video": "Video 1:<|video_start|><|video|><|video_end|>",
    },
    "Glm46VProcessor": GLM,
    "Glm4vProcessor": GLM,
    "Glm5NextProcessor": GLM,
    "HunYuanVLProcessor": {"image": "<|image_start|><|image|><|image_end|>"},
    "QianfanOCRProcessor": {"image": "<image>"},
    "Qwen2_5OmniProcessor": OMNI,
    "Qwen3OmniMoeProcessor": OMNI,
}
"""What a class's template writes for a kind of media, where it is not its token alone."""


@functools.cache
def all_classes() -> dict[str, tuple[str, Any]]:
    """{class: (folder of transformers.models, class)} of all processors."""
    ensure_torchvision()
    import transformers
    from transformers.processing_utils import ProcessorMixin

    found = {}
    for file in sorted((Path(transformers.__file__).parent / "models").glob("*/processing_*.py")):
        module = importlib.import_module(f"transformers.models.{file.parent.name}.{file.stem}")
        for name, each in vars(module).items():
            if inspect.isclass(each) and issubclass(each, ProcessorMixin) and each.__module__ == module.__name__:
                found[name] = (file.parent.name, each)
    return found


def chat_classes() -> dict[str, tuple[str, Any]]:
    """Those that write media into a text or render a chat."""
    sources = {name: inspect.getsource(sys.modules[cls.__module__]) for name, (_, cls) in all_classes().items()}
    signs = ("replace_", "chat_template")
    return {name: found for name, found in all_classes().items() if any(sign in sources[name] for sign in signs)}


def part_class(attribute: str, folder: str, name: str) -> Any:
    """The class of a part that transformers has for a processor's models."""
    import transformers
    from transformers.models.auto.feature_extraction_auto import FEATURE_EXTRACTOR_MAPPING_NAMES as AUDIO
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES as IMAGE
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES
    from transformers.models.auto.video_processing_auto import VIDEO_PROCESSOR_MAPPING_NAMES as VIDEO

    kinds = {"image": IMAGE, "video": VIDEO, "audio": AUDIO, "feature": AUDIO}
    mapping = next(names for kind, names in kinds.items() if kind in attribute)
    models = [folder, *(model for model, processor in PROCESSOR_MAPPING_NAMES.items() if processor == name)]
    for model in models:
        named = mapping.get(model)
        if isinstance(named, dict):
            named = named.get("torchvision") or next(iter(named.values()))
        if named:
            return getattr(transformers, named)
    if name in OTHER_PARTS and mapping is not VIDEO:
        return getattr(transformers, OTHER_PARTS[name])
    raise LookupError(f"{name}: transformers names no {attribute} for {', '.join(models)}")


def make(name: str) -> Any:
    """A processor of a class."""
    if name in NOT_BUILT:
        raise LookupError(NOT_BUILT[name])
    folder, cls = all_classes()[name]
    source = inspect.getsource(sys.modules[cls.__module__])
    defaults = inspect.signature(cls).parameters
    named = {a or b for a, b in NAMED.findall(source)} - NOT_TOKENS
    tokens = {each: f"<|{each.removesuffix('_token')}|>" for each in sorted(named)}
    tokens |= TOKENS.get(name, {})
    special = [*ROLES, *dict.fromkeys(TOKEN.findall(source)), *tokens.values()]
    special += [str(p.default) for key, p in defaults.items() if key.endswith("_token") and isinstance(p.default, str)]
    special = ["<pad>", "<s>", "</s>", *dict.fromkeys(each for each in special if each not in ("<pad>", "<s>", "</s>"))]
    text = tokenizer(tuple(special), bos_token="<s>", eos_token="</s>", pad_token="<pad>", extra_special_tokens=tokens)
    parts: dict[str, Any] = {}
    for attribute in cls.get_attributes():
        if "tokenizer" in attribute:
            parts[attribute] = text
            continue
        made = PARTS.get(name, {}).get(attribute, {})
        if isinstance(made, dict):
            made = part_class(attribute, folder, name)(**made)
        parts[attribute] = made
    made = cls(**parts, **ARGUMENTS.get(name, {}))
    written = {
        kind: WRITES.get(name, {}).get(kind) or str(getattr(made, f"{kind}_token", None) or f"<{kind}>")
        for kind in ("image", "video", "audio")
    }
    template = "{{- bos_token }}" * (name in OPENS) + TEMPLATE
    for kind, token in written.items():
        template = template.replace(kind.upper(), repr(token))
    # SmolVLM's processor has one of its own for videos, which its models' is
    made.chat_template = getattr(sys.modules[cls.__module__], "DEFAULT_CHAT_TEMPLATE", template)
    return made


def build(name: str, folder: Path) -> Path:
    """Save a processor of a class."""
    make(name).save_pretrained(folder)
    return folder
