"""What `fuzz.py` gives changed inputs to: targets by name, and the small stores that they read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

Check = Callable[[bytes, Path], object]


@dataclass(frozen=True)
class Target:
    """Reads one kind of input."""

    name: str
    seeds: Callable[[], Sequence[bytes]]
    check: Check


TARGETS: dict[str, Target] = {}
STORES: dict[str, Path] = {}
"""Small stores of each form, made once."""


def target(name: str, seeds: Callable[[], Sequence[bytes]]) -> Callable[[Check], Check]:
    """Register a target: a function of (bytes, folder) that may raise VlmPrepError or Reject."""

    def register(check: Check) -> Check:
        TARGETS[name] = Target(name, seeds, check)
        return check

    return register


def files_of(name: str, *forms: str) -> list[bytes]:
    """Return the content of the files of such a name in stores of these forms."""
    return [path.read_bytes() for form in forms for path in sorted(STORES[form].glob(name))]
