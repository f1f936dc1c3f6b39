"""Rows of a source that changes, for the tests of updates."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from vlm_prep.builtin import builtin_data

PHOTOS = builtin_data().parent / "photos"
Rows = list[dict[str, Any]]


def row(number: int, photo: str | None = None) -> dict[str, Any]:
    """A row of text, or of a picture."""
    user = f"{'<image>' if photo else ''}What is {number}?"
    turns = [{"role": "user", "content": user}, {"role": "assistant", "content": f"It is {number}."}]
    return {"id": f"own-{number}", "messages": turns, **({"images": [photo]} if photo else {}), "score": number}


def rows_of(numbers: range) -> Rows:
    """Rows with a picture each fourth, some too long, some without their file, some without an answer."""
    found = []
    for number in numbers:
        made = row(number, f"{number % 5}.jpg" if number % 16 == 0 else None)
        if number % 97 == 9:
            made["messages"][1]["content"] = "word " * 2000
        if number % 89 == 3:
            made["images"], made["messages"][0]["content"] = ["gone.jpg"], "<image>?"
        if number % 83 == 5:
            made["messages"].pop()
        found.append(made)
    return found


class Source:
    """A data file with pictures beside it, that changes."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / "rows.jsonl"
        for number in range(5):
            shutil.copy(PHOTOS / "coffee.jpg", folder / f"{number}.jpg")

    def write(self, rows: Rows) -> None:
        self.path.write_text("".join(json.dumps(each) + "\n" for each in rows))
