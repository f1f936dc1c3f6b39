"""Tensors whose numbers are places in another tensor of the batch: counted on from row to row.

Molmo 2 says of each token which patches it is pooled from, by their places among all patches of the batch. A row by
itself counts from 0; behind another row in a batch or a pack it counts from where that one ends. Numbers below 0 say
that there is no place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vlm_prep.core.errors import StoreError
from vlm_prep.core.processor_record import PartFields
from vlm_prep.processors.payload.nested import Nested, same_values
from vlm_prep.processors.payload.stored import Stored

if TYPE_CHECKING:
    pass

Pointers = Mapping[str, tuple[str, int]]
"""{tensor: (the one that it points into, places in each row of that)}."""


_POOLING = frozenset({"image_token_pooling", "video_token_pooling"})
"""Those of Molmo 2, of which stores of earlier versions do not say that they point."""


def pointers_of(parts: Mapping[str, PartFields]) -> Pointers:
    """Return what a store's parts say of tensors that point.

    Raises:
        StoreError: they are Molmo 2's, and made before they said so.
    """
    found = {name: of for part in parts.values() for name, of in part.get("pointers", {}).items()}
    made = {name for part in parts.values() for name, _ in part["outputs"].values()}
    if lacking := (made & _POOLING) - found.keys():
        raise StoreError(
            f"the store does not say that {', '.join(sorted(lacking))} points into the pixels of the whole batch: of "
            "two rows, one would be given the other's pictures",
            "tokenize it again with this version",
        )
    return found


class CountingOn:
    """Counts on what points, from row to row.

    Args:
        pointers: which tensors point, and into which.
    """

    def __init__(self, pointers: Pointers) -> None:
        self._pointers = pointers
        self._starts = dict.fromkeys(pointers, 0)

    def __call__(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the tensors of the next row; its values are tensors, or lists of those that are joined."""
        moved = {}
        for name, (of, places) in self._pointers.items():
            start = self._starts[name]
            if name in row and start:
                value = row[name]
                moved[name] = (
                    [_moved(each, start) for each in value] if isinstance(value, list) else _moved(value, start)
                )
            if of in row:
                parts = row[of] if isinstance(row[of], list) else [row[of]]
                self._starts[name] += places * sum(int(part.shape[0]) for part in parts)
        return {**row, **moved} if moved else row


def _moved(value: Any, start: int) -> Any:
    if isinstance(value, list):
        return [_moved(each, start) for each in value]
    if isinstance(value, Stored):
        return value._replace(array=_moved(value.array, start))
    if isinstance(value, np.ndarray):
        return np.where(value >= 0, value + start, value).astype(value.dtype)
    return value.where(value < 0, value + start)


def find_pointers(one: Mapping[str, Any], two: Mapping[str, Any]) -> Pointers:
    """Return which tensors point into others.

    Args:
        one: what a row becomes.
        two: what it becomes twice in one call.
    """
    found = {}
    for name, value in two.items():
        step = _step(one.get(name), value)
        # into patches, of which each picture has as many as the second dimension says; or into whole rows
        into = [(of, places) for of, tensor in one.items() if name != of for places in _places(tensor, step)]
        if into:
            found[name] = into[0]
    return found


def _step(one: Any, two: Any) -> int:
    """By how much the second half of a tensor of whole numbers is more than the first; 0 where that is not all."""
    import torch

    if not isinstance(one, torch.Tensor) or not isinstance(two, torch.Tensor) or not one.dim():
        return 0
    if (
        one.is_floating_point()
        or one.dtype == torch.bool
        or two.dtype != one.dtype
        or two.shape != (2 * len(one), *one.shape[1:])
        or not (one >= 0).any()
    ):
        return 0
    step = int((two[len(one) :] - one)[one >= 0][0])
    return step if step > 0 and same_values(two, torch.cat([one, _moved(one, step)])) else 0


def _places(tensor: Any, step: int) -> Sequence[int]:
    import torch

    if not step or isinstance(tensor, Nested) or not torch.is_tensor(tensor):
        return []
    if not tensor.is_floating_point() and tensor.dim() < 3:
        return []  # numbers of something; Molmo 2's frames are of uint8
    return [places for places in {tensor.shape[1] if tensor.dim() > 1 else 1, 1} if places * len(tensor) == step]
