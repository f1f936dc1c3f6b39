"""Real processors with a small part of their vocabulary, for tests that are not about text.

A vocabulary of 150,000 to 260,000 pieces takes most of the time that loading a processor takes. Kept are the single
characters of ASCII (with the blank's and the bytes' own signs), all added tokens, each under its own id, and what the
first merges make of them; templates, settings and code stay as they are.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

MERGES = 2000


def slim(folder: Path, out: Path) -> Path:
    """Write the processor of `folder` with a small vocabulary to `out`; return it.

    Args:
        folder: with a tokenizer.json that holds a BPE; one without is copied as it is.
        out: a folder that is not there.
    """
    shutil.copytree(folder, out)
    path = out / "tokenizer.json"
    if path.exists():
        written = json.loads(path.read_bytes())
        written["model"].update(_part_of(written["model"]))
        path.unlink()  # the copy may be read-only
        path.write_text(json.dumps(written))
    return out


def _part_of(model: dict[str, Any]) -> dict[str, Any]:
    vocabulary: dict[str, int] = model["vocab"]
    kept = {token for token in vocabulary if _is_base(token)}
    merges = []
    for merge in model["merges"]:
        first, second = merge.split(" ") if isinstance(merge, str) else merge
        if first in kept and second in kept and first.strip("\n") and second.strip("\n"):
            kept.add(first + second)
            merges.append(merge)
        if len(merges) == MERGES:
            break
    return {"vocab": {token: index for token, index in vocabulary.items() if token in kept}, "merges": merges}


def _is_base(token: str) -> bool:
    return (len(token) == 1 and (ord(token) < 0x180 or token == "▁")) or (token[0] == "<" and token[-1] == ">")
