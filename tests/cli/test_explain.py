"""`vlm-prep explain` shows a row as the run reads it, step by step, to its end or its reject."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from vlm_prep.cli.main import app
from vlm_prep.core.errors import InputError

PROCESSOR = "builtin:qwen2.5-vl-mini"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("explain")
    Image.new("RGB", (56, 84)).save(folder / "a.png")
    turns = [{"from": "Human", "value": "<image>What?"}, {"from": "gpt", "value": "A \x1b[2Jcup.", "loss_mask": 1}]
    rows: list[Any] = [
        {"conversations": turns, "image": "a.png", "score": 3},
        {"conversations": turns, "image": "gone.png"},
        {"conversations": [{"from": "narrator", "value": "x"}]},
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "rows.jsonl"


def explained(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["explain", *(str(each) for each in arguments)])
    if result.exception is not None:
        raise result.exception
    return result.output


def test_a_row_is_shown_from_its_text_to_its_labels(source: Path) -> None:
    shown = explained(source, 0, "-p", PROCESSOR)
    steps = ("row        rows/0, rows.jsonl:1", 'raw        {"conversations"', "format sharegpt, rows as lines")
    assert all(step in shown for step in steps)
    assert "role_tag 'from'" in shown
    assert "user: <image> 'What?'" in shown and "assistant: 'A \\x1b[2Jcup.'; train true" in shown
    assert "not read: row.score (3)" in shown and "another tool's name" in shown
    assert "height 84, width 56" in shown
    assert "⟦A \\x1b[2Jcup.<|im_end|>⟧" in shown and "[a.png x 6]" in shown and "\x1b" not in shown


def test_a_reject_ends_the_steps_with_its_reason(source: Path) -> None:
    assert explained(source, "rows/1").splitlines()[-1].startswith("rejected   missing_file: ")
    assert "rejected   unknown_role: message 1 has the role 'narrator'" in explained(source, 2)


def test_steps_are_json(source: Path) -> None:
    steps = json.loads(explained(source, 0, "--json"))
    assert [step["step"] for step in steps] == ["row", "raw", "found", "read", "media 0"]
    assert steps[4]["facts"]["height"] == 84


@pytest.mark.parametrize("row", [3, "rows/9", "x"])
def test_a_row_that_is_not_there_is_an_error(source: Path, row: Any) -> None:
    with pytest.raises(InputError, match="no row"):
        explained(source, row)
