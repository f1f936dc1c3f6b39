"""A stand-in media: the smallest that a processor takes, black or silent, and the tokens that it becomes.

For batches without media where parameters are sharded (`stream.dummy`). Found out with the processor itself, for every
family; a manifest holds the tokens and the size, and training makes the tensors again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from vlm_prep.core.processor_record import ProcessorRecord, StandIn
from vlm_prep.core.records import MediaKind
from vlm_prep.processors.payload.pixels import PixelMaker
from vlm_prep.processors.processor_parts import ARGUMENTS

if TYPE_CHECKING:
    import torch

    from vlm_prep.processors.adapter import Adapter

_SIDES = (56, 112, 224, 448)
"""Pixels of a picture's sides, tried in turn."""
_SECONDS = (0.1, 0.5, 1.0, 5.0)


def find_stand_in(adapter: Adapter) -> StandIn | None:
    """Return {kind, size, ids} of the smallest picture, else sound, that the processor takes; None if it takes none,
    every row has one, or text would see it. A size is a picture's side in pixels, or samples of sound."""
    if adapter.decoder_start() is not None or not adapter.stands_in:
        return None
    single: StandIn | None = None
    for kind, size in _tried(adapter):
        text = next(text for text, each in adapter.placeholders.items() if each == kind)
        media = _media(kind, size)
        # in tensors: some read off them how a picture was cut (Ovis 2)
        call: dict[str, Any] = {ARGUMENTS[kind]: [[media]] if kind == "image" else [media], "return_tensors": "pt"}
        if kind == "audio":
            call["sampling_rate"] = adapter.sampling_rate
        try:
            ids = np.asarray(adapter.hf(text=[text], **call)["input_ids"][0]).tolist()
        except Exception:  # processors refuse what is too small in many ways; the next size is larger
            continue
        first, last = adapter.added_around
        own = [int(token) for token in ids[len(first) : len(ids) - len(last)]]
        found: StandIn = {"kind": kind, "size": size, "ids": own}
        if sum(token in adapter.run_ids for token in own) > 1:
            return found
        single = single or found  # some models lose a dimension of a picture of one token
    return single


def stand_in_tensors(runtime: ProcessorRecord, *, trust_remote_code: bool = False) -> dict[str, torch.Tensor]:
    """Return the processor's tensors of a manifest's stand-in."""
    found = runtime.get("stand_in")
    if found is None:
        raise ValueError("the manifest knows of no stand-in")
    maker, media = PixelMaker(runtime, trust_remote_code=trust_remote_code), _media(found["kind"], found["size"])
    if maker.needs_whole:
        return maker.call_whole([found["kind"]], {found["kind"]: [media]})
    return maker.call_part(found["kind"], [media])


def _tried(adapter: Adapter) -> Iterator[tuple[MediaKind, int]]:
    kinds = set(adapter.placeholders.values())
    if "image" in kinds:
        yield from (("image", side) for side in _SIDES)
    elif "audio" in kinds:
        yield from (("audio", int(seconds * (adapter.sampling_rate or 16_000))) for seconds in _SECONDS)


def _media(kind: str, size: int) -> Any:
    if kind == "audio":
        return np.zeros(size, np.float32)
    from PIL import Image

    return Image.new("RGB", (size, size))
