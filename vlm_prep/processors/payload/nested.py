"""Tensors that a processor returns in lists: one for each media, tile or scale, of sizes that do not go into one.

A batch holds them as such lists, those of its rows one after the other, as the processor makes them of a batch. Shards
hold none: they are made again by the whole processor when a row is read, or packed where each stands for one media.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch


class Nested(list[Any]):
    """Tensors, or lists of them."""

    @property
    def shape(self) -> tuple[int, ...]:
        """How many it holds; what tensors and lists are asked for alike."""
        return (len(self),)

    def each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Nested:
        """Return the same lists with each tensor changed."""
        return Nested(one.each(change) if isinstance(one, Nested) else change(one) for one in self)


def kept(value: Any) -> Any:
    """Return what a processor returned under a name, as a row keeps it: a tensor or `Nested`; None for what is none."""
    import torch

    if value is None or torch.is_tensor(value):
        return value
    if isinstance(value, list | tuple) and any(torch.is_tensor(one) or isinstance(one, list | tuple) for one in value):
        if all(not torch.is_tensor(one) or not one.dim() for one in _leaves(value)):
            return _as_tensor(value)  # numbers
        made = [kept(one) for one in value]
        return Nested(one for one in made if one is not None)
    found = _as_tensor(value)
    return Nested(torch.as_tensor(one) for one in value) if found is None and _are_arrays(value) else found


def tensors_in(value: torch.Tensor | Nested) -> Iterator[torch.Tensor]:
    """Yield the tensors of a value."""
    if isinstance(value, Nested):
        for one in value:
            yield from tensors_in(one)
    else:
        yield value


def same_values(real: Any, ours: Any) -> bool:
    """Whether two are equal bit by bit, NaN being equal to NaN: it is no difference from the processor."""
    import torch

    if isinstance(real, Nested) or isinstance(ours, Nested):
        alike = isinstance(real, Nested) and isinstance(ours, Nested) and len(real) == len(ours)
        return alike and all(same_values(a, b) for a, b in zip(real, ours, strict=True))
    if real is ours:
        return True
    if real is None or ours is None or real.dtype != ours.dtype:
        return False
    if torch.equal(real, ours):
        return True
    return bool(
        real.shape == ours.shape and real.is_floating_point() and ((real == ours) | (real.isnan() & ours.isnan())).all()
    )


def _as_tensor(value: Any) -> torch.Tensor | None:
    import torch

    try:
        return torch.as_tensor(np.asarray(value) if _are_arrays(value) else value)
    except (TypeError, ValueError, RuntimeError):
        return None  # metadata, or arrays of several shapes


def _are_arrays(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(one, np.ndarray) for one in value)


def _leaves(value: Any) -> Iterator[Any]:
    for one in value:
        if isinstance(one, list | tuple):
            yield from _leaves(one)
        else:
            yield one
