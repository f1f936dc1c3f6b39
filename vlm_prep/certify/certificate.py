"""The certificate of a processor and a model: they go through the library as a run would, tiny and at random.

    conversations ─ encoder ─▶ store ─ pack ─▶ packs ─ collaters ─▶ batches ─▶ tiny model
          └────────── the real processor, row by row ─────────────────────────▶ tiny model

What comes out of both ways must be equal, or the form be refused. A certificate says so of one model config, processor
and version of the libraries; it is a JSON object, and travels in a store's manifest.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any, cast

import numpy as np

import vlm_prep
from vlm_prep.certify.compare import (
    Alone,
    Finding,
    Rows,
    badness,
    compare_packed,
    compare_padded,
    compare_stand_in,
    run_alone,
)
from vlm_prep.certify.conversations import conversations
from vlm_prep.certify.kernels import FLASH
from vlm_prep.certify.tiny_model import TinyModel
from vlm_prep.core.errors import InputError, ProcessorError, Reject, StoreError
from vlm_prep.core.pack_settings import PackConfig
from vlm_prep.core.processor_record import ProcessorRecord
from vlm_prep.engine.stage import RunOptions
from vlm_prep.pack.pack_run import pack
from vlm_prep.processors.adapter import Adapter
from vlm_prep.processors.backbone import Backbone, backbone_of, config_json
from vlm_prep.processors.model_config import config_of, models_of
from vlm_prep.processors.runtime import describe_processor
from vlm_prep.processors.stand_in import find_stand_in
from vlm_prep.shards.layout import shard_name
from vlm_prep.shards.manifest import Manifest, write_manifest
from vlm_prep.shards.schema import tokenized_schema
from vlm_prep.shards.writer import ShardWriter
from vlm_prep.stream.collate_base import store_options
from vlm_prep.stream.dataset import ShardDataset
from vlm_prep.stream.decoder_batches import DECODER
from vlm_prep.tokenize.encoder import SampleEncoder
from vlm_prep.tokenize.tokenize_job import row_of
from vlm_prep.tokenize.verify.real_processor import Oracle


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """What was found; JSON-ready."""

    model: str
    """transformers' name of it."""
    layers: Mapping[str, int]
    """Of the tiny model."""
    findings: tuple[Finding, ...]
    rows: tuple[str, ...]
    """The conversations that were compared."""
    notes: tuple[str, ...]
    versions: Mapping[str, str]
    not_compared: tuple[str, ...] = ()
    """Kinds of media that the processor takes, and of which no row was compared, see `notes`."""

    @property
    def passed(self) -> bool:
        """Whether every kind of media was compared, and what collaters hand out without refusing is equal."""
        return not self.not_compared and all(each.verdict in ("equal", "refused") for each in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return {**asdict(self), "passed": self.passed}


def default_config(processor: Any) -> Any:
    """Return transformers' default config of the model that a processor stands beside.

    Raises:
        ProcessorError: there is none.
    """
    names = models_of(type(processor))
    config = config_of({"model_type": names[0]}) if names else None
    if config is None:
        raise ProcessorError(
            f"transformers has no model beside {type(processor).__name__}, so there is nothing to certify with",
            "give the model's folder: `model=FOLDER`",
        )
    for name, part in config.sub_configs.items():
        if getattr(config, name, None) is None and hasattr(part, "model_type"):
            setattr(config, name, part())
    return config


def certify_processor(encoder: SampleEncoder, config: Any = None) -> Certificate:
    """Certify a processor with a model.

    Args:
        encoder: over the processor.
        config: transformers' config object of the model; None takes the default one of the processor's own model, with
            the processor's token ids.

    Raises:
        ProcessorError: there is no such model in transformers, or it cannot be made small.
    """
    adapter = encoder.adapter
    if config is None:
        config = default_config(adapter.hf)
        take_ids(config, adapter)
    backbone = backbone_of(config)
    notes: list[str] = []
    with tempfile.TemporaryDirectory(prefix="vlm-prep-certificate-") as folder:
        rows, alone = _rows(encoder, Path(folder), notes)
        tokens = np.unique(np.concatenate([row["input_ids"] for row in rows]))
        extra = [each for each in (adapter.hf.tokenizer.pad_token_id, adapter.decoder_start()) if each is not None]
        extra += (find_stand_in(adapter) or {"ids": []})["ids"]
        model = TinyModel(config, [*tokens.tolist(), *extra])
        first, failed = run_alone(model, alone, "sdpa")
        for name, why in failed.items():
            notes.append(f"{name}: the model itself does not take what its processor makes: {why}")
        rows = [row for row in rows if row["sample_id"] not in failed]
        alone = {name: row for name, row in alone.items() if name not in failed}
        known = {"model": config_json(config), "backbone": backbone.to_json()}
        groups = [rows]
        if backbone.kinds_apart:
            groups = [[row for row in rows if kind not in _kinds(row)] for kind in ("audio", "image")]
        if backbone.pictures_or_videos:
            groups = [[row for row in rows if kind not in _kinds(row)] for kind in ("video", "image")]
        if backbone.cross_attention:
            numbers = sorted({len(row["media"]) for row in rows})
            groups = [[row for row in rows if len(row["media"]) == number] for number in numbers]
        if backbone.numbers_pictures:
            groups = [[row] for row in rows]
        alone_in = {"audio": backbone.hears_padding, "video": backbone.stacks_videos}
        if single := {kind for kind, needed in alone_in.items() if needed}:
            groups = [[row] for row in rows if single & _kinds(row)]
            groups.append([row for row in rows if not single & _kinds(row)])
        by_group = []
        for number, group in enumerate(groups):
            place = Path(folder) / f"group{number}"
            dataset = ShardDataset(_write_store(place / "tok", encoder, group, known), shuffle=False)
            by_group.append(_findings(model, dataset, first, alone, backbone, place, notes))
        by_form: dict[tuple[str, str], list[Finding]] = {}
        for found in chain.from_iterable(by_group):
            by_form.setdefault((found.form, found.attention), []).append(found)
        findings = [max(same, key=badness) for same in by_form.values()]
    compared = {kind for row in rows for kind in _kinds(row)}
    return Certificate(
        model=str(config.model_type),
        layers=dict(backbone_of(model.config).layers),
        findings=tuple(findings),
        rows=tuple(alone),
        notes=tuple(notes),
        versions=_versions(),
        not_compared=tuple(kind for kind in adapter.kinds if kind not in compared),
    )


def _kinds(row: Mapping[str, Any]) -> set[str]:
    return {struct["kind"] for struct in row["media"]}


def _findings(
    model: TinyModel,
    dataset: ShardDataset,
    first: Alone,
    rows: Rows,
    backbone: Backbone,
    folder: Path,
    notes: list[str],
) -> Sequence[Finding]:
    decoder = {name: dataset.manifest.processor.get(name) for name in DECODER}
    items = [dataset[number] for number in range(len(dataset))]
    options = store_options(dataset, {})
    alone = {"sdpa": first}
    padded = compare_padded(model, first, items, {**options, **decoder})
    stand_in = compare_stand_in(model, first, items, dataset.manifest.processor, options)
    try:
        packs = _packs(dataset, items, folder)
    except (StoreError, InputError) as error:
        return [padded, stand_in, Finding(form="packs", attention="all", verdict="refused", why=error.message)]
    try:
        alone[FLASH], failed = run_alone(model, rows, FLASH)
        if failed:
            del alone[FLASH]
            notes.append(f"{FLASH}: {next(iter(failed.items()))}")
    except ProcessorError as error:  # a model that does not run this attention at all
        notes.append(f"{FLASH}: {error.message}")
    mrope = dataset.manifest.processor.get("mrope") is not None or _has_axes(packs)
    own = config_json(model.config)
    batches = packs[:1] if backbone.reads else packs[1:]  # of one pack, or of two, which most models take
    return [padded, stand_in, *compare_packed(model, alone, batches, own, {**options, "mrope": mrope})]


def _has_axes(packs: Sequence[Sequence[Mapping[str, Any]]]) -> bool:
    return np.ndim(packs[0][0]["position_ids"]) > 1


def _rows(encoder: SampleEncoder, folder: Path, notes: list[str]) -> tuple[list[dict[str, Any]], Rows]:
    """The stored rows, and what the real processor makes of them, with labels."""
    import torch

    oracle = Oracle(encoder, encoder.config)
    start, end = encoder.adapter.decoder_start(), describe_processor(encoder.adapter).get("encoder_end_token_id")
    rows, alone = [], {}
    one_turn = encoder.adapter.answer_types is not None or end is not None
    for sample in conversations(encoder.adapter.kinds, folder, one_turn=one_turn):
        try:
            row = row_of(encoder.encode(sample, (None,) * len(sample.media)))
        except Reject as reject:
            notes.append(f"{sample.sample_id}: {reject.message}")
            continue
        real = dict(oracle.real(row))
        labels = torch.from_numpy(row["labels"].astype(np.int64))[None]
        if start is not None:
            ids = real.pop("input_ids")
            real.pop("attention_mask", None)
            if end is not None:
                read = int((ids[0] == end).nonzero()[0]) + 1
                real["input_ids"], ids, labels = ids[:, :read], ids[:, read:], labels[:, read:]
            real["decoder_input_ids"] = torch.cat([torch.full_like(ids[:, :1], start), ids[:, :-1]], 1)
        rows.append(row)
        alone[sample.sample_id] = {**real, "labels": labels}
    return rows, alone


def _write_store(folder: Path, encoder: SampleEncoder, rows: Sequence[Mapping[str, Any]], known: Any) -> Path:
    runtime = cast(ProcessorRecord, {**describe_processor(encoder.adapter), **known})
    (folder / "train").mkdir(parents=True)
    with ShardWriter(folder / "train" / shard_name(0, 1), tokenized_schema(runtime["tensors"])) as writer:
        for row in rows:
            writer.write(dict(row), size=64, tokens=len(row["input_ids"]))
        info = writer.commit()
    manifest = Manifest(
        stage="tokenize",
        fingerprint="certificate",
        config={**encoder.config.to_json(), "media": "reference"},
        splits={"train": [info]},
        totals={},
        processor=runtime,
    )
    write_manifest(folder, manifest)
    return folder


def _packs(dataset: ShardDataset, items: Sequence[Mapping[str, Any]], folder: Path) -> list[list[dict[str, Any]]]:
    """A batch of one pack with all documents, and one of two packs, or three where they leave gaps."""
    lengths = [len(item["input_ids"]) for item in items]
    batches = []
    for name, length in (("whole", sum(lengths)), ("halves", max(*lengths, -(-sum(lengths) // 2) + 8))):
        out = folder / name
        quiet = RunOptions(out=out, workers=0, progress=False, say=lambda line: None, max_reject_rate=1.0)
        pack(dataset.path, PackConfig(pack_length=length), quiet)
        packed = ShardDataset(out, shuffle=False)
        batches.append([packed[number] for number in range(len(packed))])
    return batches


def take_ids(config: Any, adapter: Adapter) -> None:
    """Give a default config the token ids of the processor's own vocabulary."""
    number = adapter.hf.tokenizer.convert_tokens_to_ids
    placeholders = {number(text) for text in adapter.placeholders}
    repeated = adapter.run_ids - placeholders
    of_positions = {name: token for name, token in (adapter.mrope() or {}).items() if name.endswith("_token_id")}
    for part in {id(each): each for each in (config, getattr(config, "thinker_config", config))}.values():
        for name in list(part.to_dict()):
            if name.endswith(("_token_id", "_token_index")):
                token = _id_of(adapter.hf, name.removesuffix("_id").removesuffix("_index"))
                if name.startswith("image_token") and token not in adapter.run_ids - placeholders:
                    # the one that is repeated for a picture, not the one that stands for it or opens it
                    token = next(iter(repeated)) if len(repeated) == 1 else token
                if token is not None:
                    setattr(part, name, token)
        for name, token in of_positions.items():
            setattr(part, name, token)


def _id_of(processor: Any, token: str) -> int | None:
    for holder in (processor, processor.tokenizer):
        found = getattr(holder, f"{token}_id", None)
        if isinstance(found, int):
            return found
        text = getattr(holder, token, None)
        number = processor.tokenizer.convert_tokens_to_ids(text) if isinstance(text, str) else None
        if number is not None:
            return int(number)
    return None


def _versions() -> dict[str, str]:
    import torch
    import transformers

    return {"vlm_prep": vlm_prep.__version__, "transformers": transformers.__version__, "torch": torch.__version__}
