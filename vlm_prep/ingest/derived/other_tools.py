"""LLaMA-Factory's dataset_info.json as a meta file: the same sets, columns and tags under our names.

What it says and is not read there (preference data, scripts, other hubs) is an InputError with the set's name, where
such a set is asked for. Axolotl's descriptions are in `axolotl`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import orjson

from vlm_prep.core.errors import InputError

NAME: Final = "dataset_info.json"
_MOST: Final = 64 << 20
_COLUMNS: Final = {
    **{name: name for name in ("messages", "system", "tools", "images", "videos", "audios", "history")},
    "prompt": "instruction",
    "query": "input",
    "response": "output",
}
_REFUSED: Final = {
    "ranking": "preference data (chosen and rejected answers)",
    "script_url": "a dataset script",
    "ms_hub_url": "a set of ModelScope",
    "om_hub_url": "a set of Openmind",
    "cloud_file_name": "a file of a cloud",
}
_READ: Final = frozenset(
    ("file_name", "hf_hub_url", "formatting", "columns", "tags", "split", "subset", "num_samples", "folder", *_REFUSED)
)
_ASKED: Final = "Name the sets to read with `datasets`, or write a meta JSON for this one."


def is_dataset_info(path: Path, value: Mapping[str, Any]) -> bool:
    """Whether a JSON object is LLaMA-Factory's description."""
    entries = [entry for entry in value.values() if isinstance(entry, dict)]
    own = ("formatting", "hf_hub_url", "ms_hub_url", "script_url", "ranking", "num_samples")
    return path.name == NAME or any(name in entry for entry in entries for name in own)


def described_in(folder: Path) -> Path:
    """Return the description in LLaMA-Factory's data folder; of another folder itself.

    A folder of `datasets` may hold a file of this name, too, which describes features and splits.
    """
    path = folder / NAME
    if not path.is_file() or path.stat().st_size > _MOST:
        return folder
    try:
        value = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError:
        return folder if (folder / "state.json").exists() else path  # what is wrong with it is said when it is read
    sets = value.values() if isinstance(value, dict) else ()
    names = ("file_name", "hf_hub_url", "ms_hub_url", "script_url")
    is_own = all(isinstance(each, dict) for each in sets) and any(name in each for each in sets for name in names)
    return path if is_own else folder


def as_meta(path: Path, value: Mapping[str, Any], asked: list[str]) -> dict[str, Any]:
    """Return a description as a meta file has it.

    Args:
        path: of the description.
        value: what it says.
        asked: the sets that will be read; the others are passed over as they are.

    Raises:
        InputError: a set that is asked for says something that is not read.
    """
    return {name: _entry(path, name, said) if name in asked else said for name, said in value.items()}


def _entry(path: Path, name: str, said: Any) -> Any:
    if not isinstance(said, dict):
        return said
    where = f"{path}: dataset {name!r}"
    for key, what in _REFUSED.items():
        if said.get(key) and (key == "ranking" or "file_name" not in said):
            raise InputError(f"{where} is {what}, which is not read", _ASKED)
    if unknown := sorted(said.keys() - _READ):
        raise InputError(f"{where}: {', '.join(unknown)} is not read", _ASKED)
    columns = {}
    for role, column in (said.get("columns") or {}).items():
        if role in ("chosen", "rejected", "kto_tag"):
            raise InputError(f"{where} has the column {role}: preference data, which is not read", _ASKED)
        if role not in _COLUMNS:
            raise InputError(f"{where}: the column role {role!r} is not read", _ASKED)
        columns[_COLUMNS[role]] = column
    file = said.get("file_name") or (f"hf:{said['hf_hub_url']}" if said.get("hf_hub_url") else None)
    if file is None:
        raise InputError(f"{where} names no file_name and no hf_hub_url", _ASKED)
    entry = {
        "file_name": file,
        "format": "sharegpt" if said.get("formatting") == "openai" else said.get("formatting", "alpaca"),
        "columns": columns,
        "tags": said.get("tags"),
    }
    entry |= {"split": said.get("split"), "subset": said.get("subset"), "limit": said.get("num_samples")}
    if not str(file).startswith("hf:") and not (path.parent / str(file)).is_dir():
        entry.pop("split")  # a file is read whole
    return {key: each for key, each in entry.items() if each not in (None, {})}
