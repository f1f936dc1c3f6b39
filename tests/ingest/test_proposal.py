"""A mapping proposed for a table of which nothing is known reads its rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from vlm_prep.cli import main
from vlm_prep.cli.init import _lines
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


def pictures(folder: Path) -> Path:
    (folder / "train").mkdir()
    (folder / "train" / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "red"}\n')
    return folder


def mixed(folder: Path) -> Path:
    turns = [{"from": "user", "value": "q"}, {"from": "gpt", "value": "a"}]
    rows = [{"conversation": json.dumps(turns)}, {"query": "q", "response": "a"}, {"messages": turns}]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "rows.jsonl"


def table(folder: Path) -> Path:
    (folder / "rows.csv").write_text("question,answer\nq,a\n")
    return folder


def preset(folder: Path) -> str:
    (folder / "rows.jsonl").write_text('{"image": "a.png", "text": "red"}\n')
    return f"preset:rdr={folder / 'rows.jsonl'}"


@pytest.mark.parametrize("make", [pictures, mixed, table, preset])
def test_what_init_writes_reads_the_rows_as_it_saw_them(make: Any, tmp_path: Path) -> None:
    found = look(str(make(tmp_path)))
    written = yaml.safe_load("".join(_lines(found, None, tmp_path / "job.yaml")))
    options = {name: written["tokenize"][name] for name in ("mapping", "format") if name in written["tokenize"]}
    source = written["source"] if written["source"].startswith("preset:") else tmp_path / written["source"]
    samples = open_samples(source, **options)
    assert len(samples) == found.seen and not found.rejects
    assert all(isinstance(row, Sample) for row in samples.read(0, len(samples)))
