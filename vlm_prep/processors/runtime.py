"""What the manifest says of a processor, so that training needs neither its tokenizer nor its folder."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, cast

from vlm_prep.core.processor_record import PartFields, ProcessorRecord, TensorRecord, WholeRecord
from vlm_prep.core.records import MediaKind
from vlm_prep.media.ffmpeg import decoders
from vlm_prep.processors.backbone import describe_backbone
from vlm_prep.processors.batch_probe import look_at_two_rows
from vlm_prep.processors.model_config import models_of
from vlm_prep.processors.processor_parts import PartRecord, in_transformers
from vlm_prep.processors.stand_in import find_stand_in
from vlm_prep.processors.token_types import ANSWER, join_kinds

if TYPE_CHECKING:
    from vlm_prep.processors.adapter import Adapter


def describe_processor(adapter: Adapter) -> ProcessorRecord:
    """Return what the runtime needs of a processor, JSON-ready: settings and token ids, no tokenizer."""
    records = {kind: adapter.part_record(kind) for kind in adapter.kinds}
    stored = {tensor.name for tensor in adapter.geometry}
    added = {name for record in records.values() for name in record.added} - stored
    values = join_kinds({kind: record.types for kind, record in records.items()}, adapter.regions())
    if adapter.answer_types is not None:
        values[adapter.answer_types] = {ANSWER: []}
    made: ProcessorRecord = {
        "family": adapter.family,
        "level": adapter.level,
        "identity": adapter.loaded.identity,
        "parts": {kind: _part(adapter, kind, record) for kind, record in records.items()},
        "interleaved": adapter.interleaved,
        "whole": _whole(adapter) if added or not all(in_transformers(each) for each in records.values()) else None,
        "tensors": [cast(TensorRecord, asdict(tensor)) for tensor in adapter.geometry],
        "sampling_rate": adapter.sampling_rate,
        "audio_in_video": adapter.audio_in_video,
        "token_types": _token_types(adapter),
        "token_values": values,
        "pad_token_id": adapter.hf.tokenizer.pad_token_id,
        "image_token_id": getattr(adapter.hf, "image_token_id", None),
        "video_token_id": getattr(adapter.hf, "video_token_id", None),
        "decoder_start_token_id": adapter.decoder_start(),
        "vocab_size": len(adapter.hf.tokenizer),
        "mrope": adapter.mrope(),
        "positions": adapter.positions,
        "run_ids": sorted(adapter.run_ids),
        "decoders": decoders(),
        "stand_in": find_stand_in(adapter),
        "model": adapter.loaded.model,
        "backbone": describe_backbone(adapter.loaded.model, models_of(type(adapter.hf))).to_json(),
    }
    if adapter.decoder_start() is not None and adapter.placeholders:  # media stand in what its encoder reads
        made["encoder_end_token_id"] = int(adapter.hf.tokenizer.eos_token_id)
    if adapter.loaded.config.sound_offset == "keep":
        made["sound_offset"] = "keep"
    return made


def _part(adapter: Adapter, kind: MediaKind, record: PartRecord) -> PartFields:
    made = record.to_json()
    pointers, _ = look_at_two_rows(adapter.hf, kind, adapter.small_calls(kind)[-1])
    return {**made, "pointers": dict(pointers)} if pointers else made


def _whole(adapter: Adapter) -> WholeRecord:
    """What it takes to load the processor again, where its parts alone do not do."""
    return {
        "name": adapter.loaded.name,
        "config": adapter.loaded.config.to_stored(),
        "placeholders": {kind: adapter.text_for(kind) for kind in adapter.kinds},
    }


def _token_types(adapter: Adapter) -> dict[str, list[int]]:
    """The ids that the processor marks as pictures, videos and audio in its token type ids."""
    found = {kind: getattr(adapter.hf, f"{kind}_token_ids", None) or [] for kind in adapter.kinds}
    return {kind: [int(token) for token in ids if token is not None] for kind, ids in found.items()}
