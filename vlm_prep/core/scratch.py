"""Memory that is used again.

A kernel hands out large blocks as fresh pages, which it fills with zeros first: on virtual machines that takes longer
than filling them with data (measured: 0.3 to 0.9 ms for each MB, where a copy takes 0.1).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MOST_KEPT = 64 << 20


class Scratch:
    """One block, as large as what was asked for since the last `reset`, up to MOST_KEPT bytes."""

    def __init__(self) -> None:
        self._block = np.empty(0, np.uint8)
        self._used = 0

    def take(self, size: int) -> NDArray[np.uint8]:
        """Return memory of `size` bytes, with anything in it; valid until `reset`."""
        start, self._used = self._used, self._used + size
        if self._used <= self._block.size:
            return self._block[start : self._used]
        return np.empty(size, np.uint8)

    def reset(self) -> None:
        """Take everything back; nothing may use it any more."""
        if self._block.size < self._used <= MOST_KEPT:
            self._block = np.empty(self._used, np.uint8)
        self._used = 0
