"""Find and load a Hugging Face processor, and name its identity by content.

The identity covers the bytes that decide what comes out (tokenizer, chat template, image and video settings, class,
versions) and no path, so two copies of one processor are the same and an edited template is another.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vlm_prep.core.errors import ProcessorError
from vlm_prep.core.fingerprint import digest_bytes, digest_file, digest_json
from vlm_prep.core.settings import ProcessorConfig
from vlm_prep.processors.argument_checks import (
    CALL_DEFAULTS as CALL_DEFAULTS,
)
from vlm_prep.processors.argument_checks import (
    PARTS as PARTS,
)
from vlm_prep.processors.argument_checks import (
    require_changed,
    require_known,
    require_taken,
    require_used,
)
from vlm_prep.processors.chat_template import compiled_within_limits, template_text, with_videos
from vlm_prep.processors.fault_words import said
from vlm_prep.processors.hub import ask_hub
from vlm_prep.processors.lean_imports import no_garbage
from vlm_prep.processors.model_config import config_beside, config_of, model_class, models_of
from vlm_prep.processors.quiet import quiet
from vlm_prep.processors.template_date import asks_for_the_day, today, with_day
from vlm_prep.processors.torchvision_cpu import ensure_torchvision
from vlm_prep.processors.voxtral import as_others, is_voxtral

BUILTIN = "builtin:"
DEFAULT = ProcessorConfig()
_TYPES = "mm_token_type_ids"
REMOTE_MODULES = "transformers_modules"
"""Where transformers puts the Python code that comes with a processor."""


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
    config: ProcessorConfig = DEFAULT
    """The settings it was loaded with."""
    model: dict[str, Any] | None = None
    """The config of its model, where it lies beside it."""

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
            raise ProcessorError(f"{self.name}: the processor has no chat template", "give one with `chat_template`")
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
        _must_hold_files(path)
        return str(path)
    looks_like_path = name.startswith((".", "/", "~")) or name.count("/") != 1
    if looks_like_path and "/" in name:
        raise ProcessorError(
            f"{name}: no such folder",
            "give a folder with the processor's files, a Hugging Face id such as Qwen/Qwen2.5-VL-7B-Instruct, "
            "or builtin:qwen2.5-vl-mini",
        )
    return name


def _must_hold_files(folder: Path) -> None:
    """Refuse a folder with what libraries would wait for or never read to its end."""
    for path in (*folder.iterdir(), *(folder / "additional_chat_templates").glob("*")):
        if path.exists() and not path.is_file() and not path.is_dir():
            raise ProcessorError(f"{path} is a pipe, a socket or a device, not a file", "take it away")


def must_be_reachable(name: str) -> None:
    """Say what the hub is asked for and see that it answers, before workers load a processor from there.

    Raises:
        ProcessorError: the folder does not exist, or the hub does not answer and nothing of it is in the local cache.
    """
    target = resolve(name)
    if not os.path.isdir(target):
        ask_hub(target)


def load_processor(name: str, config: ProcessorConfig = DEFAULT) -> LoadedProcessor:
    """Load a processor by Hugging Face id, local folder or `builtin:<name>`.

    Raises:
        ProcessorError: it does not load, is no multimodal processor, needs code that is not trusted, or cannot take
            these settings.
    """
    with no_garbage():
        note = ensure_torchvision()
    target = resolve(name)
    with no_garbage():
        hf = _from_pretrained(name, target, config)
    if not hasattr(hf, "tokenizer"):
        raise ProcessorError(
            f"{name}: loads as {type(hf).__name__}, which is no multimodal processor",
            "the folder needs the processor's preprocessor_config.json or processor_config.json beside its tokenizer",
        )
    if is_voxtral(hf):
        hf = as_others(hf, target)
    if not hasattr(hf.tokenizer, "backend_tokenizer"):
        raise ProcessorError(
            f"{name}: its tokenizer, {type(hf.tokenizer).__name__}, is none of the tokenizers library's, whose offsets "
            "tell where labels are",
            "give a folder whose tokenizer.json transformers loads as such",
        )
    settings = config.part_settings
    require_known(name, hf, settings)
    _set_call_defaults(hf, settings)
    _set_size(hf, settings)
    _ask_for_types(hf)
    require_taken(name, hf, settings)
    if config.processor_args:
        own = replace(config, processor_args={}, max_pixels=None, min_pixels=None)
        require_changed(name, _from_pretrained(name, target, own), hf, config.processor_args)
    for key in settings:
        # a tokenizer keeps what it does not know, and the processor gives that to its parts with every call: it would
        # override their own settings, and max_pixels in a call prints a warning
        hf.tokenizer.init_kwargs.pop(key, None)
    _set_sampling(name, hf, config.fps, config.min_frames, config.max_frames)
    require_used(name, hf, config.processor_args)
    if config.chat_template is not None:
        hf.chat_template = template_text(config.chat_template)
    else:
        hf.chat_template = with_videos(hf)
    notes = [note] if note else []
    template = hf.chat_template or getattr(hf.tokenizer, "chat_template", None)
    template = template.get("default") if isinstance(template, dict) else template
    if asks_for_the_day(template):
        day = config.template_date or today()
        hf.chat_template = with_day(template, day)
        notes.append(f"the chat template writes the day, which is {day} in all rows (`template_date`)")
    if template is not None:
        compiled_within_limits(name, template if isinstance(hf.chat_template, dict) else hf.chat_template or template)
    model = config_beside(target)
    identity = identity_of(hf, target) | ({"model": digest_json(model)} if model is not None else {})
    return LoadedProcessor(name, hf, identity, tuple(notes), config, model)


def _from_pretrained(name: str, target: str, config: ProcessorConfig) -> Any:
    import transformers

    cached_only = not os.path.isdir(target) and ask_hub(target)
    try:
        # a copy: Qwen's image processor writes into the size that it is given
        with quiet():
            return transformers.AutoProcessor.from_pretrained(
                target,
                trust_remote_code=config.trust_remote_code,
                **({"local_files_only": True} if cached_only else {}),
                **deepcopy(config.part_settings),
            )
    except Exception as error:  # from_pretrained raises OSError, ValueError, ImportError, KeyError, ... alike
        if "trust_remote_code" in str(error) and not config.trust_remote_code:
            raise ProcessorError(
                f"{name}: the processor comes with its own Python code",
                "read that code, and run it with `trust_remote_code` if you trust it",
            ) from error
        if config.part_settings and os.path.isdir(target):
            try:
                _from_pretrained(name, target, replace(config, processor_args={}, max_pixels=None, min_pixels=None))
            except ProcessorError:
                pass  # it is not the settings
            else:
                given = " and ".join(f"{key}={value!r}" for key, value in config.part_settings.items())
                raise ProcessorError(
                    f"{name}: `processor_args` {given} cannot be taken: {said(error)}", "check their form"
                ) from error
        hint = "check the name, or download the processor's files and give their folder; "
        hint += "set HF_HUB_OFFLINE=1 to use the local cache only"
        if os.path.isdir(target):
            files = sorted(path.name for path in Path(target).iterdir())
            hint = f"the folder holds: {', '.join(files[:12]) or 'nothing'}"
        raise ProcessorError(f"cannot load the processor {name}: {said(error)}", hint) from error


def _set_call_defaults(hf: Any, args: Mapping[str, Any]) -> None:
    """Change what a processor gives its parts with every call: that would override the parts' own settings."""
    for attribute in CALL_DEFAULTS:
        defaults = getattr(hf, attribute, None) or {}
        changed = {key: value for key, value in args.items() if key in defaults}
        if changed:
            setattr(hf, attribute, {**defaults, **changed})


def _set_size(hf: Any, args: Mapping[str, Any]) -> None:
    """Set the size that was asked for: it loses against the min_pixels and max_pixels of a processor's own files."""
    size = args.get("size")
    for part in (getattr(hf, name, None) for name in (*PARTS["image"], *PARTS["video"])):
        own = getattr(part, "size", None)
        if isinstance(size, Mapping) and part is not None and own is not None:
            asked = {key: value for key, value in dict(own).items() if value is not None} | dict(size)
            for edge, name in (("longest_edge", "max_pixels"), ("shortest_edge", "min_pixels")):
                asked |= {edge: args[name]} if name in args and edge in asked else {}
            part.size = type(own)(**asked)


def _ask_for_types(hf: Any) -> None:
    """Let a processor return the types of tokens where it names them and gives them only when asked, and its model
    makes no positions without them (Cosmos 3 Edge)."""
    if _TYPES not in hf.model_input_names or getattr(hf, f"return_{_TYPES}", True):
        return
    config = config_of({"model_type": next(iter(models_of(type(hf))), "")})
    if config is not None and _TYPES in inspect.signature(model_class(config).forward).parameters:
        setattr(hf, f"return_{_TYPES}", True)


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
            "give `fps` as well",
        )


def identity_of(hf: Any, target: str) -> dict[str, str]:
    """Return class, versions and content digests of a processor that was loaded from `target`."""
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
    parts = [name for names in PARTS.values() for name in names if getattr(hf, name, None) is not None]
    for name in parts:
        identity[name] = digest_bytes(getattr(hf, name).to_json_string().encode())
    identity["call_defaults"] = digest_json({name: getattr(hf, name, None) for name in CALL_DEFAULTS})
    if type(hf).__module__.partition(".")[0] == REMOTE_MODULES:
        identity["remote_code"] = digest_file(inspect.getfile(type(hf)))
    if (revision := _revision(target)) is not None:
        identity["revision"] = revision
    return identity


def _revision(target: str) -> str | None:
    """The commit of a hub repository that was loaded from the local cache, None for a folder."""
    from huggingface_hub import try_to_load_from_cache

    if os.path.isdir(target):
        return None
    found = try_to_load_from_cache(target, "tokenizer_config.json")
    return Path(found).parent.name if isinstance(found, str) else None
