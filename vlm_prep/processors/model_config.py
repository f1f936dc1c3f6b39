"""The config of the model behind a processor: `config.json`, beside the processor's files, or as it is given.

A processor is shared by models that need different things of a batch (Qwen3-VL's serves Qwen3.5, too), so only the
model's own config says which one will train. Where there is none, the models are named that transformers pairs with the
processor, and what any of them needs is taken care of.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlm_prep.core.errors import InputError, ProcessorError
from vlm_prep.core.regular_files import read_regular
from vlm_prep.processors import internals
from vlm_prep.processors.fault_words import said
from vlm_prep.processors.torchvision_cpu import ensure_torchvision

CONFIG = "config.json"
MOST_LAYERS = 4096
LAYERS = re.compile(
    r"^(num_hidden_layers|num_layers|n_layers?|depth|layers|(en|de)coder_layers|num_blocks|"
    r"conf_num_hidden_layers|num_conformer_blocks|num_local_layers)$"
)
"""Names of the numbers of layers of a model or a part of it."""
_DROPPED = ("transformers_version", "torch_dtype", "dtype", "_name_or_path", "quantization_config")
"""Entries that say nothing of the layers."""


def config_beside(target: str) -> dict[str, Any] | None:
    """Return the model's config that lies with a processor's files, as JSON; None if there is none.

    Args:
        target: a folder, or a Hugging Face id, of which only the local cache is read.

    Raises:
        InputError: it is no JSON.
    """
    path: str | Path | None = Path(target) / CONFIG
    if not Path(target).is_dir():
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        try:
            found = try_to_load_from_cache(target, CONFIG)
        except HFValidationError:
            return None  # no name that a repository has
        path = found if isinstance(found, str) else None
    if path is None or not Path(path).is_file():
        return None
    data = _read(Path(path))
    return data if "model_type" in data else None


def read_config(name: str) -> dict[str, Any]:
    """Return a model's config, as JSON.

    Args:
        name: its folder or its config.json, or a Hugging Face id in the local cache.

    Raises:
        InputError: there is none, or it is no model's.
    """
    path = Path(name).expanduser()
    if path.exists() and not path.is_dir():
        data: dict[str, Any] | None = _read(path)
    else:
        data = config_beside(str(path) if path.is_dir() else name)
    if data is None or "model_type" not in data:
        raise InputError(f"{name}: no config.json of a model", "give a model's folder, or its config.json")
    return data


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(read_regular(path).decode())
    except RecursionError as error:
        raise InputError(f"{path} is damaged: nested too deeply", "copy it again") from error
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}", "give a model's folder, or its config.json") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is damaged: {error}", "copy it again") from error
    if not isinstance(data, dict):
        raise InputError(f"{path} holds no settings", "give a model's config.json")
    return {key: value for key, value in data.items() if key not in _DROPPED}


def config_of(data: Mapping[str, Any]) -> Any | None:
    """Return transformers' config object of a config's JSON; None if it has no such model (its code comes with it).

    Raises:
        InputError: it states layers that no model has, or transformers cannot read it.
    """
    ensure_torchvision()
    from transformers import CONFIG_MAPPING

    name = str(data.get("model_type"))
    if name not in CONFIG_MAPPING:
        return None
    _require_buildable(data)
    cls = CONFIG_MAPPING[name]
    try:
        # infinity, which JSON has no word for
        return cls.from_dict(internals.decode_special_floats.of(cls)(dict(data)))
    except Exception as error:  # what a class of transformers raises on odd values, of any kind
        message = f"a model's config of type {name} cannot be read: {said(error)}"
        raise InputError(message, "give the config.json that came with the model") from error


def _require_buildable(data: Mapping[str, Any]) -> None:
    """Refuse numbers of layers that no model has: transformers lists the kinds of them all, at once."""
    for name, value in data.items():
        if isinstance(value, Mapping):
            _require_buildable(value)
        elif isinstance(value, int) and LAYERS.match(str(name)) and not 0 <= value <= MOST_LAYERS:
            raise InputError(
                f"a model's config states {name}={value}, which no model has (0 to {MOST_LAYERS})",
                "give the config.json that came with the model",
            )


def models_of(processor: type) -> tuple[str, ...]:
    """Return the model types that transformers pairs with a processor's class or an ancestor of it, the one that it
    stands beside first."""
    from transformers import CONFIG_MAPPING
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

    for cls in processor.__mro__:
        if cls.__module__.startswith("transformers.models."):
            beside = cls.__module__.split(".")[2]
            paired = [name for name, paired in PROCESSOR_MAPPING_NAMES.items() if paired == cls.__name__]
            found = dict.fromkeys([*([beside] if beside in CONFIG_MAPPING else []), *paired])
            return tuple(name for name in found if name in CONFIG_MAPPING)
    return ()


def model_class(config: Any) -> Any:
    """Return the class that trains a config's model, as its checkpoint names it or transformers' tables do.

    Raises:
        ProcessorError: there is none.
    """
    import transformers
    from transformers.models.auto import modeling_auto

    for name in getattr(config, "architectures", None) or ():
        found = getattr(transformers, str(name), None)
        if getattr(found, "config_class", None) is type(config):
            return found
    tables = ["IMAGE_TEXT_TO_TEXT", "MULTIMODAL_LM", "CAUSAL_LM", "SEQ_TO_SEQ_CAUSAL_LM", "SPEECH_SEQ_2_SEQ"]
    if getattr(config, "is_encoder_decoder", False):
        tables = [*tables[3:], *tables[:2]]  # not its decoder alone
    for table in tables:
        mapping = getattr(modeling_auto, f"MODEL_FOR_{table}_MAPPING")
        if type(config) in mapping:
            found = mapping[type(config)]
            return found[0] if isinstance(found, tuple) else found
    module = __import__(type(config).__module__.replace("configuration_", "modeling_"), fromlist=["x"])
    for each in vars(module).values():
        named = isinstance(each, type) and each.__name__.endswith(("ForConditionalGeneration", "ForCausalLM"))
        if named and getattr(each, "config_class", None) is type(config):
            return each
    raise ProcessorError(f"transformers has no class that trains {type(config).__name__}")
