"""A finished store as the files that another trainer reads, whole or not there.

Everything is written into a folder beside the destination, forced to disk, and renamed: a killed export leaves such a
folder, which the next one removes, and never a part of a destination. Formats are in `export_formats`.
"""

from __future__ import annotations

import glob
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from vlm_prep.core.atomic_files import process_mark, sync_file, sync_folder
from vlm_prep.core.errors import InputError, OutputError
from vlm_prep.shards.object_store import StorePath
from vlm_prep.shards.reader import Store
from vlm_prep.trainers import export_formats as formats

Target = Literal["parquet", "llamafactory", "ms-swift", "megatron-indexed", "energon", "lance"]
WRITERS: Final[dict[Target, tuple[Callable[[Store, Path], int], tuple[str, ...]]]] = {
    "parquet": (formats.parquet, ("tokenize", "pack")),
    "llamafactory": (formats.llamafactory, ("tokenize",)),
    "ms-swift": (formats.ms_swift, ("tokenize",)),
    "megatron-indexed": (formats.megatron_indexed, ("tokenize", "pack")),
    "energon": (formats.energon, ("tokenize", "pack")),
    "lance": (formats.lance, ("tokenize", "pack")),
}
"""{target: what writes it, and the stages whose stores it takes}"""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written."""

    folder: Path
    to: Target
    rows: int
    files: int
    nbytes: int

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return {**vars(self), "folder": str(self.folder)}


def export(store: str | StorePath, to: Target, folder: Path) -> Exported:
    """Write a finished store in another form.

    Args:
        store: tokenized, or packed; all of its rows are written, in its order.
        to: the form.
        folder: the destination; there must be nothing.

    Raises:
        StoreError: the store cannot be read.
        InputError: it holds what the form has no place for.
        OutputError: the destination is there already, or cannot be written.
    """
    if folder.exists() or folder.is_symlink():
        raise OutputError(f"{folder} is there already", "export into another folder, or delete it first")
    write, stages = WRITERS[to]
    source = Store(store)
    if source.manifest.stage not in stages or source.manifest.extra.get("layout") == "index":
        made = "index of packs" if source.manifest.extra.get("layout") == "index" else source.manifest.stage
        raise InputError(f"{store} is a store of {made}; {to} is written of: {', '.join(stages)}", _HINTS[to])
    folder = Path(os.path.abspath(folder))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_left(folder)
        aside = folder.with_name(f".{folder.name}.{process_mark()}.partial")
        aside.mkdir()
    except OSError as error:
        raise OutputError(f"cannot write beside {folder}: {error.strerror or error}") from error
    try:
        rows = write(source, aside)
        files = [path for path in sorted(aside.rglob("*")) if path.is_file()]
        for path in files:
            sync_file(path)
        for path in (*(path for path in sorted(aside.rglob("*")) if path.is_dir()), aside):
            sync_folder(path)
        size = sum(path.stat().st_size for path in files)
        os.rename(aside, folder)
        sync_folder(folder.parent)
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return Exported(folder=folder, to=to, rows=rows, files=len(files), nbytes=size)


_HINTS: Final[dict[Target, str]] = {
    "parquet": "pack with `layout=ranks` for packs with their media in them",
    "llamafactory": "give the tokenized store: LLaMA-Factory packs by itself (neat_packing)",
    "ms-swift": "give the tokenized store: ms-swift packs by itself",
    "megatron-indexed": "pack with `layout=ranks`",
    "energon": "pack with `layout=ranks` for packs with their media in them",
    "lance": "pack with `layout=ranks` for packs with their media in them",
}


def _remove_left(folder: Path) -> None:
    """Remove what killed exports to this folder left on this machine."""
    host = process_mark().rpartition("-")[0]
    for left in folder.parent.glob(f".{glob.escape(folder.name)}.{glob.escape(host)}-*.partial"):
        number = left.name.removesuffix(".partial").rpartition("-")[2]
        if number.isdigit() and not _runs(int(number)):
            shutil.rmtree(left)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return process != os.getpid()
