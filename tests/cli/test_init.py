"""`vlm-prep init`: the run file it writes for data it has never seen runs as it is."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from vlm_prep.builtin import builtin_data
from vlm_prep.cli import main

PROCESSOR = "builtin:qwen2.5-vl-mini"


def call(monkeypatch: pytest.MonkeyPatch, *words: object) -> object:
    monkeypatch.setattr(sys, "argv", ["vlm-prep", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        main.main()
    return ended.value.code


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with a data file whose media lie in a folder that nobody names."""
    source = builtin_data().parent
    folder = tmp_path / "data"
    (folder / "files" / "pictures").mkdir(parents=True)
    shutil.copy(source / "photo_talk.jsonl", folder / "talk.jsonl")
    for each in source.iterdir():
        if each.is_dir():
            shutil.copytree(each, folder / "files" / "pictures" / each.name)
    (folder / "small.jsonl").write_text((folder / "talk.jsonl").read_text().splitlines()[0] + "\n")
    return folder


def test_what_it_writes_is_commented_and_runs(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "jobs" / "job.yaml"
    assert call(monkeypatch, "init", data, "--processor", PROCESSOR, "--file", file) == 0
    text = file.read_text()
    written = yaml.safe_load(text)
    assert written["source"] == "../data/talk.jsonl" and "found, too: ../data/small.jsonl" in text
    assert written["tokenize"]["media_dir"] == "../data/files/pictures" and "# guessed: " in text
    assert "image" in text.splitlines()[1]
    capsys.readouterr()
    line = ("run", file, "--json", "-q", "--set", "tokenize.limit=4", "--set", "workers=1")
    assert call(monkeypatch, *line) == 0
    assert [each["rows_written"] for each in json.loads(capsys.readouterr().out)] == [4, 4]


def test_a_file_that_is_there_is_kept(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "job.yaml").write_text("mine")
    assert call(monkeypatch, "init", data / "talk.jsonl", "--file", tmp_path / "job.yaml") == 2
    assert (tmp_path / "job.yaml").read_text() == "mine"


def test_a_meta_file_says_how_its_data_sets_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "job.yaml"
    assert call(monkeypatch, "init", builtin_data(), "--file", file) == 0
    text = file.read_text()
    assert "format" not in yaml.safe_load(text)["tokenize"]
    assert "#   photo_talk: " in text


def test_a_folder_without_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert call(monkeypatch, "init", tmp_path, "--file", tmp_path / "job.yaml") == 2
    assert not (tmp_path / "job.yaml").exists()
