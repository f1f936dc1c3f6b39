"""NeMo's tarred sets of speech → the rows of their manifests, sounds as `audio_3.tar::name`.

    audio_0.tar, audio_1.tar, ...
    tarred_audio_manifest.json            a row says its tar by `shard_id`; of one tar it need not
    sharded_manifests/manifest_3.json     or a manifest for each tar

Given as the folder, or as a range of tars in braces or in NeMo's own spelling (`audio__OP_0..3_CL_.tar`), of which the
rows of these tars are read. A sound of which several rows are parts lies in its tar once; NeMo names the further rows
`name-sub1.wav`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import orjson

from vlm_prep.core.regular_files import open_regular, read_regular
from vlm_prep.core.tar_members import tar_members
from vlm_prep.ingest.derived.tar_rows import expanded, spelt_range
from vlm_prep.media.places import natural_order

_WHOLE: Final = "tarred_audio_manifest.json"
_SHARDED: Final = "sharded_manifests"
_SHARD: Final = "shard_id"
_NUMBER: Final = re.compile(r"_(\d+)\.\w+\Z")
_PART: Final = re.compile(r"-sub\d+(?=\.\w+\Z)")


def folder_of(manifest: Path) -> Path:
    """Return the folder of a manifest of tars, which is the set; another source itself."""
    is_own = manifest.name == _WHOLE and any(manifest.parent.glob("audio_*.tar"))
    return manifest.parent if is_own else manifest


def nemo_files(path: Path, split: str | None) -> list[Path]:
    """Return the manifests and the tars of a set; none for another source, and no split of it."""
    folder, own = path, None
    if (name := spelt_range(path.name)) is not None:
        folder, own = path.parent, set(expanded(name))
    if split is not None or not folder.is_dir():
        return []
    whole = folder / _WHOLE
    manifests = [whole] if whole.is_file() else sorted((folder / _SHARDED).glob("manifest_*.json"))
    tars = [file for file in folder.glob("audio_*.tar") if own is None or file.name in own]
    if not manifests or not tars or (own is not None and len(own) != len(tars)):
        return []  # which of a range are missing is said where any range is read
    return sorted([*manifests, *tars], key=lambda file: natural_order(str(file)))


def nemo(base: Path, files: list[Path], split: str | None) -> Iterator[dict[str, Any] | str]:
    """Yield the rows of the manifests whose tars are read; of a row that cannot be what is wrong."""
    tars = {_number(file): file for file in files if file.suffix == ".tar"}
    names = {number: _names(file) for number, file in tars.items()}
    is_whole = len(tars) == len(list(base.glob("audio_*.tar")))
    for file in files:
        if file.suffix == ".tar":
            continue
        own = _number(file) if file.parent.name == _SHARDED else next(iter(tars)) if len(tars) == 1 else None
        for number, line in enumerate(read_regular(file).split(b"\n"), 1):
            if line.strip():
                row = _row(line, f"{os.path.relpath(file, base)}, line {number}", own, names)
                if isinstance(row, str) or is_whole or row[_SHARD] in tars:
                    yield row if isinstance(row, str) else {key: row[key] for key in row if key != _SHARD}


def _row(line: bytes, where: str, own: int | None, names: dict[int, frozenset[str]]) -> dict[str, Any] | str:
    try:
        row = orjson.loads(line)
        name, shard = row["audio_filepath"], row.get(_SHARD, own)
    except (orjson.JSONDecodeError, LookupError, TypeError, AttributeError) as error:
        return f"{where}: no row of a manifest: {error}"
    if not isinstance(shard, int):
        return f"{where}: no shard_id, which says in which of the tars {name} is"
    inner = name if name in names.get(shard, ()) else _PART.sub("", str(name))
    return {**row, _SHARD: shard, "audio_filepath": f"audio_{shard}.tar::{inner}"}


def _number(file: Path) -> int:
    found = _NUMBER.search(file.name)
    return -1 if found is None else int(found[1])


def _names(tar: Path) -> frozenset[str]:
    with open_regular(tar) as file:
        return frozenset(info.name for _, info in tar_members(file))
