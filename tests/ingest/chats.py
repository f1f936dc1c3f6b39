"""Rows of chats, and what reading one gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vlm_prep.core.errors import Reject, RejectReason
from vlm_prep.core.records import Sample
from vlm_prep.ingest.formats import to_sample
from vlm_prep.ingest.spec import FROM_VALUE_TAGS, DatasetSpec, Format

R = RejectReason
USER = {"role": "user", "content": "hi"}
ANSWER = {"role": "assistant", "content": "hello"}
LLAVA: dict[str, Any] = {"columns": {"messages": "conversations"}, "tags": FROM_VALUE_TAGS}


def convert(row: object, format: Format | None = "sharegpt", **options: Any) -> Sample:
    spec = DatasetSpec(
        name="d",
        file=Path("/data/d.json"),
        file_name="d.json",
        media_dir=Path("/m"),
        format=format,
        **options,
    )
    return to_sample(row, spec, sample_id="d/0", source="d.json", line=3)


def chat(*messages: Any, **columns: Any) -> dict[str, Any]:
    return {"messages": list(messages), **columns}


def asked(content: Any, **columns: Any) -> dict[str, Any]:
    return chat({"role": "user", "content": content}, ANSWER, **columns)


def rejected(row: object, format: Format | None = "sharegpt", **options: Any) -> tuple[RejectReason, str]:
    with pytest.raises(Reject) as caught:
        convert(row, format, **options)
    return caught.value.reason, caught.value.message


def texts(value: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": value}]


def uris(sample: Sample) -> list[str]:
    return [uri for media in sample.media for uri in media.uris]


IMAGE = {"type": "image"}


BARE = {"name": "add", "description": "adds", "parameters": {"type": "object"}}
