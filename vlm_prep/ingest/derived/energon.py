"""Energon's descriptions: the field map of a data set's tars (`.nv-meta/dataset.yaml`), and metadatasets (YAML).

    field_map:
      image: jpg                  the file of a sample with this ending
      context: json[question]     what its JSON says there
    splits:
      train: {blend: [{path: ./coco, weight: 5}, {path: ./coyo, weight: 2, split_part: val}]}

A mapped row has the attributes of the sample type as its columns. Those of a question with its answer (VQASample,
VidQASample) are a conversation as they are; what is asked of a caption or a text is said by `turn`. Weights are shares
of a mix, which Energon draws without an end and we until each set has given its rows (`mix_stop`); repetitions are a
`sample_ratio`. Code is not run (sample loaders, cookers, joiners): rows with such are read as they lie.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from vlm_prep.core.errors import InputError
from vlm_prep.core.regular_files import read_regular
from vlm_prep.core.visible import excerpt
from vlm_prep.core.yaml_text import YamlFault, read_yaml
from vlm_prep.ingest.splits import DEFAULT_SPLIT

_DATASET: Final = Path(".nv-meta", "dataset.yaml")
_ACCESS: Final = re.compile(r"(?P<ending>[\w.-]+)(?P<keys>(?:\[[^\[\]]+\])*)")
_KEY: Final = re.compile(r"\[([^\[\]]+)\]")
_TURNS: Final = {
    "VQASample": ["user=<image>{context}", "assistant={answers}"],
    "VidQASample": ["user=<video>{context}", "assistant={answers}"],
}
_HINT: Final = "Write a meta JSON with its sets and a mix (docs/sources.md)."
_TAGS: Final = frozenset(("subflavor", "subflavors", "shuffle_over_epochs_multiplier"))
"""What a metadataset says of a set that does not change which rows it has."""
_MIX: Final = "mix"
_LOG = logging.getLogger(__name__)
Fields = dict[str, tuple[str, tuple[str, ...]]]
"""Attribute of the sample type → the ending of its file, and the keys on the way in its JSON."""


def field_map(folder: Path) -> Fields | None:
    """Return the field map of a folder of tars; None where it has none.

    Raises:
        InputError: its dataset.yaml cannot be read.
    """
    said = _dataset(folder)
    written = said.get("field_map")
    if written is None:
        if code := [name for name in ("sample_loader", "part_filter") if said.get(name)]:
            _LOG.info("%s names code (%s), which is not run: rows are read as they lie", folder / _DATASET, code[0])
        return None
    where = f"{folder / _DATASET}: field_map"
    if not isinstance(written, Mapping) or not written:
        raise InputError(f"{where} is {excerpt(written)}, not attributes and endings", "For example: image: jpg.")
    return {str(name): _access(f"{where}: {name}", value) for name, value in written.items()}


def turns_of(folder: Path) -> list[str] | None:
    """Return the turns that a sample type means; None for one that is no question with its answer."""
    said = _dataset(folder)
    kind = said.get("sample_type")
    name = kind.get("__class__") if isinstance(kind, Mapping) else None
    return _TURNS.get(str(name)) if said.get("field_map") is not None else None


def _dataset(folder: Path) -> Mapping[str, Any]:
    path = folder / _DATASET
    return _read(path) if path.is_file() else {}


def _read(path: Path) -> Mapping[str, Any]:
    try:
        said = read_yaml(read_regular(path).decode())
    except (YamlFault, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as YAML: {error}") from error
    return said if isinstance(said, Mapping) else {}


def _access(where: str, written: object) -> tuple[str, tuple[str, ...]]:
    found = _ACCESS.fullmatch(written.strip()) if isinstance(written, str) else None
    if found is None:
        raise InputError(f"{where} is {excerpt(written)}, which is not read", "Read are jpg, txt and json[key][key].")
    return found["ending"].lower(), tuple(_KEY.findall(found["keys"]))


# ---- metadatasets ----


def metadataset(path: Path, given: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a metadataset as a meta file; None for another file.

    Args:
        path: of the file.
        given: what the user says of each of its sets; `split` is which of its splits is read, None is train.

    Raises:
        InputError: it has no such split, or says something that is not read.
    """
    if path.suffix.lower() not in (".yaml", ".yml") or not path.is_file():
        return None
    said = _read(path)
    if not str(said.get("__class__", "")).startswith("Metadataset"):
        return None
    found = _sets(path, said, given.get("split"))
    more = {name: value for name, value in given.items() if name != "split"}
    return {name: entry if name == _MIX else entry | more for name, entry in found.items()}


def _sets(path: Path, said: Mapping[str, Any], split: str | None) -> dict[str, Any]:
    splits = said.get("splits")
    if not isinstance(splits, Mapping) or not splits:
        raise InputError(f"{path}: a metadataset without splits", "It says splits: {train: {path: folder}}.")
    chosen = split or (DEFAULT_SPLIT if DEFAULT_SPLIT in splits or len(splits) > 1 else str(next(iter(splits))))
    if chosen not in splits:
        raise InputError(f"{path}: has no split {chosen!r}", f"It has: {', '.join(map(str, splits))}.")
    where, node = f"{path}: {chosen}", splits[chosen]
    if not isinstance(node, Mapping):
        raise InputError(f"{where} is {excerpt(node)}, not a path or a blend", _HINT)
    named = [name for name in ("path", "blend", "blend_epochized", "datasets") if name in node]
    if len(named) != 1:
        others = ", ".join(map(str, sorted(node.keys() - _TAGS))) or "nothing"
        raise InputError(
            f"{where} says {others}, which is not read", f"Read are path, blend and blend_epochized. {_HINT}"
        )
    how = named[0]
    sets = [node] if how == "path" else node[how]
    if not isinstance(sets, Sequence) or isinstance(sets, str) or not sets:
        raise InputError(f"{where}: {how} is {excerpt(sets)}, not a list of sets", _HINT)
    if how != "path" and (more := sorted(map(str, node.keys() - _TAGS - {how}))):
        raise InputError(f"{where}: {', '.join(more)} beside {how} is not read", _HINT)
    factor = {"path": None, "blend_epochized": "repetitions"}.get(how, "weight")
    found: dict[str, Any] = {}
    shares: dict[str, float] = {}
    for each in sets:
        entry = _entry(path, where, each, factor, "train" if chosen == DEFAULT_SPLIT else chosen)
        stem = Path(entry["file_name"]).stem
        name = next(name for name in _names(stem, entry.get("split")) if name not in found)
        number = _number(where, each, factor)
        found[name] = entry | ({"sample_ratio": number} if factor == "repetitions" and chosen == DEFAULT_SPLIT else {})
        shares[name] = number
    if factor == "weight" and chosen == DEFAULT_SPLIT and len(found) > 1:  # other splits are one set after the other
        found[_MIX] = {"shares": shares}
    return found


def _names(stem: str, split: str | None) -> list[str]:
    return [stem, f"{stem}_{split}", *(f"{stem}_{number}" for number in range(2, 1000))]


def _number(where: str, said: Mapping[str, Any], factor: str | None) -> float:
    value = 1 if factor is None else said.get(factor, 1)
    whole = factor == "repetitions"
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0 or (whole and value != int(value)):
        what = "a whole number above 0" if whole else "a number above 0"
        raise InputError(f"{where}: {factor} of {said['path']} is {excerpt(value)}, not {what}", _HINT)
    return float(value)


def _entry(path: Path, where: str, said: object, factor: str | None, split: str) -> dict[str, Any]:
    if not isinstance(said, Mapping) or not isinstance(said.get("path"), str):
        raise InputError(f"{where}: {excerpt(said)} has no path: blends in blends and joins are not read", _HINT)
    known = {"path", "split_part", *_TAGS, *([factor] if factor else [])}
    if other := sorted(map(str, said.keys() - known)):
        raise InputError(f"{where}: {', '.join(other)} of {said['path']} is not read", _HINT)
    place = said["path"]
    if Path(place).suffix.lower() in (".yaml", ".yml"):
        raise InputError(f"{where}: {place} is a metadataset in a metadataset, which is not read", _HINT)
    entry = {"file_name": place}
    if (path.parent / place).is_dir():  # a file is read whole
        entry["split"] = str(said.get("split_part", split))
    return entry
