"""A mapping proposed for a table of which nothing is known reads its rows."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from typer.testing import CliRunner

from vlm_prep.cli import main
from vlm_prep.cli.init import _lines
from vlm_prep.core.errors import InputError
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


def cuts(folder: Path) -> Path:
    """Cuts of Lhotse beside the longer lists that they are made of."""
    recording = {"id": "r", "sources": [{"type": "file", "channels": [0], "source": "a.wav"}], "duration": 9.0}
    said = [{"id": "s", "text": "said"}]
    cut = {"start": 1.0, "duration": 2.0, "channel": 0, "supervisions": said, "recording": recording}
    lists = {"cuts": [{"id": "c", **cut, "type": "MonoCut"}], "recordings": [{**recording, "note": 99 * "."}] * 99}
    for name, rows in lists.items():
        (folder / f"{name}.jsonl.gz").write_bytes(gzip.compress(b"\n".join(map(orjson.dumps, rows))))
    return folder


def pages(folder: Path) -> Path:
    (folder / "images").mkdir()
    (folder / "images" / "p.png").write_bytes(b"x")
    blocks = [{"order": 2, "html": "<table></table>"}, {"order": 1, "text": "Title"}]
    row = {"layout_dets": blocks, "page_info": {"image_path": "p.png", "page_no": 0}}
    (folder / "OmniDocBench.json").write_text(json.dumps([row]))
    return folder


def test_init_knows_rows_of_lhotse_and_omnidocbench_by_their_columns(tmp_path: Path) -> None:
    said = []
    for make in (cuts, pages):
        (tmp_path / make.__name__).mkdir()
        found = look(str(make(tmp_path / make.__name__)))
        written = yaml.safe_load("".join(_lines(found, None, tmp_path / "job.yaml")))
        media_dir = written["tokenize"].get("media_dir")
        (row,) = open_samples(written["source"], media_dir=media_dir and tmp_path / media_dir).read(0, 1)
        assert isinstance(row, Sample), row
        (media,) = row.media
        said.append((Path(media.uris[0]), media.start, media.end, row.messages[-1]["content"][0]["text"]))
    page = tmp_path / "pages" / "images" / "p.png", None, None, "Title\n\n<table></table>"
    assert said == [(tmp_path / "cuts" / "a.wav", 1.0, 3.0, "said"), page]


def test_init_looks_at_the_configuration_that_is_named(lookalikes: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="ihm"):
        look(str(lookalikes / "ami-configs"))
    found = look(str(lookalikes / "ami-configs"), subset="sdm", split="train")
    written = yaml.safe_load("".join(_lines(found, None, tmp_path / "job.yaml")))
    assert found.rows == 2 and {"subset": "sdm", "split": "train"}.items() <= written["tokenize"].items()


@pytest.mark.parametrize("make", [pictures, mixed, table, preset])
def test_what_init_writes_reads_the_rows_as_it_saw_them(make: Any, tmp_path: Path) -> None:
    found = look(str(make(tmp_path)))
    written = yaml.safe_load("".join(_lines(found, None, tmp_path / "job.yaml")))
    options = {name: written["tokenize"][name] for name in ("mapping", "format") if name in written["tokenize"]}
    source = written["source"] if written["source"].startswith("preset:") else tmp_path / written["source"]
    samples = open_samples(source, **options)
    assert len(samples) == found.seen and not found.rejects
    assert all(isinstance(row, Sample) for row in samples.read(0, len(samples)))
