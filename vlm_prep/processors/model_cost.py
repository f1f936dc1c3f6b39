"""What a token and a patch cost in a model, counted from its config: no weights, no timing.

The model is built on torch's meta device, where it has shapes and no memory. A token takes two operations for each
parameter that it goes through: all of the language model's matrices, of experts the share that a token is sent to, and
the head; tables that are looked up in take none. A patch goes through the encoder's, and through what merges patches
as one of those that are merged; of models without grids what is counted is a media token, with all patches that it is
made of. Attention over a document of s tokens takes 2 s^2 heads x head_dim in each layer that
attends causally to all of it. All are divided by a token's, so that backward passes and number formats cancel.

Not counted: attention inside the encoder and in layers with a window (it grows with a window, not with the row), and
the encoder of sound.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from vlm_prep.processors.model_config import config_of, model_class

_ENCODERS = ("visual", "vision", "image")
_MERGERS = ("merger", "projector", "multi_modal", "connector")
_SOUND = ("audio", "sound", "speech")


def model_cost(data: Mapping[str, Any]) -> dict[str, float] | None:
    """Return the coefficients of a row's cost: attention and vision, with a token's own way as 1.

    Args:
        data: the model's config.json.

    Returns:
        None where transformers has no such model, or none that it can build of this config.
    """
    import torch

    config = config_of(data)
    if config is None:
        return None
    config = getattr(config, "thinker_config", config)  # Qwen-Omni trains the part that reads
    try:
        with torch.device("meta"):
            cls = model_class(config)
            model = cls._from_config(config)
    except Exception:  # whatever a model's constructor raises; the plan says whose coefficients it has
        return None
    text = config.get_text_config(decoder=True)
    if not text.to_dict().get("num_attention_heads"):
        return None
    encoded, merged = _patches(config)
    token = patch = 0.0
    for name, size in _matrices(model):
        parts = name.split(".")
        if any(word in part for part in parts for word in _SOUND):
            continue
        merges = any(word in part for part in parts for word in _MERGERS)
        if merges or any(word in part for part in parts for word in _ENCODERS):
            patch += size * merged if merges else size * encoded
        else:
            token += size * (_share_of_experts(text) if "experts" in parts else 1.0)
    return {"attention": sum(map(_width, _full_layers(text))) / token, "vision": patch / token}


def _patches(config: Any) -> tuple[float, float]:
    """Return how often a unit of the cost goes through the encoder and through what merges patches."""
    vision = getattr(config, "vision_config", None)
    merge = getattr(vision, "spatial_merge_size", None)
    if merge:  # there are grids: a patch
        return 1.0, 1 / int(merge) ** 2
    if ratio := getattr(config, "downsample_ratio", None):
        return float(ratio) ** -2, 1.0
    tokens = getattr(config, "mm_tokens_per_image", None)
    if tokens and vision is not None:
        return (int(vision.image_size) // int(vision.patch_size)) ** 2 / int(tokens), 1.0
    return float(getattr(config, "scale_factor", None) or 1) ** 2, 1.0


def _matrices(model: Any) -> Iterator[tuple[str, int]]:
    """Yield the parameters that a token is multiplied with; a head that shares its table counts."""
    import torch

    tables = {id(each.weight) for each in model.modules() if isinstance(each, torch.nn.Embedding)}
    head = model.get_output_embeddings()
    for name, parameter in model.named_parameters():
        if id(parameter) not in tables:
            yield name, parameter.numel()
    if head is not None and id(head.weight) in tables:
        yield "lm_head", head.weight.numel()


def _share_of_experts(text: Any) -> float:
    said = text.to_dict()  # as attributes, what differs from layer to layer raises
    many = next((said[n] for n in ("num_experts", "num_local_experts", "n_routed_experts") if said.get(n)), 1)
    names = ("num_experts_per_tok", "num_experts_per_token", "top_k_experts")
    return float(next((said[n] for n in names if said.get(n)), many)) / float(many)


def _full_layers(text: Any) -> list[Any]:
    """Return the config of each layer that attends to all of a row; layers may have widths of their own."""
    kinds = getattr(text, "layer_types", None) or ["full_attention"] * int(text.num_hidden_layers)
    own = getattr(text, "per_layer_config", None) or [text] * len(kinds)
    return [layer for layer, kind in zip(own, kinds, strict=True) if kind in ("full_attention", "attention")]


def _width(layer: Any) -> int:
    heads = int(layer.num_attention_heads)
    return int(getattr(layer, "head_dim", None) or layer.hidden_size // heads) * heads
