"""The proof starts from the row's own words: plain rows are read a second way."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vlm_prep.core.errors import ExactnessError
from vlm_prep.core.records import Sample
from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.ingest.row_source import RowSource
from vlm_prep.ingest.source import open_samples
from vlm_prep.tokenize.tokenize_run import tokenize
from vlm_prep.tokenize.verify.raw_rows import plain_messages

PARTS = [{"type": "text", "text": "Hi"}, {"type": "text", "text": " there"}]
PLAIN: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": " Hello. "}]},
    {"messages": [{"role": "user", "content": PARTS}, {"role": "assistant", "content": "Hello."}], "id": "7"},
    {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello."}]},
    {
        "messages": [
            {"role": "system", "content": ""},
            *({"role": each, "content": "x"} for each in ("user", "assistant")),
        ]
    },
]
OTHERS = [
    {
        "messages": [{"role": "user", "content": "<image>Hi"}, {"role": "assistant", "content": "Hello."}],
        "images": ["a"],
    },
    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello.", "weight": 0.5}]},
    {"messages": [{"role": "User", "content": "Hi"}]},
    {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
    ["no object"],
]


def test_only_the_plainest_forms_are_judged() -> None:
    assert [plain_messages(json.dumps(row)) is not None for row in [*PLAIN, *OTHERS]] == [True] * 4 + [False] * 5
    assert plain_messages(json.dumps(PLAIN[2])) == [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."},
    ]
    assert plain_messages("{") is None


def written(path: Path, row: dict[str, Any]) -> Path:
    path.write_text("\n".join([json.dumps(row)] * 3))
    return path


@pytest.mark.parametrize("row", PLAIN)
def test_plain_rows_are_stored_with_their_own_words(tmp_path: Path, options: Any, row: dict[str, Any]) -> None:
    samples = open_samples(written(tmp_path / "rows.jsonl", row))
    manifest = tokenize(samples, "builtin:qwen2.5-vl-mini", TokenizeConfig(), options(tmp_path / "out"))
    assert manifest is not None
    assert manifest.totals["rows_written"] == 3


@pytest.mark.parametrize("lost", [" there", "Hello"])
def test_words_that_are_lost_in_reading_stop_the_run(
    tmp_path: Path, options: Any, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    read = RowSource.read

    def careless(self: RowSource, start: int, stop: int) -> Any:
        for sample in read(self, start, stop):
            assert isinstance(sample, Sample)
            messages = json.loads(json.dumps(sample.messages).replace(lost, ""))
            yield replace(sample, messages=messages)

    monkeypatch.setattr(RowSource, "read", careless)
    samples = open_samples(written(tmp_path / "rows.jsonl", PLAIN[1]))
    with pytest.raises(ExactnessError, match="not what its row says"):
        tokenize(samples, "builtin:qwen2.5-vl-mini", TokenizeConfig(), options(tmp_path / "out"))
