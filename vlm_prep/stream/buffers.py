"""Where a batch's large tensors are laid: one buffer for each, written once.

- In a loader's worker: memory that is shared with the main process, so the batch is not copied again on its way.
  torch unlinks its name as it makes it; nothing is left of a killed run.
- Else fresh memory, page-locked if asked for, so that copying to a GPU can overlap.
- Or, with `reuse`, one of a few buffers in turn: fresh pages cost the kernel more time than filling them (measured on
  24 MB batches: 2.5 GB/s into fresh pages, 9.5 GB/s into warm ones). A batch is then valid until `reuse` further ones
  have been made.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import get_worker_info


class Buffers:
    """Memory for batches.

    Args:
        reuse: buffers that are used in turn in the main process; 0 makes a fresh one each time.
        pin: page-lock them (needs CUDA; in the main process only, as CUDA's memory does not cross to workers).
    """

    def __init__(self, *, reuse: int = 0, pin: bool = False) -> None:
        self.reuse, self.pin = reuse, pin
        self._turn = 0
        self._kept: dict[tuple[str, int], Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"reuse": self.reuse, "pin": self.pin, "_turn": 0, "_kept": {}}

    def turn(self) -> None:
        """Begin a batch: go to the next buffers."""
        self._turn = (self._turn + 1) % max(1, self.reuse)

    def empty(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[torch.Tensor, NDArray[Any]]:
        """Return uninitialized memory for a batch's tensor `name`: the tensor, and numpy's view of it."""
        size = math.prod(shape) * dtype.itemsize
        if get_worker_info() is not None:
            storage = torch.UntypedStorage._new_shared(size)  # type: ignore[no-untyped-call]  # noqa: SLF001
            flat: torch.Tensor = torch.empty(0, dtype=torch.uint8).set_(storage, 0, (size,))  # type: ignore[call-overload]
            return self._shaped(flat, shape, dtype)
        if self.pin:
            # by torch's own tensors, which know that their memory is page-locked
            return self._shaped(self._kept_memory(name, size, self._pinned)[:size], shape, dtype)
        # numpy asks the kernel for huge pages, torch does not: filling is 20 % faster, fresh memory several times.
        # Its views are made in a microsecond, where torch's take 30 when other data fill the processor's cache.
        laid = self._kept_memory(name, size, self._huge)[:size].view(dtype).reshape(shape)
        return torch.from_numpy(laid), laid

    def _shaped(
        self, flat: torch.Tensor, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> tuple[torch.Tensor, NDArray[Any]]:
        tensor = flat.view(torch.from_numpy(np.empty(0, dtype)).dtype).view(shape)
        return tensor, tensor.numpy()

    def _kept_memory(self, name: str, size: int, make: Callable[[int], Any]) -> Any:
        """Return at least `size` bytes: this turn's, or fresh ones."""
        if not self.reuse:
            return make(size)
        kept = self._kept.get((name, self._turn))
        if kept is None or len(kept) < size:
            kept = self._kept[name, self._turn] = make(size)
        return kept

    def _huge(self, size: int) -> NDArray[np.uint8]:
        return np.empty(size, np.uint8)

    def _pinned(self, size: int) -> torch.Tensor:
        return torch.empty(size, dtype=torch.uint8, pin_memory=True)
