"""How much of a clip an audio processor takes: some cut at 30 s or 300 s, and say nothing.

What a processor cuts is found by asking it: of two clips of noise that differ in their last tenth of a second it makes
the same, if it does not take their end. That is done for lengths as rows need them, so that a run of short clips costs
nothing. Where the end is not taken, the limit is looked for among the numbers that the processor has (`n_samples`,
`max_length`, `chunk_length`), and where none of these is it, by halving.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vlm_prep.processors.processor_parts import part_of

if TYPE_CHECKING:
    from vlm_prep.processors.adapter import Adapter

Make = Callable[[NDArray[np.float32]], Mapping[str, Any]]
_STEPS = (15, 31, 61, 121, 301, 601)
"""Seconds that are tried, so that rows of about one length share the trial."""
_NAMES = ("n_samples", "max_length", "max_audio_length", "max_samples")


class AudioLimit:
    """The most samples of a clip that a processor takes.

    Args:
        part: the processor's part for audio.
        make: what it makes of a waveform, as the processor calls it.
        rate: samples a second.
    """

    def __init__(self, part: Any, make: Make, rate: int) -> None:
        self._part, self._make, self._rate = part, make, rate
        self._taken = 0
        self._limit: int | None = None

    def below(self, samples: int) -> int | None:
        """Return the limit if a clip of `samples` is longer than it, else None."""
        if self._limit is None and samples > self._taken:
            length = next((step * self._rate for step in _STEPS if samples <= step * self._rate), samples)
            if self._takes_end(length):
                self._taken = length
            else:
                self._limit = self._found(self._taken, length)
        return self._limit if self._limit is not None and samples > self._limit else None

    def known(self) -> int | None:
        """Return the limit that is found without a row, up to the longest that is tried; None for none."""
        self.below(_STEPS[-1] * self._rate)
        return self._limit

    def _found(self, taken: int, cut: int) -> int:
        for candidate in sorted(set(self._candidates())):
            if taken <= candidate < cut and self._takes_end(candidate) and not self._takes_end(candidate + 1, last=1):
                return candidate
        while cut - taken > 1:
            middle = (taken + cut) // 2
            if self._takes_end(middle, last=1):
                taken = middle
            else:
                cut = middle
        return taken

    def _takes_end(self, samples: int, last: int | None = None) -> bool:
        """Whether the last samples of a clip, a tenth of a second of them, change what is made of it."""
        wave = np.random.default_rng(0).normal(0, 0.1, samples).astype(np.float32)
        other = wave.copy()
        other[-(last or self._rate // 10) :] = 0.9
        one, two = self._make(wave), self._make(other)
        return any(not np.array_equal(np.asarray(one[name]), np.asarray(two[name])) for name in one)

    def _candidates(self) -> Iterator[int]:
        values = {**vars(self._part)}
        for name, parameter in inspect.signature(type(self._part).__call__).parameters.items():
            values.setdefault(name, parameter.default)
        for name in _NAMES:
            if isinstance(values.get(name), int) and values[name] > 0:
                yield values[name]
        if isinstance(values.get("chunk_length"), int | float):
            yield int(values["chunk_length"] * self._rate)


@lru_cache(maxsize=8)
def audio_limit(adapter: Adapter) -> AudioLimit:
    """Return what tells how much of a clip a processor takes."""
    found = part_of(adapter.hf, "audio")
    if found is None:
        raise ValueError(f"{adapter.family} takes no audio")
    part, kwargs = found[1], adapter.part_record("audio").kwargs
    return AudioLimit(part, lambda wave: part([wave], **kwargs), adapter.sampling_rate or 1)
