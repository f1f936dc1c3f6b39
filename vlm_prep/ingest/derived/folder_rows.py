"""Folders of pictures as rows: a text beside each of them, or the name of its folder.

    a/0001.jpg a/0001.txt       image, text (also .caption and .cap)
    a/0001.jpg a/0001.json      image, and the JSON's keys
    cat/0001.jpg                image, label: the folder, where no picture has a text

A picture without a text among others that have one is a row without it, which its reading rejects.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import orjson

from vlm_prep.media.places import natural_order

_PICTURES: Final = frozenset((".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"))
_TEXTS: Final = (".txt", ".caption", ".cap")


def sidecar_files(path: Path, split: str | None) -> list[Path]:
    """Return the pictures of a folder and the texts beside them; none where it holds no pictures, or tables."""
    below = path / split if split else path
    if not below.is_dir():
        return []
    found: list[Path] = []
    for folder, inner, names in os.walk(below):
        inner.sort(key=natural_order)
        files = [Path(folder, name) for name in sorted(names, key=natural_order)]
        if any(map(_holds_rows, files)):
            return []
        found += [file for file in files if file.suffix.lower() in (*_PICTURES, *_TEXTS, ".json")]
    return found if any(file.suffix.lower() in _PICTURES for file in found) else []


def _holds_rows(file: Path) -> bool:
    """Whether a file is data of its own, and no text beside a picture."""
    ending = file.suffix.lower()
    if ending == ".json":
        return not any(file.with_suffix(each).exists() for each in (*_PICTURES, *map(str.upper, _PICTURES)))
    return ending in (".parquet", ".arrow", ".jsonl", ".ndjson", ".csv", ".tsv")


def sidecars(base: Path, files: list[Path], split: str | None) -> Iterator[dict[str, Any] | str]:
    """Yield the rows of a folder of pictures."""
    texts = {file.with_suffix(""): file for file in files if file.suffix.lower() not in _PICTURES}
    pictures = [file for file in files if file.suffix.lower() in _PICTURES]
    has_texts = any(file.with_suffix("") in texts for file in pictures)
    for file in pictures:
        row: dict[str, Any] = {"image": os.path.relpath(file, base)}
        beside = texts.get(file.with_suffix(""))
        if beside is None:
            yield row if has_texts else row | {"label": file.parent.name}
            continue
        try:
            text = beside.read_text(encoding="utf-8")
            said = orjson.loads(text) if beside.suffix.lower() == ".json" else {"text": text.strip("\r\n")}
        except (UnicodeDecodeError, orjson.JSONDecodeError) as error:
            yield f"{os.path.relpath(beside, base)}: cannot be read: {error}"
            continue
        yield {**said, **row} if isinstance(said, dict) else {**row, "conversations": said}
