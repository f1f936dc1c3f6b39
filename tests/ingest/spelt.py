"""Rows of few words, read under the settings of a tool."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vlm_prep.core.errors import Reject, RejectReason
from vlm_prep.core.records import Sample
from vlm_prep.ingest.formats import to_sample
from vlm_prep.ingest.spec import DatasetSpec

R = RejectReason
USER = {"role": "user", "content": "hi"}
ANSWER = {"role": "assistant", "content": "ho"}


def read(row: dict[str, Any], **options: Any) -> Sample:
    spec = DatasetSpec(name="d", file=Path("/d/d.jsonl"), file_name="d.jsonl", media_dir=Path("/m"), **options)
    return to_sample(row, spec, sample_id="d/0", source="d.jsonl", line=1)


def refused(row: dict[str, Any], **options: Any) -> tuple[RejectReason, str]:
    with pytest.raises(Reject) as caught:
        read(row, **options)
    assert " at 0x" not in caught.value.message
    return caught.value.reason, caught.value.message


def chat(*messages: Any, **columns: Any) -> dict[str, Any]:
    return {"messages": list(messages) or [USER, ANSWER], **columns}
