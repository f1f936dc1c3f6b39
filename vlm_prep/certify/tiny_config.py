"""A model's config, made tiny: sizes shrink, the kinds of its layers stay.

A certificate is about what reaches which layer, so the tiny model keeps one layer at least of every kind (sliding,
linear, convolution, experts, ...), the model's own patches and token counts, and windows short enough to be felt in a
document of a few hundred tokens. All hidden sizes become one number, so that what links one part to another still fits.
The vocabulary is cut to the ids in use: a table of 262,144 rows would take longer than all else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vlm_prep.processors.model_config import LAYERS

HIDDEN, INNER, HEADS, HEAD_DIM = 64, 96, 4, 32
WINDOW = 24
"""Tokens of a sliding window and of a chunk."""
_HIDDEN = re.compile(
    r"^(\w*hidden_size|\w*hidden_dim|embed_dim|d_model|dim|\w*output_dim|\w*out_dim|\w*proj\w*_dim|"
    r"\w*projection_size|\w*_hidden|n_embd|n_state|\w*output_dims|out_hidden_size|width)$"
)
_INNER = re.compile(r"^(\w*intermediate_size\w*|\w*ffn_dim|mlp_dim|\w*ffn_hidden_size|\w*ffn_size|intermediate_dim)$")
_HEADS = re.compile(r"^(num_attention_heads|num_heads|\w*attention_heads|n_heads?|conf_num_attention_heads)$")
_KEY_HEADS = re.compile(r"^(\w*num_(global_)?key_value_heads|num_kv_heads)$")
_FIXED: Mapping[str, int] = {
    "head_dim": HEAD_DIM, "global_head_dim": HEAD_DIM, "q_lora_rank": 32, "kv_lora_rank": 32, "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 16, "v_head_dim": 16, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    "linear_key_head_dim": 16, "linear_value_head_dim": 16, "mamba_num_heads": 4, "mamba_head_dim": 32,
    "mamba_n_heads": 4, "mamba_d_head": 32, "mamba_d_ssm": 128, "ssm_state_size": 16, "mamba_d_state": 16,
    "n_groups": 1, "mamba_n_groups": 1, "num_kv_shared_layers": 0, "first_k_dense_replace": 1, "n_group": 1,
    "topk_group": 1, "hidden_size_per_layer_input": 16, "laurel_rank": 16, "num_expert_group": 1,
    "swa_head_dim": HEAD_DIM, "linear_head_dim": 16, "linear_num_heads": 4,
}  # fmt: skip
_AT_MOST: Mapping[str, int] = {
    "num_experts": 4, "n_routed_experts": 4, "num_local_experts": 4, "moe_num_experts": 4, "num_experts_per_tok": 2,
    "moe_k": 2, "top_k_experts": 2, "sliding_window": WINDOW, "attention_chunk_size": WINDOW, "n_shared_experts": 1,
    "num_experts_per_token": 2, "num_shared_experts": 1, "sliding_window_size": WINDOW, "rel_extent": WINDOW,
    "log_scaling_n_floor": 16, "attn_layer_period": 2, "attn_layer_offset": 1, "layer_group_size": 2,
    "num_nextn_predict_layers": 0, "index_topk": 32, "index_kpool": 8, "index_topk_blocks": 2,
    "index_block_size": 8,
}  # fmt: skip
_MULTIPLES = ("intermediate_size", "projector_hidden_size", "projector_input_dim", "projector_output_dim")
"""Of a tower whose width they are a multiple of: some join neighbours, and what takes them is as wide."""
_WIDE = 256
_WIDTHS = ("_channel", "_channels", "_dim", "_dims", "_size", "_width", "_features")
_NO_WIDTHS = ("image_", "patch_", "crop_", "kernel_", "pos_emb_", "window_", "num_", "max_")
_TOKEN = re.compile(r"(token_id|token_ids|token_index|token_indices|_tokens?_ids?|bos_id|eos_id|patch_id)$")
_TAKEN = "intermediate_layers_indices"
_LABELS = ("id2label", "label2id")
_FROM_ID = ("vocab_offset", "vocab_size_per_layer_input")
"""Ids from which on tokens have another table (Gemma 3n)."""


def token_ids(data: Mapping[str, Any]) -> set[int]:
    """Return the token ids that a config's JSON names, its parts' included."""
    found: set[int] = set()
    if "vocab_offset" in data:  # the last of a table of its own, which stands for padding
        found.add(data["vocab_offset"] + data["vocab_size"] - 1)
    for name, value in data.items():
        if name in _LABELS or not isinstance(name, str):
            continue
        if isinstance(value, Mapping):
            found |= token_ids(value)
        elif _TOKEN.search(name):
            many = value if isinstance(value, list) else [value]
            found |= {each for each in many if type(each) is int and each >= 0}
    return found


def tiny_config(data: Mapping[str, Any], ids: Sequence[int], *, mrope: bool) -> dict[str, Any]:
    """Return a config's JSON with small sizes.

    Args:
        data: the whole config as JSON, with its defaults written out.
        ids: the token ids that remain, sorted; an id becomes its place among them.
        mrope: whether the model's positions have three axes.
    """
    places = {token: place for place, token in enumerate(ids)}
    made = _shrunk(data, places, len(ids), _hidden_sizes(data))
    if mrope:
        for part in (made, *(value for value in made.values() if isinstance(value, dict))):
            _fit_rotary(part)
    return made


def _hidden_sizes(data: Mapping[str, Any]) -> frozenset[int]:
    """The hidden sizes of all parts: another number of theirs that is one of these is a width, too."""
    found = [value for name, value in data.items() if name in ("hidden_size", "d_model", "embed_dim")]
    parts = (value for value in data.values() if isinstance(value, Mapping))
    own = {value for value in found if type(value) is int and value > _WIDE}
    return frozenset(own.union(*map(_hidden_sizes, parts)))


def _shrunk(
    data: Mapping[str, Any], places: Mapping[int, int], vocabulary: int, widths: frozenset[int]
) -> dict[str, Any]:
    made: dict[str, Any] = {}
    kept = _kept_layers(data)
    heads = next((value for name, value in data.items() if isinstance(value, int) and _HEADS.match(str(name))), 0)
    for name, value in data.items():
        if name in _LABELS:
            continue
        if not isinstance(name, str):
            made[name] = value
        elif name == "per_layer_config" and isinstance(value, Mapping):
            of_layer = {int(layer): settings for layer, settings in value.items()}
            kept_of = [(place, of_layer[layer]) for place, layer in enumerate(kept or ()) if layer in of_layer]
            made[name] = {place: _shrunk(each, places, vocabulary, widths) for place, each in kept_of}
        elif isinstance(value, Mapping):
            made[name] = _shrunk(value, places, vocabulary, widths)
        elif _TOKEN.search(name) and value is not None:
            many = [places.get(each, each) for each in (value if isinstance(value, list) else [value])]
            made[name] = many if isinstance(value, list) else many[0]
        elif name in _FROM_ID and isinstance(value, int):
            made[name] = sum(token < value for token in places)
        elif name == "vocab_size" and isinstance(value, int):
            made[name] = vocabulary
        elif name == "hidden_size" and "architecture" in data and not data.get("model_args"):
            made[name] = value  # of timm: the name decides it
        elif isinstance(value, bool) or value is None:
            made[name] = value
        elif "dropout" in name or "drop_path" in name or name.endswith("_pdrop"):
            made[name] = 0.0 if isinstance(value, float) else value
        elif _KEY_HEADS.match(name):
            of = data.get(name.replace("key_value", "attention"), heads)
            made[name] = HEADS if value == of else min(2, value)
        else:
            made[name] = _size(name, value, kept, widths)
    _link_towers(data, made)
    _link_widths(data, made)
    return made


def _link_towers(data: Mapping[str, Any], made: dict[str, Any]) -> None:
    """Make what follows from a tower's stages, patches and layers fit them again."""
    stages = data.get("depths")
    if isinstance(stages, list) and data.get("num_hidden_layers") == len(stages):
        made["num_hidden_layers"] = len(stages)  # of stages
    if isinstance(data.get("depths"), list) and "embed_dim" in made:  # of Swin, DaViT: widths double with each stage
        halved = range(len(data["depths"]) - 1, -1, -1)
        a_stage = {"embed_dim": HIDDEN, "num_heads": HEADS, "num_groups": HEADS}
        for name in (name for name in a_stage if isinstance(data.get(name), list)):
            made[name] = [max(1, a_stage[name] >> times) for times in halved]
        if isinstance(data["embed_dim"], int):
            made["embed_dim"] = HIDDEN >> halved[0]
    if isinstance(data.get("block_types"), list) and "num_hidden_layers" in made:
        made["num_hidden_layers"] = len(data["block_types"])
    tower: Mapping[str, Any] = data.get("vision_config") or {}
    joined = int(tower.get("merge_size") or 0) ** 2
    if joined and data.get("out_hidden_size") == tower.get("hidden_size", 0) * joined:  # of patches side by side
        made["out_hidden_size"] = HIDDEN * joined
    if _TAKEN in made:  # of Llama 3.2 Vision: layers that are laid beside the last one
        made["vision_output_dim"] = HIDDEN * (1 + len(made[_TAKEN]))


def _link_widths(data: Mapping[str, Any], made: dict[str, Any]) -> None:
    """Make widths that are multiples or sums of others fit them again."""
    own = data.get("hidden_size")
    # Voxtral's encoder has a vocabulary's size, of Whisper's, and no vocabulary
    if type(own) is int and ("vocab_size" not in data or "num_mel_bins" in data):
        for name in _MULTIPLES:
            value = data.get(name)
            if type(value) is int and value % own == 0:
                made[name] = HIDDEN * (value // own)
    if "head_dim" in made and "vocab_size" not in made:
        made["head_dim"] = HIDDEN // HEADS
    if "conv_output_size" in made and data.get("downsample_hidden_size"):  # bands of a spectrum, each as wide
        made["conv_output_size"] = HIDDEN * (data["conv_output_size"] // data["downsample_hidden_size"])
    if "qk_rope_head_dim" in made:
        whole = made["qk_rope_head_dim"] + made.get("qk_nope_head_dim", 0)
        if "head_dim" in made:  # of the part that is rotated, or of all
            made["head_dim"] = made["qk_rope_head_dim"] if data["head_dim"] == data["qk_rope_head_dim"] else whole
        if "qk_head_dim" in made:
            made["qk_head_dim"] = whole


def _size(name: str, value: Any, kept: Sequence[int] | None, widths: frozenset[int]) -> Any:
    if isinstance(value, list):
        return _list(name, value, kept, widths)
    if not isinstance(value, int):
        return value
    if LAYERS.match(name):
        return len(kept) if kept is not None else 2
    if name.endswith(("layer_id", "layer_idx")):  # behind which something is put in
        return min(value, (len(kept) if kept is not None else 2) - 1)
    if name in _FIXED:
        return _FIXED[name] if value else value  # of attention without rotated dimensions: none
    if name in _AT_MOST:
        return min(value, _AT_MOST[name])
    for pattern, small in ((_INNER, INNER), (_HIDDEN, HIDDEN), (_HEADS, HEADS)):
        if pattern.match(name):
            return small
    return HIDDEN if value in widths and name.endswith(_WIDTHS) and not name.startswith(_NO_WIDTHS) else value


def _list(name: str, value: list[Any], kept: Sequence[int] | None, widths: frozenset[int]) -> list[Any]:
    layers = len(kept) if kept is not None else 2
    if name == "deepstack_layer_map":  # pairs of a tower's layer and one of another part
        return [[of if of < 0 else of % 2, layer % 2] for of, layer in value]
    if name == "spatial_target_layers":
        return [layer % 2 for layer in value]
    if name == "attn_layer_indices":  # of layers that attend, among others
        return [layers - 1]
    if name.endswith("_channels") and all(type(each) is int for each in value):
        return [HIDDEN if each in widths else each for each in value]
    if name == "vision_feature_layer":  # of another part's two layers, from the last one on
        return [layer if layer < 0 else max(0, 1 - place) for place, layer in enumerate(value)]
    indexes = "index" in name or name.endswith("_idxs") or name in ("cross_attention_layers", _TAKEN)
    if indexes and value and all(isinstance(each, int) for each in value):
        if name.endswith("_idxs") or name == "cross_attention_layers":
            return [place for place, layer in enumerate(kept or ()) if layer in value]
        return list(range(min(len(value), layers)))
    if kept is not None and len(value) > max(kept, default=0) and len(value) >= len(kept):
        if _INNER.match(name):
            return [INNER] * len(kept)
        return [value[layer] for layer in kept] if _by_layer(name) else value
    return value


def _by_layer(name: str) -> bool:
    return "layer" in name or name.startswith(("no_rope", "interleaved")) or name.endswith(("_pattern", "_sparsity"))


def _kept_layers(data: Mapping[str, Any]) -> list[int] | None:
    """Which layers stay: the first two of each kind, at least two; None where a config has no layers."""
    count = next((v for name, v in data.items() if isinstance(v, int) and LAYERS.match(str(name))), None)
    if count is None:
        return None
    kinds: Iterable[Any] = data.get("layer_types") or data.get("layers_block_type") or ["layer"] * count
    crossing = set(data.get("cross_attention_layers") or ())
    marked = [(kind, layer in crossing) for layer, kind in enumerate(kinds)]
    wanted = {mark: 1 if len(set(marked)) > 2 else 2 for mark in marked}
    kept: list[int] = []
    for layer, mark in enumerate(marked):
        if wanted[mark]:
            wanted[mark] -= 1
            kept.append(layer)
    return kept


def _fit_rotary(made: dict[str, Any]) -> None:
    """Make mRoPE's sections sum up to what the small heads rotate."""
    for key in ("rope_parameters", "rope_scaling"):
        rope = made.get(key)
        if rope and isinstance(rope, dict) and "vocab_size" in made:
            width = made.get("head_dim") or HIDDEN // HEADS
            by_kind = [each for each in rope.values() if isinstance(each, dict)]  # of layers
            for of in by_kind or [rope]:
                factor = of.get("partial_rotary_factor") or made.get("partial_rotary_factor") or 1.0
                of["mrope_section"] = _sections(of.get("mrope_section") or (16, 24, 24), int(width * factor) // 2)


def _sections(sections: Sequence[int], half: int) -> list[int]:
    total = sum(sections)
    small = [max(1, half * section // total) for section in sections]
    small[-1] += half - sum(small)
    return small
