"""What a model's layers need, for documents that share a sequence to stay apart: found from its config and its code.

Attention is told by a mask or by lengths. Other layers are not: a state-space layer, linear attention or a short
convolution carries its state over a document's border unless its kernel is told where one ends (`seq_idx` for
convolutions and Mamba-2, `cu_seq_lens_q` for the gated delta rule). A mask made for all layers alike takes the place of
the narrower ones of sliding and chunked layers, and of those that open pictures in both directions. Cross attention
shows the pictures of all documents to all of them.

The kinds of layers are the config's own (`layer_types` and its older names); what their code reads is looked up in the
module of transformers that runs them, since a kernel that is not told of documents drops the hint without a word.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vlm_prep.core.typed_json import require_record
from vlm_prep.processors import internals
from vlm_prep.processors.attention_code import attention_code
from vlm_prep.processors.model_config import config_of, read_config
from vlm_prep.processors.state_code import has_state, never_told, told_by

_STATE = ("linear_attention", "conv", "hybrid", "hybrid_sliding", "mamba", "recurrent")
_OWN_MASK = (
    "sliding_attention",
    "chunked_attention",
    "hybrid_sliding",
    "compressed_sparse_attention",
    "heavily_compressed_attention",
    "reference_sliding_attention",
)
_BLOCKS = {"compressed_sparse_attention", "heavily_compressed_attention", "minimax_m3_sparse"}
"""Kinds that choose or sum up what was said before in blocks of a row's places; `indexed_attention` chooses tokens, or
blocks of those that a mask lets it see."""
_SHARED_TOKEN = "special_video_mask = input_ids == self.config.image_token_id"
_NOT_BOTH = "pixel_values and pixel_values_videos are provided at the same time"
_HEARS_PADDING = ("audio_features = audio_features[input_features_mask]", "subsample_conv_projection(audio_mel)")
"""Of encoders that run over all of a batch's sound, and drop what comes of padding behind them, or behind their first
layers."""
_STACKS_VIDEOS = re.compile(
    r"batch\w*, \w*frames, channels, height, width = pixel_values_videos\.shape"
    r"|features\(pixel_values=pixel_values_videos, return_dict"
)
"""Of models to which a batch's videos are (videos, frames, ...), all of as many frames (LLaVA's, Perception-LM)."""
_NUMBERS_PICTURES = re.compile(r"image_index = 0\s+for batch_idx")
"""Of positions that say which picture it is: counted before the first row of a batch, and not before each."""


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """What a batch of packs must hold for a model; JSON-ready, it travels in the manifest."""

    models: tuple[str, ...] = ()
    """transformers' name of the model; several where only the processor is known, which serves them all."""
    known: bool = False
    """Whether it is found from the model's own config; else it is what any of `models` may need."""
    layers: Mapping[str, int] = field(default_factory=dict)
    """{kind of layer: how many}; empty if not known."""
    state: tuple[str, ...] = ()
    """Kinds of layers that carry state from token to token."""
    reads: tuple[str, ...] = ()
    """What these layers are told documents by: `seq_idx`, `cu_seq_lens_q`."""
    never_told: str | None = None
    """Why state crosses documents whatever a batch holds; None if it need not."""
    own_masks: tuple[str, ...] = ()
    """Kinds of layers with narrower masks of their own."""
    media_blocks: bool = False
    """Whether the tokens of a picture see each other in both directions."""
    cross_attention: bool = False
    """Whether text sees pictures by layers of their own."""
    encoder_decoder: bool = False
    kinds_apart: bool = False
    """Whether sound is read in another way once the batch has pictures, of whichever row (Phi-4)."""
    pictures_or_videos: bool = False
    """Whether a batch may hold pictures or videos, not both: they share a token (GLM-4V), or it says so (Molmo 2)."""
    hears_padding: bool = False
    """Whether the encoder of sound reads what pads a clip beside longer ones (Granite Speech, Gemma 3n)."""
    stacks_videos: bool = False
    """Whether all videos of a batch have as many frames (LLaVA-OneVision)."""
    numbers_pictures: bool = False
    """Whether positions say which picture of a whole batch a token is of (HunYuan-VL): rows come out otherwise beside
    each other, and packs, whose positions are made document by document, do not."""
    loss_reads_mask: bool = False
    """Whether the loss is taken where a 2-D mask says, so that the model takes no other with labels (Qwen2-Audio)."""
    text_axis: bool = False
    """Whether mRoPE positions may have the plain ones in front, by which the model then tells documents."""
    attention: str | None = None
    """What transformers runs of it where nobody chooses: "sdpa" or "eager"; None if it is not known."""
    reads_positions: bool = True
    """Whether its masks are made of positions, which restart in each document of a pack."""
    hands_lengths_on: bool = True
    """Whether `cu_seq_lens_q` reaches its attention."""
    in_blocks: str | None = None
    """Layers whose tokens are chosen or summed up in blocks from the beginning of a pack, in words; None if none."""
    mask_for_another: bool = False
    """Whether its whole makes the mask for sdpa, and the language model, which runs eager attention, adds it (PaliGemma
    2): a bool mask adds 1, in its processor's own rows, too."""
    batch_turns_at: int | None = None
    """Tokens of a row above which the model reads all rows of its batch by other rotations (longrope, dynamic NTK)."""
    scaled_from: int | None = None
    """Tokens of a row from which on queries are scaled by their place in it, whatever positions say (Llama 4)."""

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Backbone:
        """Read what `to_json` wrote.

        Raises:
            StoreError: it is none.
        """
        lists = ("models", "state", "reads", "own_masks")
        require_record(data, cls, "processor.backbone")
        return cls(**{**data, **{name: tuple(data.get(name, ())) for name in lists}})

    @property
    def unpackable(self) -> str | None:
        """Why the model cannot be given packs, as what it is or has; None if it can."""
        if self.encoder_decoder:
            return "is an encoder-decoder, whose encoder takes one document at a time"
        if self.cross_attention:
            return "has cross attention, which shows the pictures of all documents of a pack to each of them"
        if self.in_blocks is not None:
            return (
                f"has {self.in_blocks} layers, which count blocks of tokens from the beginning of a pack and not of a "
                "document"
            )
        return self.never_told

    @property
    def unpackable_sound(self) -> str | None:
        """Why documents with sound cannot be packed, as what the model has; None if they can."""
        why = "has an encoder of sound which reads what pads a clip beside a longer one"
        return why if self.hears_padding else None

    @property
    def scaled(self) -> str:
        """Why a pack must stay below `scaled_from`, as what the model does."""
        return (
            f"scales what a token asks by its place in the pack from {self.scaled_from} tokens on, as if the documents "
            "before it were its own (attn_temperature_tuning)"
        )

    @property
    def has_rows_apart(self) -> bool:
        """Whether there are rows that must not meet in a batch, see `kinds_apart`."""
        kinds = self.kinds_apart or self.pictures_or_videos or self.stacks_videos
        return kinds or self.cross_attention or self.hears_padding or self.numbers_pictures

    @property
    def name(self) -> str:
        """The model in words."""
        return " or ".join(self.models) or "the model"


def backbone_of(config: Any) -> Backbone:
    """Return what a model needs.

    Args:
        config: transformers' config object of the whole model.
    """
    text = config.get_text_config(decoder=True)
    sources = [*sources_of(config), *sources_of(text)]
    both, own = "\n".join(sources), "\n".join(sources_of(text))
    kinds, code = _layer_kinds(text), attention_code(own)
    state = tuple(sorted(kind for kind in kinds if kind in _STATE))
    if not state and not getattr(text, "layer_types", None) and has_state(own):
        state = ("recurrent",)
    return Backbone(
        models=(str(config.model_type),),
        known=True,
        layers=dict(sorted(kinds.items())),
        state=state,
        reads=told_by(own) if state else (),
        never_told=never_told(own, state) if state else None,
        own_masks=tuple(sorted(kind for kind in kinds if kind in _OWN_MASK)),
        media_blocks=config is not text and _opens_pictures(both, text),
        cross_attention=bool(getattr(text, "cross_attention_layers", None)),
        encoder_decoder=bool(config.is_encoder_decoder),
        kinds_apart="audio_projection_mode" in both,
        pictures_or_videos=_SHARED_TOKEN in both or _NOT_BOTH in both,
        hears_padding=any(sign in both for sign in _HEARS_PADDING),
        stacks_videos=_STACKS_VIDEOS.search(both) is not None,
        numbers_pictures=_NUMBERS_PICTURES.search(both) is not None,
        loss_reads_mask="shift_attention_mask = attention_mask[" in both,
        text_axis=all(f"position_ids = position_ids{part}" in both for part in ("[0]", "[1:]")),
        attention=code.default,
        reads_positions=code.reads_positions,
        hands_lengths_on=code.hands_lengths_on,
        in_blocks=", ".join(sorted(kinds.keys() & _BLOCKS)) or None,
        mask_for_another=config is not text and code.default == "eager" and makes_one_mask(sources_of(config)),
        batch_turns_at=_turns_at(text),
        scaled_from=_scaled_from(text) if code.scales_by_place else None,
    )


def possible_backbone(models: Sequence[str]) -> Backbone:
    """Return what any of some models may need, where there is no config: by their code, since a default config says
    nothing of a real model's layers."""
    from transformers import CONFIG_MAPPING

    reads: set[str] = set()
    state: set[str] = set()
    blocks, axis, crosses, decoder, apart, shared, loss = False, True, True, True, False, False, False
    hears = numbers = stacks = False
    positions, lengths, attentions = not models, not models, set()
    own_masks: set[str] = set()
    for name in models:
        config = CONFIG_MAPPING[name]()
        found = backbone_of(config)
        own = "\n".join(sources_of(config.get_text_config(decoder=True)))
        if has_state(own):
            state.add("possible")
            reads |= set(told_by(own))
        # with care for what any of them needs; one that takes no packs at all does not speak for the others
        blocks, axis = blocks or found.media_blocks, axis and found.text_axis
        crosses, decoder = crosses and found.cross_attention, decoder and found.encoder_decoder
        apart = apart or found.kinds_apart
        hears = hears or found.hears_padding
        numbers, stacks = numbers or found.numbers_pictures, stacks or found.stacks_videos
        shared, loss = shared or found.pictures_or_videos, loss or found.loss_reads_mask
        own_masks |= set(found.own_masks)
        positions, lengths = positions or found.reads_positions, lengths or found.hands_lengths_on
        attentions.add(found.attention)
    return Backbone(
        models=tuple(models),
        state=tuple(state),
        reads=tuple(sorted(reads)),
        own_masks=tuple(sorted(own_masks)),
        media_blocks=blocks,
        cross_attention=bool(models) and crosses,
        encoder_decoder=bool(models) and decoder,
        kinds_apart=apart,
        pictures_or_videos=shared,
        hears_padding=hears,
        stacks_videos=stacks,
        numbers_pictures=numbers,
        loss_reads_mask=loss,
        text_axis=bool(models) and axis,
        attention=attentions.pop() if len(attentions) == 1 else None,
        reads_positions=positions,
        hands_lengths_on=lengths,
    )


def describe_backbone(config: Mapping[str, Any] | None, models: Sequence[str]) -> Backbone:
    """Return what a model needs, from its config's JSON, or, without one or where transformers does not have the model,
    what any of `models` may need."""
    found = config_of(config) if config is not None else None
    return backbone_of(found) if found is not None else possible_backbone(models)


def makes_one_mask(sources: Sequence[str]) -> bool:
    """Whether a whole model makes one mask for all layers of its language model, whatever their kinds."""
    text = "\n".join(sources)
    return "create_causal_mask(" in text and "isinstance(causal_mask_mapping := attention_mask, dict)" not in text


def _turns_at(text: Any) -> int | None:
    """By `modeling_rope_utils.dynamic_rope_update`: the longest row of a batch decides."""
    rope = getattr(text, "rope_parameters", None) or {}
    for each in (rope, *(part for part in rope.values() if isinstance(part, Mapping))):
        if each.get("rope_type") in ("longrope", "dynamic"):
            return int(each.get("original_max_position_embeddings") or text.max_position_embeddings)
    return None


def _scaled_from(text: Any) -> int | None:
    tuned = getattr(text, "attn_temperature_tuning", None) and not all(getattr(text, "no_rope_layers", None) or [1])
    return int(text.floor_scale) if tuned else None


def _layer_kinds(text: Any) -> Counter[str]:
    kinds = getattr(text, "layer_types", None) or getattr(text, "layers_block_type", None)
    if kinds:
        return Counter(str(kind) for kind in kinds)
    windowed = getattr(text, "sliding_window", None) and getattr(text, "use_sliding_window", True)
    kind = "sliding_attention" if windowed else "full_attention"
    return Counter({kind: int(getattr(text, "num_hidden_layers", 0) or 0)})


def sources_of(config: Any) -> list[str]:
    """The code of transformers that runs a config's model."""
    module = type(config).__module__
    if not module.startswith("transformers.models."):
        return []
    folder = Path(sys.modules[module].__file__ or "").parent
    name = module.rpartition(".")[2].replace("configuration_", "modeling_") + ".py"
    return [(folder / name).read_text(encoding="utf-8")] if (folder / name).is_file() else []


def _opens_pictures(source: str, text: Any) -> bool:
    if "block_sequence_ids" not in source:
        return False
    asked = re.search(r'use_bidirectional_attention(", None\))? == "vision"', source)
    return getattr(text, "use_bidirectional_attention", None) == "vision" if asked else True


def config_json(model: Any) -> dict[str, Any]:
    """Return a model's config as JSON: of a transformers model or config, a config's JSON, or the folder of one."""
    if isinstance(model, str | Path):
        return read_config(str(model))
    if isinstance(model, Mapping):
        return dict(model)
    data: dict[str, Any] = json.loads(getattr(model, "config", model).to_json_string(use_diff=False))
    return data


def backbone_of_model(model: Any) -> Backbone:
    """Return what a model needs, see `config_json`."""
    if isinstance(model, str | Path | Mapping):
        return describe_backbone(config_json(model), ())
    return backbone_of(getattr(model, "config", model))


def attention_of(model: Any) -> str | None:
    """Return the attention that a model's language layers run; None of what does not say it, see `config_json`."""
    config = getattr(model, "config", model)
    if hasattr(config, "get_text_config"):
        config = config.get_text_config(decoder=True)
    found: str | None = getattr(config, internals.attention.attribute, None)
    return found
