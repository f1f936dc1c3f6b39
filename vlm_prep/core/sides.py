"""Sides of a split by a stable hash of each row's sample_id: a row stays on its side whatever is added beside it, and
all documents and repeats of a row are on one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import xxhash

from vlm_prep.core.errors import InputError

Split = Sequence[tuple[str, float]]
"""(name, share) of each side, the shares 1 together."""
_OF_ROW: Final = re.compile(r"(?<=[0-9])(#[0-9]+)?(~[0-9]+)?$")
_EXAMPLE: Final = "for example: hash:train=0.98,validation=0.02"
_CLOSE: Final = 1e-9


def read_split(text: str) -> Split:
    """Read `hash:train=0.98,validation=0.02`.

    Raises:
        InputError: it is no such text.
    """
    rule, _, said = text.partition(":")
    found: dict[str, float] = {}
    for each in said.split(",") if rule == "hash" else ():
        name, _, share = each.partition("=")
        try:
            found[name.strip()] = float(share)
        except ValueError:
            found[name.strip()] = 0.0
    if not found or any(not name or not 0 < share <= 1 for name, share in found.items()):
        raise InputError(f"`split_by={text}`: expected a rule and names with shares above 0", _EXAMPLE)
    if abs(sum(found.values()) - 1) > _CLOSE:
        raise InputError(f"`split_by={text}`: the shares are {sum(found.values()):g} together, expected 1", _EXAMPLE)
    return tuple(found.items())


def bounds_of(split: Split, side: str) -> tuple[int, int]:
    """Return the hashes [low, high) of a side; the last one reaches to the end.

    Raises:
        InputError: there is no such side.
    """
    low = 0.0
    for number, (name, share) in enumerate(split):
        high = 1.0 if number == len(split) - 1 else low + share
        if name == side:
            return round(low * 2**64), round(high * 2**64)
        low = high
    raise InputError(f"`take={side}`: no such side", f"one of {', '.join(name for name, _ in split)}")


def is_between(bounds: tuple[int, int], sample_id: str) -> bool:
    """Whether the row of a sample_id is on the side with these bounds."""
    return bounds[0] <= xxhash.xxh3_64_intdigest(own_name(sample_id).encode()) < bounds[1]


def own_name(sample_id: str) -> str:
    """Return the name of the row that a document, or a repeat, is of."""
    return _OF_ROW.sub("", sample_id)
