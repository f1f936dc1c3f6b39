"""`vlm-prep explain` shows a row as the run reads it, step by step, to its end or its reject."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
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


def test_parts_of_files_and_videos_are_told_as_pictures_are(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(8000, np.float32), 8000)
    row = {"audio": "a.wav", "text": "hi", "start": 0.25, "end": 0.75}
    (tmp_path / "speech.jsonl").write_text(json.dumps(row) + "\n")
    shown = explained(tmp_path / "speech.jsonl", 0)
    assert "samples 4,000, sampling_rate 8,000, segment (2,000, 6,000)" in shown
    with av.open(str(tmp_path / "v.mp4"), "w") as file:
        stream = file.add_stream("mpeg4", rate=30)
        stream.width, stream.height = 64, 48
        for number in range(12):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), number, np.uint8), format="rgb24")
            frame.pts = number * (1 if number < 6 else 5)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    chat = {"messages": [{"role": "user", "content": "<video>q"}, {"role": "assistant", "content": "a"}]}
    (tmp_path / "video.jsonl").write_text(json.dumps(chat | {"video": "v.mp4"}) + "\n")
    shown = explained(tmp_path / "video.jsonl", 0)
    assert "total_frames 12" in shown and "times (0.0, " in shown and "... (12)), decoder pyav" in shown


def test_a_reject_names_flags(tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "label": 1}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    assert "--ignore-key label reads the row without it" in explained(tmp_path / "rows.jsonl", 0)


def test_steps_are_json(source: Path) -> None:
    steps = json.loads(explained(source, 0, "--json"))
    assert [step["step"] for step in steps] == ["row", "raw", "found", "read", "media 0"]
    assert steps[4]["facts"]["height"] == 84


@pytest.mark.parametrize("row", [3, "rows/9", "x"])
def test_a_row_that_is_not_there_is_an_error(source: Path, row: Any) -> None:
    with pytest.raises(InputError, match="no row"):
        explained(source, row)
