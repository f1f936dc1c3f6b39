"""Rows of pictures for the tests of families, and the types of their fixtures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vlm_prep.core.records import Media, Message, Sample
from vlm_prep.processors.adapter import Adapter

REMOTE = ("kimi_vl", "nemotron_parse")
"""Processors of the kit whose code comes with them."""
Adapters = Callable[[str], Adapter]
Made = Callable[[str], Path]


def row(name: str, *media: Media) -> Sample:
    content = [{"type": item.kind} for item in media] + [{"type": "text", "text": "What is this?"}]
    messages: list[Message] = [
        {"role": "user", "content": content},
        {"role": "assistant", "content": [{"type": "text", "text": "A test."}]},
    ]
    return Sample(sample_id=name, dataset="rows", source="rows", line=1, messages=messages, media=media)


def picture(data: Path, name: str) -> Media:
    return Media(kind="image", uris=(str(data / "images" / name),))
