"""Messages of plain parts take a shorter way; what it makes of them is what the long way makes."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from vlm_prep.core.records import Sample
from vlm_prep.ingest.formats import row_turns
from vlm_prep.ingest.source import open_samples

PARTS: list[Any] = [
    {"type": "text", "text": "a"},
    {"type": "text", "text": "<image>"},
    {"type": "text", "text": "<img>x.png</img>"},
    {"type": "text", "text": ""},
    {"type": "image"},
    {"type": "video"},
    {"type": "text", "text": "b", "train": True},
    {"type": "image", "image": "own.png"},
    {"type": "text", "text": None},
    "c",
    None,
]


def rows() -> list[dict[str, Any]]:
    answer = {"role": "assistant", "content": [{"type": "text", "text": "z"}]}
    media: list[dict[str, Any]] = [{}, {"images": ["1.png"]}, {"images": ["1.png", "2.png"], "videos": ["v.mp4"]}]
    return [
        {"messages": [{"role": role, "content": [first, second]}, answer], **columns}
        for first, second in itertools.product(PARTS, PARTS)
        for role in ("user", "assistant")
        for columns in media
    ]


def test_both_ways_make_the_same_of_every_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows()))
    taken = []
    for name in ("short", "long"):
        if name == "long":
            monkeypatch.setattr(row_turns, "plain_parts", lambda parts, role, queue: None)
        samples = open_samples(path, format="messages")
        taken.append([repr(each) for each in samples.read(0, len(samples))])
    assert taken[0] == taken[1]
    samples = open_samples(path, format="messages")
    assert sum(isinstance(each, Sample) for each in samples.read(0, len(samples))) > 50
