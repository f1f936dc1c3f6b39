"""How the packs of a store count positions: by its family's rule, or by its model's own; or no packs at all.

The model is the one whose config lies beside the processor or is given (`--model`), for a processor says little of it:
its numbers (`tokens_per_second`) are the model's, and a model may borrow the processor of another family. So where the
config is known, the family's rule is compared with the model's own function on the store's first documents with media,
and the model's is taken if they differ.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from vlm_prep.core.errors import InputError, StoreError
from vlm_prep.core.fingerprint import digest_json
from vlm_prep.core.pack_settings import PackConfig
from vlm_prep.core.processor_record import ProcessorRecord
from vlm_prep.pack.assemble import document_positions
from vlm_prep.pack.model_rule import ModelRule, Rule, model_with_positions
from vlm_prep.pack.positions import OMNI, Mrope
from vlm_prep.processors.backbone import Backbone, config_json, describe_backbone
from vlm_prep.processors.model_config import config_of, read_config
from vlm_prep.shards.reader import Store

_COMPARED, _LOOKED_AT = 8, 2000
"""Documents with media that the family's rule is compared on, and rows that are looked through for them."""
_ALL_READ = {each.name for each in fields(Backbone)}
_UNPACKED = "give the tokenized store itself to ShardDataset, with PadCollate"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What a store's packs get."""

    rule: Rule | None
    """How positions are counted; None for plain ones."""
    model: dict[str, Any] | None
    """The model's config, where it is known."""
    backbone: Backbone
    """What its layers need."""
    identity: dict[str, Any] = field(default_factory=dict)
    """What the output depends on beyond the store and the settings."""
    notes: tuple[str, ...] = ()
    """Lines to tell the user."""

    @property
    def about(self) -> dict[str, Any]:
        """What the manifest's `processor` says of it."""
        told = self.rule.to_json() if isinstance(self.rule, ModelRule) else self.rule and vars(self.rule)
        return {"mrope": told, "model": self.model, "backbone": self.backbone.to_json()}


def choose_rule(store: Store, config: PackConfig, *, trust_remote_code: bool = False) -> Choice:
    """Return how the documents of a store are packed.

    Raises:
        StoreError: an encoder-decoder, a model with cross attention or layers that carry state whatever a batch says,
            or positions that are not known.
        InputError: a setting that the model does not use.
    """
    runtime = store.manifest.processor
    given = read_config(config.model) if config.model is not None else None
    model = given if given is not None else runtime.get("model")
    backbone = _backbone(runtime, given)
    _require_packable(store, runtime, backbone)
    _require_unscaled(store, backbone, config)
    rule, notes = _rule(store, config, runtime, model, trust_remote_code)
    identity = {"model": digest_json(given)} if given is not None else {}
    return Choice(rule=rule, model=model, backbone=backbone, identity=identity, notes=tuple(notes))


def _backbone(runtime: ProcessorRecord, given: dict[str, Any] | None) -> Backbone:
    stored, model = runtime.get("backbone"), runtime.get("model")
    if given is None and stored is not None and stored["known"] and not stored.keys() >= _ALL_READ:
        given = model  # of a store made before all of it was read
    if given is not None:
        return describe_backbone(given, ())
    return Backbone.from_json(stored) if stored is not None else Backbone()


def _require_packable(store: Store, runtime: ProcessorRecord, backbone: Backbone) -> None:
    why = backbone.unpackable
    lists = {name for part in runtime["parts"].values() for name, of in part.get("lists", {}).items() if of == "row"}
    if lists:
        why = f"is given {', '.join(sorted(lists))} in a list for each row, which a pack of several documents has not"
    if runtime.get("decoder_start_token_id") is not None:
        why = "is an encoder-decoder, whose encoder takes one document at a time"
    if why is not None:
        name = backbone.name if backbone.known else runtime["family"]
        raise StoreError(f"{store.folder}: {name} {why}", f"do not pack it: {_UNPACKED}")


def _require_unscaled(store: Store, backbone: Backbone, config: PackConfig) -> None:
    limit, longest = backbone.scaled_from, max(config.pack_length, *(config.shorter_packs or ()), 0)
    if limit is not None and longest >= limit:
        raise StoreError(
            f"{store.folder}: {backbone.name} {backbone.scaled}, and packs of {longest} tokens would show it",
            f"set `pack_length` to {limit - 1} at most, or give the config of a model that is trained without it "
            "(`model=FOLDER`)",
        )


def _rule(
    store: Store, config: PackConfig, runtime: ProcessorRecord, model: dict[str, Any] | None, trusted: bool
) -> tuple[Rule | None, list[str]]:
    settings = runtime.get("mrope") if config.positions == "family" else None
    if settings is None and config.tokens_per_second is not None:
        raise InputError("`tokens_per_second`: the packs have plain positions, which do not use it")
    if config.positions == "plain":
        return None, []
    if settings is not None:
        return _family_rule(store, config, runtime, settings, model, trusted)
    positions, name = runtime.get("positions"), runtime["identity"].get("class")
    if positions == "unknown" and model is None:
        return None, [
            f"note: {name} is not a processor of transformers, so its model's positions are not known; the packs get "
            "plain ones (0..n-1 in each document): check that the model takes them"
        ]
    data = model if model is not None else _default_config(runtime)
    if data is not None and model_with_positions(data) is not None:
        assumed = (
            []
            if model is not None
            else [
                f"note: positions are counted as {data['model_type']} does by default; with the model's own "
                "config.json (`model=FOLDER`) nothing is assumed"
            ]
        )
        return ModelRule(data, runtime, trusted), assumed
    if positions == "own" and model is None:
        raise StoreError(
            f"{store.folder}: the model of {name} computes positions from media by a rule of its own, which is not "
            "known here, so its packs would get wrong ones",
            f"{_UNPACKED}, and the model computes them; or, if your model takes plain positions, pack with "
            "`positions=plain`",
        )
    return None, []


def _family_rule(
    store: Store,
    config: PackConfig,
    runtime: ProcessorRecord,
    settings: Mapping[str, Any],
    model: dict[str, Any] | None,
    trusted: bool,
) -> tuple[Rule | None, list[str]]:
    rule = Mrope.of(_numbers_of(model, settings))
    if config.tokens_per_second is not None:
        if rule.tokens_per_second is None:
            raise InputError(f"`tokens_per_second`: {runtime['family']} does not use it")
        return replace(rule, tokens_per_second=config.tokens_per_second), []
    if model is not None and config_of(model) is None and "mrope" not in json.dumps(model):
        name = model.get("model_type")
        return None, [f"note: the config of {name} says nothing of mRoPE, so its packs get plain positions (0..n-1)"]
    if model is None or rule.scheme in OMNI or config_of(model) is None:
        return rule, []
    if model_with_positions(model) is None:
        return None, [f"note: {model['model_type']} counts plain positions, so its packs get these (0..n-1)"]
    own = ModelRule(model, runtime, trusted)
    for document in _with_media(store):
        if not np.array_equal(document_positions(document, rule), own.positions(document)):
            return own, [f"note: positions are counted by the function of {model['model_type']} itself"]
    return rule, []


def _numbers_of(model: Mapping[str, Any] | None, settings: Mapping[str, Any]) -> dict[str, Any]:
    """A family's rule with the numbers of the model's config."""
    config = config_of(model) if model is not None else None
    if config is None:
        return dict(settings)
    config = getattr(config, "thinker_config", config)
    holders = {"seconds_per_chunk": (config, "seconds_per_chunk")}
    if settings["scheme"] in OMNI:
        holders["tokens_per_second"] = (config, "position_id_per_seconds")
    elif settings["tokens_per_second"] is not None:
        holders["tokens_per_second"] = (getattr(config, "vision_config", None), "tokens_per_second")
    found = {name: getattr(holder, attribute, None) for name, (holder, attribute) in holders.items()}
    return {**settings, **{name: value for name, value in found.items() if value is not None}}


def _with_media(store: Store) -> Iterator[dict[str, Any]]:
    """The first documents with pictures or videos."""
    found = 0
    for number in range(min(len(store), _LOOKED_AT)):
        row = store.row(number)
        if row["media"]:
            yield row
            found += 1
        if found == _COMPARED:
            return


def _default_config(runtime: ProcessorRecord) -> dict[str, Any] | None:
    """The default config of the model beside a processor, with the processor's own size of merged cells."""
    names = (runtime.get("backbone") or {}).get("models") or ()
    config = config_of({"model_type": names[0]}) if names else None
    if config is None:
        return None
    vision = getattr(config, "vision_config", None)
    part = runtime["parts"].get("image")
    merge = part["config"].get("merge_size") if part is not None else None
    if vision is not None and merge is not None and hasattr(vision, "spatial_merge_size"):
        vision.spatial_merge_size = merge
    return config_json(config)
