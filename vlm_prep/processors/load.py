"""Find and load a Hugging Face processor, and name its identity by content.

The identity covers the bytes that decide what comes out (tokenizer, chat template, image and video settings, class,
versions) and no path, so two copies of one processor are the same and an edited template is another.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm_prep.core.errors import ProcessorError
from vlm_prep.core.fingerprint import digest_bytes, digest_json
from vlm_prep.processors.torchvision_cpu import ensure_torchvision

BUILTIN = "builtin:"


@dataclass(frozen=True)
class LoadedProcessor:
    """A processor and what it is."""

    name: str
    """As the user gave it."""
    hf: Any
    """The transformers processor."""
    identity: dict[str, str]
    """Class, versions and content digests; part of every fingerprint."""
    notes: tuple[str, ...] = ()
    """Lines to tell the user once."""

    @property
    def chat_template(self) -> str:
        """The chat template's text; some processors keep it on their tokenizer.

        Raises:
            ProcessorError: there is none, or several and none is the default.
        """
        template = getattr(self.hf, "chat_template", None) or getattr(self.hf.tokenizer, "chat_template", None)
        if isinstance(template, dict):
            template = template.get("default")
        if not template:
            raise ProcessorError(f"{self.name}: the processor has no chat template")
        return str(template)


def resolve(name: str) -> str:
    """Return a folder or a Hugging Face id for what the user wrote.

    Raises:
        ProcessorError: a built-in that does not exist, or a folder that does not.
    """
    if name.startswith(BUILTIN):
        from vlm_prep.builtin import builtin_processor

        try:
            return str(builtin_processor(name.removeprefix(BUILTIN)))
        except ValueError as error:
            raise ProcessorError(str(error)) from error
    path = Path(name).expanduser()
    if path.is_dir():
        return str(path)
    looks_like_path = name.startswith((".", "/", "~")) or name.count("/") != 1
    if looks_like_path and "/" in name:
        raise ProcessorError(
            f"{name}: no such folder",
            "give a folder with the processor's files, a Hugging Face id such as Qwen/Qwen2.5-VL-7B-Instruct, "
            "or builtin:qwen2.5-vl-mini",
        )
    return name


def load_processor(
    name: str, *, fps: float | None = None, min_frames: int | None = None, max_frames: int | None = None
) -> LoadedProcessor:
    """Load a processor by Hugging Face id, local folder or `builtin:<name>`.

    Args:
        name: what to load.
        fps: frames per second to sample from videos; turns sampling on.
        min_frames: least frames per video.
        max_frames: most frames per video.

    Raises:
        ProcessorError: it does not load, is no multimodal processor, or cannot take these video settings.
    """
    note = ensure_torchvision()
    target = resolve(name)
    hf = _from_pretrained(name, target)
    if not hasattr(hf, "tokenizer"):
        raise ProcessorError(
            f"{name}: loads as {type(hf).__name__}, which is no multimodal processor",
            "the folder needs the processor's preprocessor_config.json or processor_config.json beside its tokenizer",
        )
    _set_sampling(name, hf, fps, min_frames, max_frames)
    return LoadedProcessor(name, hf, identity_of(hf), (note,) if note else ())


def _from_pretrained(name: str, target: str) -> Any:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    # its retries against a hub that cannot be reached would bury the one message that counts
    logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)
    try:
        return transformers.AutoProcessor.from_pretrained(target, trust_remote_code=False)
    except Exception as error:  # from_pretrained raises OSError, ValueError, ImportError, KeyError, ... alike
        hint = "check the name, or download the processor's files and give their folder; "
        hint += "set HF_HUB_OFFLINE=1 to use the local cache only"
        if os.path.isdir(target):
            files = sorted(path.name for path in Path(target).iterdir())
            hint = f"the folder holds: {', '.join(files[:12]) or 'nothing'}"
        raise ProcessorError(f"cannot load the processor {name}: {_first_line(error)}", hint) from error


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300] if lines else ''}"


def _set_sampling(name: str, hf: Any, fps: float | None, min_frames: int | None, max_frames: int | None) -> None:
    """Put the user's frame sampling on the video processor itself, so that our way and the real one both see it."""
    asked = {"fps": fps, "min_frames": min_frames, "max_frames": max_frames}
    asked = {key: value for key, value in asked.items() if value is not None}
    if not asked:
        return
    video = getattr(hf, "video_processor", None)
    if video is None:
        raise ProcessorError(f"{name}: has no video processor, so {', '.join(asked)} cannot be set")
    for key, value in asked.items():
        if not hasattr(video, key):
            raise ProcessorError(f"{name}: its {type(video).__name__} has no setting {key}")
        setattr(video, key, value)
    video.do_sample_frames = True
    if getattr(video, "fps", None) is not None:
        video.num_frames = None  # the two ways of sampling exclude each other
    elif getattr(video, "num_frames", None) is None:
        raise ProcessorError(
            f"{name}: its {type(video).__name__} samples by no rate, so {' and '.join(asked)} alone decide nothing",
            "give --fps as well",
        )


def identity_of(hf: Any) -> dict[str, str]:
    """Return class, versions and content digests of a processor."""
    import tokenizers
    import transformers

    template = getattr(hf, "chat_template", None) or getattr(hf.tokenizer, "chat_template", None)
    identity = {
        "class": type(hf).__name__,
        "tokenizer_class": type(hf.tokenizer).__name__,
        "tokenizer": digest_bytes(hf.tokenizer.backend_tokenizer.to_str().encode()),
        "special_tokens": digest_json({key: str(value) for key, value in hf.tokenizer.special_tokens_map.items()}),
        "chat_template": digest_json(template),
        "transformers": transformers.__version__,
        "tokenizers": tokenizers.__version__,
    }
    for part in ("image_processor", "video_processor", "feature_extractor"):
        settings = getattr(hf, part, None)
        if settings is not None:
            identity[part] = digest_bytes(settings.to_json_string().encode())
    return identity
