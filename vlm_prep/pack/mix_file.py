"""A mix of finished stores as a file: which rows of which stores, and how many of each.

    stores:
      - store: out/photos            # relative to this file
        weight: 2                    # a share of `rows`; or ratio: 0.5, or count: 10000
        where: tokens < 4096 and kind == "image"
        not_rejected_in: [out/other] # rows that another store rejected are left out, too
      - store: out/talks
        weight: 1
    rows: 100000                     # of the stores with weights together; default: as many rows as these have
    seed: 0                          # of what is drawn
    duplicates: drop                 # rows with the same ids, labels and media as an earlier one
    similar_pictures: 4              # rows with a picture within 4 bits of an earlier one's perceptual hash
    split: {train: 0.98, validation: 0.02}
    take: train                      # one side of the split, by a stable hash of the sample_id

Paths aside, the file and the fingerprints of the stores are what a mix is.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from vlm_prep.core.errors import InputError
from vlm_prep.core.fields import did_you_mean
from vlm_prep.core.regular_files import read_given
from vlm_prep.core.remote import is_remote
from vlm_prep.core.visible import excerpt
from vlm_prep.core.yaml_text import YamlFault, read_yaml

SUFFIXES: Final = (".yaml", ".yml")
_KEYS: Final = ("stores", "rows", "seed", "duplicates", "similar_pictures", "split", "take")
_PART_KEYS: Final = ("store", "weight", "ratio", "count", "where", "not_rejected_in")
_AMOUNTS: Final = ("weight", "ratio", "count")
_MOST_BITS: Final = 16


@dataclass(frozen=True, kw_only=True)
class Part:
    """What is taken of one store."""

    store: str
    """A folder, or a place on an object store."""
    weight: float | None = None
    ratio: float | None = None
    """Of its rows; above 1 rows are taken more than once."""
    count: int | None = None
    """Rows; more than it has are taken more than once."""
    where: str | None = None
    """See `mix_filter`."""
    not_rejected_in: tuple[str, ...] = ()
    """Stores whose rejects are left out, by sample_id."""

    def settings(self) -> dict[str, Any]:
        """Return all but its place."""
        return {name: getattr(self, name) for name in (*_AMOUNTS, "where")}


@dataclass(frozen=True, kw_only=True)
class MixFile:
    """What a mix file says."""

    path: Path
    parts: tuple[Part, ...]
    rows: int | None = None
    seed: int = 0
    drop_duplicates: bool = False
    similar_pictures: int | None = None
    """Bits in which perceptual hashes of pictures may differ that count as the same."""
    split: tuple[tuple[str, float], ...] = ()
    take: str | None = None

    def settings(self) -> dict[str, Any]:
        """Return all that decides which rows are taken, without places."""
        return {
            "parts": [part.settings() for part in self.parts],
            "rows": self.rows,
            "seed": self.seed,
            "duplicates": "drop" if self.drop_duplicates else "keep",
            "similar_pictures": self.similar_pictures,
            "split": [list(each) for each in self.split],
            "take": self.take,
        }


def is_mix(path: object) -> bool:
    """Whether a source is a mix file, by its name."""
    return str(path).endswith(SUFFIXES) and not is_remote(str(path))


def read_mix(path: str | Path) -> MixFile:
    """Read a mix file.

    Raises:
        InputError: it cannot be read, or something of it is not usable.
    """
    path = Path(path)
    try:
        found = read_yaml(read_given(path))
    except (OSError, UnicodeDecodeError, YamlFault) as error:
        raise InputError(f"{path}: cannot be read as a mix file: {error}", "give a file in YAML") from error
    _known(path, "the file", found, _KEYS)
    parts = found.get("stores")
    if not isinstance(parts, list) or not parts:
        raise InputError(f"{path}: names no stores", "write a list under stores:, each with a line store: FOLDER")
    split = _split(path, found.get("split"), found.get("take"))
    duplicates = found.get("duplicates", "keep")
    if duplicates not in ("keep", "drop"):
        raise InputError(f"{path}: duplicates: expected keep or drop, found {excerpt(duplicates)}")
    similar = found.get("similar_pictures")
    if similar is not None and not (type(similar) is int and 0 <= similar <= _MOST_BITS):
        raise InputError(f"{path}: similar_pictures: expected a number of bits from 0 to {_MOST_BITS}")
    return MixFile(
        path=path,
        parts=tuple(_part(path, number, part) for number, part in enumerate(parts)),
        rows=_number(path, "rows", found.get("rows"), whole=True),
        seed=_seed(path, found.get("seed", 0)),
        drop_duplicates=duplicates == "drop",
        similar_pictures=similar,
        split=split,
        take=found.get("take"),
    )


def _part(path: Path, number: int, written: Any) -> Part:
    where = f"stores[{number}]"
    _known(path, where, written, _PART_KEYS)
    store = written.get("store")
    if not isinstance(store, str) or not store:
        raise InputError(f"{path}: {where} names no store", "write a line store: FOLDER")
    given = [name for name in _AMOUNTS if written.get(name) is not None]
    if len(given) > 1:
        raise InputError(f"{path}: {where}: {' and '.join(given)} exclude each other", "leave one")
    expression = written.get("where")
    if expression is not None and not isinstance(expression, str):
        raise InputError(f"{path}: {where}.where is no text")
    place = _place(path, store)
    others = written.get("not_rejected_in") or []
    if not isinstance(others, list) or not all(isinstance(other, str) and other for other in others):
        raise InputError(f"{path}: {where}.not_rejected_in: expected a list of stores")
    return Part(
        store=place,
        not_rejected_in=tuple(_place(path, other) for other in others),
        weight=_number(path, f"{where}.weight", written.get("weight")),
        ratio=_number(path, f"{where}.ratio", written.get("ratio")),
        count=_number(path, f"{where}.count", written.get("count"), whole=True),
        where=expression,
    )


def _place(path: Path, store: str) -> str:
    return store if is_remote(store) else os.path.normpath(path.parent / os.path.expanduser(store))


def _known(path: Path, where: str, found: Any, keys: tuple[str, ...]) -> None:
    if not isinstance(found, Mapping):
        raise InputError(f"{path}: {where} is no table of keys and values", f"it may have: {', '.join(keys)}")
    for key in found:
        if key not in keys:
            hint = f"it may have: {', '.join(keys)}.{did_you_mean(str(key), keys)}"
            raise InputError(f"{path}: {where} has an unknown key {excerpt(key)}", hint)


def _number(path: Path, where: str, value: Any, *, whole: bool = False) -> Any:
    if value is None:
        return None
    kinds = (int,) if whole else (int, float)
    if type(value) not in kinds or not 0 < value < 1e15:
        raise InputError(
            f"{path}: {where}: expected a {'whole number' if whole else 'number'} above 0, found {excerpt(value)}"
        )
    return value


def _seed(path: Path, value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise InputError(f"{path}: seed: expected a whole number from 0, found {excerpt(value)}")
    return value


def _split(path: Path, split: Any, take: Any) -> tuple[tuple[str, float], ...]:
    if split is None:
        if take is not None:
            raise InputError(f"{path}: take without split", "write for example split: {train: 0.98, validation: 0.02}")
        return ()
    if not isinstance(split, Mapping) or not all(type(share) in (int, float) and share > 0 for share in split.values()):
        raise InputError(f"{path}: split: expected names with shares, e.g. {{train: 0.98, validation: 0.02}}")
    if abs(sum(split.values()) - 1) > 1e-9:
        raise InputError(f"{path}: split: the shares are {sum(split.values()):g} together, expected 1")
    if take not in split:
        raise InputError(f"{path}: take: expected one of {', '.join(map(str, split))}, found {excerpt(take)}")
    return tuple((str(name), float(share)) for name, share in split.items())
