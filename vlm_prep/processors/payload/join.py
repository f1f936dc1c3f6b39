"""Tensors of several media into one, as transformers' processors make a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vlm_prep.core.errors import StoreError
from vlm_prep.processors.payload.nested import Nested

if TYPE_CHECKING:
    import torch


def torch_type(name: str) -> torch.dtype:
    """Return torch's type of a name that a store holds.

    Raises:
        StoreError: it has none.
    """
    import torch

    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise StoreError(f"no type of a tensor is called {name!r}", "`vlm-prep verify` looks at the whole store")
    return found


def whole_mask(shape: Sequence[int], dtype: str) -> torch.Tensor:
    """Return the mask of media that fill their tensor: ones, (rows, steps).

    Args:
        shape: of the tensor that it is the mask of, (rows, steps, ...).
        dtype: torch's name of the mask's.
    """
    import torch

    return torch.ones(tuple(shape[:2]), dtype=torch_type(dtype))


def join(tensors: Sequence[torch.Tensor], axis: int = 0) -> torch.Tensor:
    """Return tensors one after the other along a dimension, which is the first one but for few processors; lists of
    them one after the other.

    Where the others differ, they are padded with zeros at the end, as transformers' processors pad a batch (the tiles
    of LLaVA-OneVision, the pictures of Pixtral).
    """
    import torch

    if len(tensors) == 1:
        return tensors[0]
    if any(isinstance(each, Nested) for each in tensors):
        return Nested(one for each in tensors for one in each)  # type: ignore[return-value]
    if axis:
        return torch.cat(list(tensors), axis)
    shape = [max(sizes) for sizes in zip(*(tensor.shape[1:] for tensor in tensors), strict=True)]
    if all(list(tensor.shape[1:]) == shape for tensor in tensors):
        return torch.cat(list(tensors))
    joined = tensors[0].new_zeros((sum(len(tensor) for tensor in tensors), *shape))
    start = 0
    for tensor in tensors:
        place = (slice(start, start + len(tensor)), *(slice(0, size) for size in tensor.shape[1:]))
        joined[place] = tensor
        start += len(tensor)
    return joined
