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
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
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
        self._kept: dict[tuple[str, int], torch.Tensor] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"reuse": self.reuse, "pin": self.pin, "_turn": 0, "_kept": {}}

    def turn(self) -> None:
        """Begin a batch: go to the next buffers."""
        self._turn = (self._turn + 1) % max(1, self.reuse)

    def empty(self, name: str, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """Return uninitialized memory for a batch's tensor `name`."""
        size = math.prod(shape) * dtype.itemsize
        if get_worker_info() is not None:
            storage = torch.UntypedStorage._new_shared(size)  # type: ignore[no-untyped-call]
            return torch.empty(0, dtype=dtype).set_(storage, 0, tuple(shape))  # type: ignore[call-overload, no-any-return]
        if not self.reuse:
            return self._memory(size).view(dtype).view(tuple(shape))
        kept = self._kept.get((name, self._turn))
        if kept is None or kept.numel() < size:
            kept = self._memory(size)
            self._kept[name, self._turn] = kept
        return kept[:size].view(dtype).view(tuple(shape))

    def _memory(self, size: int) -> torch.Tensor:
        if self.pin:
            return torch.empty(size, dtype=torch.uint8, pin_memory=True)
        # numpy asks the kernel for huge pages, torch does not: filling is 20 % faster, fresh memory several times
        return torch.from_numpy(np.empty(size, np.uint8))
