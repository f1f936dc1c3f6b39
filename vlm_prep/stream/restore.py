"""Batches with pixels as stored bytes → the processor's pixel tensors, on the device that trains.

A batch of `ShardDataset(..., pixels="bytes")` holds one uint8 tensor for each of the processor's, an eighth of its size
for the pictures of Qwen-VL, so that little is copied between processes and to the device. The last arithmetic of the
image processor is done there, in its own order and precision: in float32 the result is the processor's, bit by bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch

from vlm_prep.core.processor_record import ProcessorRecord
from vlm_prep.processors.payload.quick import QuickMaker
from vlm_prep.processors.payload.stored import CodedTensor
from vlm_prep.processors.payload.uint8 import Uint8Rule

Pixels = bool | Literal["bytes"]
CODED = "_uint8"
"""End of the name of a tensor of bytes in a batch."""
PIXEL_RULES = "pixel_rules"
"""Entry of a batch: how each such tensor becomes the processor's."""


TensorMaker = Callable[..., dict[str, Any] | None]


def tensor_makers(
    runtime: ProcessorRecord, pixels: Pixels, *, trust_remote_code: bool
) -> tuple[TensorMaker | None, TensorMaker | None]:
    """Return what makes the tensors of a row's media, and what does so where it need not compute (else None).

    See `PixelMaker.pixels`, `coded` and `stored`. Either is None where it is not wanted.
    """
    if not pixels:
        return None, None
    maker = QuickMaker(runtime, trust_remote_code=trust_remote_code)
    return (maker.coded, maker.stored) if pixels == "bytes" else (maker.pixels, None)


def shared_rule(values: Sequence[Any]) -> Uint8Rule | None:
    """Return the rule of a batch's tensors if all are bytes that go into one; else None."""
    first = values[0]
    if not isinstance(first, CodedTensor):
        return None
    rule, rest = first.rule, first.shape[1:]
    for value in values:
        # a store's rows share one rule; comparing two field by field takes longer than all else here
        if not isinstance(value, CodedTensor) or value.shape[1:] != rest:
            return None
        if value.rule is not rule and value.rule != rule:
            return None
    return rule


def to_pixel_values(
    batch: Mapping[str, Any], dtype: torch.dtype = torch.float32, device: torch.device | str | None = None
) -> dict[str, Any]:
    """Return a batch with the processor's pixel tensors in place of bytes.

    Args:
        batch: of a collater. Without bytes in it, its pixel tensors are moved and cast alone.
        dtype: of the pixel tensors; the arithmetic is done in float32 and cast after.
        device: of the pixel tensors; by default CUDA if there is some, else the CPU. Other tensors stay where they are.
    """
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    rules: Mapping[str, Uint8Rule] = batch.get(PIXEL_RULES, {})
    made: dict[str, Any] = {}
    for name, value in batch.items():
        plain = name.removesuffix(CODED)
        if name != plain and plain in rules:
            made[plain] = rules[plain].restore(value.to(where, non_blocking=True)).to(dtype)
        elif "pixel_values" in name and isinstance(value, torch.Tensor) and value.is_floating_point():
            made[name] = value.to(where, dtype, non_blocking=True)
        elif name != PIXEL_RULES:
            made[name] = value
    return made
