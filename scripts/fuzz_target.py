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
    few: int
    """Inputs that take three or four seconds of a core."""


FEW = {
    "meta": 1200,
    "packed_text": 1000,
    "zip": 2000,
    "address": 3000,
    "run_file": 1200,
    "mix_file": 2500,
    "mapping": 2500,
    "rows_tar": 1000,
    "picture": 400,
    "sound": 150,
    "clip": 60,
    "template": 60,
    "manifest": 90,
    "shard": 60,
    "tar": 500,
    "origin": 1200,
    "listing": 1000,
    "bucket": 1000,
    "rejects": 1200,
    "state": 60,
}
"""By target; of others 600."""
TARGETS: dict[str, Target] = {}
STORES: dict[str, Path] = {}
"""Small stores of each form, made once."""


def target(name: str, seeds: Callable[[], Sequence[bytes]]) -> Callable[[Check], Check]:
    """Register a target: a function of (bytes, folder) that may raise VlmPrepError or Reject."""

    def register(check: Check) -> Check:
        TARGETS[name] = Target(name, seeds, check, FEW.get(name, 600))
        return check

    return register


def files_of(name: str, *forms: str) -> list[bytes]:
    """Return the content of the files of such a name in stores of these forms."""
    return [path.read_bytes() for form in forms for path in sorted(STORES[form].glob(name))]
