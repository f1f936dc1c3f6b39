"""One batch as a model takes it: its tensors, their sizes, what is wrong with them, and the modules that they run."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import torch

from vlm_prep.certify.kernels import FLASH
from vlm_prep.certify.tiny_model import TinyModel
from vlm_prep.stream.attention import document_ids

INTEGERS: Final = ("input_ids", "labels", "decoder_input_ids")
_LENGTHS: Final = ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "seq_idx", "use_cache")
"""Read from a model's **kwargs, where its signature does not name them."""


@dataclass(kw_only=True)
class BatchCheck:
    """What one rank gets in one step; JSON-ready by `vars`."""

    rank: int
    step: int
    tensors: dict[str, str]
    """{name: shape and dtype}"""
    nbytes: int
    tokens: int
    """Of rows, padding included."""
    trained: int
    kinds: list[str]
    """Of media in the batch."""
    loss: float | None = None
    """Of the tiny model."""
    modules: list[str] = field(default_factory=list)
    """With parameters of their own, in the order in which the tiny model called them."""
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def check_batch(
    batch: Mapping[str, Any],
    items: Sequence[Mapping[str, Any]],
    model: TinyModel | None,
    *,
    rank: int,
    step: int,
    attention: str,
) -> BatchCheck:
    """Look at a batch, and run a model on it if there is one.

    Args:
        batch: as the trainer gives it to the model.
        items: that it was made of.
        model: of the family, or None.
        rank: whose batch it is.
        step: which one.
        attention: the implementation that it was laid out for.
    """
    found = {name: value for name, value in batch.items() if isinstance(value, torch.Tensor)}
    ids = batch["decoder_input_ids" if "decoder_input_ids" in batch else "input_ids"]
    counts = {kind: sum(item.get(f"n_{kind}s", 0) for item in items) for kind in ("image", "video", "audio")}
    check = BatchCheck(
        rank=rank,
        step=step,
        tensors={
            name: f"{list(value.shape)} {str(value.dtype).removeprefix('torch.')}" for name, value in found.items()
        },
        nbytes=sum(value.numel() * value.element_size() for value in found.values()),
        tokens=ids.numel(),
        trained=int((batch["labels"] >= 0).sum()),
        kinds=[kind for kind, count in counts.items() if count],
    )
    check.faults += [*_faults(batch, ids), *_position_faults(batch, ids, items)]
    if model is not None:
        check.notes += _unread(model, batch)
        _run(model, batch, check, attention)
    return check


def _faults(batch: Mapping[str, Any], ids: torch.Tensor) -> list[str]:
    """What no model takes."""
    faults = [
        f"{name} is {batch[name].dtype}, expected int64"
        for name in INTEGERS
        if name in batch and batch[name].dtype != torch.int64
    ]
    labels, mask = batch["labels"], batch.get("attention_mask")
    if labels.shape != ids.shape:
        faults.append(f"labels are {list(labels.shape)}, ids {list(ids.shape)}")
    elif "input_ids" in batch and not torch.equal(labels[labels >= 0], ids[labels >= 0]):
        faults.append("labels are not the ids of their own positions: models of transformers shift inside")
    if bool((labels >= 0).sum() == 0):
        faults.append("no token is trained: a mean of its loss is nan")
    wide = [tuple(ids.shape), (ids.shape[0], 1, ids.shape[1], ids.shape[1])]
    for name, each in mask.items() if isinstance(mask, Mapping) else (("attention_mask", mask),):
        if each is not None and tuple(each.shape) not in wide:
            faults.append(f"{name} is {list(each.shape)}, ids {list(ids.shape)}")
    for name, value in batch.items():
        if isinstance(value, torch.Tensor) and value.is_floating_point() and not bool(torch.isfinite(value).all()):
            faults.append(f"{name} holds numbers that are not finite")
    return faults


def _position_faults(batch: Mapping[str, Any], ids: torch.Tensor, items: Sequence[Mapping[str, Any]]) -> list[str]:
    positions = batch.get("position_ids")
    if positions is None or not all("seq_lens" in item for item in items):
        return []
    if positions.shape[-2:] != ids.shape or positions.ndim not in (2, 3):
        return [f"position_ids are {list(positions.shape)}, ids {list(ids.shape)}"]
    documents = document_ids([torch.as_tensor(item["seq_lens"]) for item in items], ids.shape[-1])
    starts = torch.ones_like(documents, dtype=torch.bool)
    starts[:, 1:] = documents[:, 1:] != documents[:, :-1]
    at_start = positions[..., starts & (documents > 0)]
    alike = bool((at_start == at_start[..., :1]).all())
    return [] if alike else ["positions do not begin again with each document"]


def _unread(model: TinyModel, batch: Mapping[str, Any]) -> list[str]:
    named = inspect.signature(model.model.forward).parameters
    unread = sorted(name for name in batch if name not in named and name not in _LENGTHS)
    return [f"the model's forward does not name {', '.join(unread)}"] if unread else []


def _run(model: TinyModel, batch: Mapping[str, Any], check: BatchCheck, attention: str) -> None:
    """Run the model, and note its loss and the modules that it called: sharded training gathers the parameters of
    each when it is called, so ranks that call others wait for each other forever."""
    owners = {
        name: module
        for name, module in model.model.named_modules()
        if "expert" not in name and any(True for _ in module.parameters(recurse=False))
    }
    hooks = [
        module.register_forward_pre_hook(lambda *_, name=name: check.modules.append(name))
        for name, module in owners.items()
    ]
    try:
        loss = model.run(batch, FLASH if attention.startswith("flash") else "sdpa").loss
        check.loss = float(loss)
        if not torch.isfinite(loss):
            check.faults.append(f"the loss is {check.loss}")
    except Exception as error:  # whatever a model raises on a batch that it does not take
        said = str(error).strip().splitlines()
        check.faults.append(f"the model does not take it: {type(error).__name__}: {said[0][:300] if said else ''}")
    finally:
        for hook in hooks:
            hook.remove()
