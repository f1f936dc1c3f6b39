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
from pathlib import Path
from typing import Any

import numpy as np

import vlm_prep
from vlm_prep.certify.compare import Finding, Rows, compare_packed, compare_padded, run_alone
from vlm_prep.certify.conversations import conversations
from vlm_prep.certify.kernels import FLASH
from vlm_prep.certify.tiny_model import TinyModel
from vlm_prep.core.errors import InputError, ProcessorError, Reject, StoreError
from vlm_prep.core.settings import PackConfig
from vlm_prep.engine.stage import RunOptions
from vlm_prep.pack.pack_run import pack
from vlm_prep.processors.backbone import Backbone, backbone_of
from vlm_prep.processors.model_config import config_of, models_of
from vlm_prep.shards.layout import shard_name
from vlm_prep.shards.manifest import Manifest, write_manifest
from vlm_prep.shards.schema import tokenized_schema
from vlm_prep.shards.writer import ShardWriter
from vlm_prep.stream.collate_base import store_options
from vlm_prep.stream.dataset import ShardDataset
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

    @property
    def passed(self) -> bool:
        """Whether what the collaters hand out without being refused is equal."""
        return all(each.verdict in ("equal", "refused") for each in self.findings)

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
            "give the model's folder: --model FOLDER",
        )
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
        _take_ids(config, adapter.hf)
    backbone = backbone_of(config)
    notes: list[str] = []
    with tempfile.TemporaryDirectory(prefix="vlm-prep-certificate-") as folder:
        rows, alone = _rows(encoder, Path(folder), notes)
        store = _write_store(Path(folder) / "tok", encoder, rows, backbone)
        dataset = ShardDataset(store, shuffle=False)
        items = [dataset[number] for number in range(len(dataset))]
        ids = np.unique(np.concatenate([item["input_ids"] for item in items]))
        extra = [each for each in (adapter.hf.tokenizer.pad_token_id, adapter.decoder_start()) if each is not None]
        model = TinyModel(config, [*ids.tolist(), *extra])
        findings = list(_findings(model, dataset, items, alone, backbone, Path(folder), notes))
    kinds = backbone_of(model.config).layers
    return Certificate(
        model=str(config.model_type),
        layers=dict(kinds),
        findings=tuple(findings),
        rows=tuple(alone),
        notes=tuple(notes),
        versions=_versions(),
    )


def _findings(
    model: TinyModel,
    dataset: ShardDataset,
    items: Sequence[Mapping[str, Any]],
    rows: Rows,
    backbone: Backbone,
    folder: Path,
    notes: list[str],
) -> Sequence[Finding]:
    start = dataset.manifest.processor["decoder_start_token_id"]
    options = store_options(dataset, {})
    alone = {"sdpa": run_alone(model, rows, "sdpa")}
    padded = compare_padded(model, alone["sdpa"], items, {**options, "decoder_start_token_id": start})
    try:
        packs = _packs(dataset, items, folder)
    except (StoreError, InputError) as error:
        return [padded, Finding(form="packs", attention="all", verdict="refused", why=error.message)]
    for attention in (FLASH,):
        try:
            alone[attention] = run_alone(model, rows, attention)
        except Exception as error:  # a model that does not run this attention at all
            notes.append(f"{attention}: {type(error).__name__}: {str(error)[:200]}")
    mrope = dataset.manifest.processor.get("mrope") is not None
    return [padded, *compare_packed(model, alone, packs, backbone, {**options, "mrope": mrope})]


def _rows(encoder: SampleEncoder, folder: Path, notes: list[str]) -> tuple[list[dict[str, Any]], Rows]:
    """The stored rows, and what the real processor makes of them, with labels."""
    import torch

    oracle = Oracle(encoder, encoder.config)
    start = encoder.adapter.decoder_start()
    rows, alone = [], {}
    for sample in conversations(encoder.adapter.kinds, folder):
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
            real["decoder_input_ids"] = torch.cat([torch.full_like(ids[:, :1], start), ids[:, :-1]], 1)
        rows.append(row)
        alone[sample.sample_id] = {**real, "labels": labels}
    return rows, alone


def _write_store(folder: Path, encoder: SampleEncoder, rows: Sequence[Mapping[str, Any]], backbone: Backbone) -> Path:
    runtime = {**encoder.adapter.runtime(), "backbone": backbone.to_json()}
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
        totals={"rows_in": len(rows), "rows_written": len(rows), "rows_rejected": 0},
        processor=runtime,
    )
    write_manifest(folder, manifest)
    return folder


def _packs(dataset: ShardDataset, items: Sequence[Mapping[str, Any]], folder: Path) -> list[list[dict[str, Any]]]:
    """A batch of one pack with all documents, and one of two packs."""
    lengths = [len(item["input_ids"]) for item in items]
    batches = []
    for name, length in (("whole", sum(lengths)), ("halves", max(*lengths, -(-sum(lengths) // 2) + 8))):
        out = folder / name
        quiet = RunOptions(out=out, workers=0, progress=False, say=lambda line: None, max_reject_rate=1.0)
        pack(dataset.path, PackConfig(pack_length=length), quiet)
        packed = ShardDataset(out, shuffle=False)
        batches.append([packed[number] for number in range(min(2, len(packed)))])
    return batches


def _take_ids(config: Any, processor: Any) -> None:
    """Give a default config the token ids of the processor's own vocabulary."""
    for part in {id(each): each for each in (config, getattr(config, "thinker_config", config))}.values():
        for name in list(part.to_dict()):
            if name.endswith(("_token_id", "_token_index")):
                token = _id_of(processor, name.removesuffix("_id").removesuffix("_index"))
                if token is not None:
                    setattr(part, name, token)


def _id_of(processor: Any, token: str) -> int | None:
    for holder in (processor, processor.tokenizer):
        found = getattr(holder, f"{token}_id", None)
        if isinstance(found, int):
            return found
        text = getattr(holder, token, None)
        if isinstance(text, str):
            return int(processor.tokenizer.convert_tokens_to_ids(text))
    return None


def _versions() -> dict[str, str]:
    import torch
    import transformers

    return {"vlm_prep": vlm_prep.__version__, "transformers": transformers.__version__, "torch": torch.__version__}
