"""A mapping proposed for a table of which nothing is known reads its rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from vlm_prep.cli import main
from vlm_prep.core.records import Sample
from vlm_prep.ingest.look import look
from vlm_prep.ingest.mapping.proposal import proposed
from vlm_prep.ingest.source import open_samples

SETS: dict[str, list[tuple[str, list[str] | None]]] = {
    "rdr": [("user", ["<image>", "Describe this image."]), ("assistant", None)],
    "medpix": [("user", ["<image>", "What abnormality is visible (0)?"]), ("assistant", ["Subdural hematoma."])],
    "shopify": [("user", ["<image>", "Describe this image."]), ("assistant", ["Home > Mugs"])],
}


@pytest.mark.parametrize("name", [*SETS, "cord-v2"])
def test_a_table_without_a_conversation_gets_a_mapping(name: str, lookalikes: Path) -> None:
    found = look(str(lookalikes / name))
    assert found.mapping is not None
    samples = open_samples(lookalikes / name, mapping=found.mapping)
    rows = list(samples.read(0, len(samples)))
    assert all(isinstance(row, Sample) for row in rows), rows
    first = rows[0]
    assert isinstance(first, Sample)
    said = [
        (message["role"], [part.get("text", "<" + part["type"] + ">") for part in message["content"]])
        for message in first.messages
    ]
    for expected, (role, content) in zip(SETS.get(name, []), said, strict=False):
        assert expected[0] == role and expected[1] in (None, content)


def test_init_writes_it_down_and_the_run_file_reads_it(lookalikes: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()
    result = runner.invoke(main.app, ["init", str(lookalikes / "medpix"), "--file", "job.yaml"])
    assert result.exit_code == 0, result.output
    written = yaml.safe_load((tmp_path / "job.yaml").read_text())
    assert written["tokenize"]["mapping"]["images"] == "image_id"
    shown = runner.invoke(
        main.app, ["tokenize", "--config", "job.yaml", "--print-config", "-p", "builtin:qwen2.5-vl-mini"]
    )
    assert shown.exit_code == 0 and "image_id" in shown.output, shown.output


SPEECH = [{"user": ["audio", "Transcribe the audio."]}, {"assistant": "{sentence}"}]
CLIP = [{"user": ["video", "{q_question}"]}, {"assistant": {"pick": "captions"}}]


@pytest.mark.parametrize(
    ("row", "mapping"),
    [
        ({"wav_path": "a/b.wav", "sentence": "x"}, SPEECH),
        ({"clip": "a.mp4", "q_question": "?", "captions": ["a", "b"]}, CLIP),
        ({"score": 1}, None),
    ],
)
def test_what_is_proposed(row: dict[str, Any], mapping: Any) -> None:
    found = proposed(row)
    assert (found and found["turns"]) == mapping
